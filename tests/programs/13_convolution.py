"""A convolutional net for handwritten digits."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from fastgrad.data import load_digits  # NumPy arrays


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(in_channels=8, out_channels=12, kernel_size=3)
        self.fc1 = nn.Linear(12 * 2 * 2, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = F.relu(self.conv2(x))
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        return self.fc2(x)


def main():
    images, labels = load_digits()
    order = np.random.default_rng(0).permutation(len(labels))
    x = torch.from_numpy(images[order].reshape(-1, 1, 8, 8) / 16)
    y = torch.from_numpy(labels[order])
    x = (x - x.mean()) / x.std()
    train = DataLoader(TensorDataset(x[:1024], y[:1024]), batch_size=32)
    net = Net()
    print(net)
    print(sum(p.numel() for p in net.parameters()))
    rng = np.random.default_rng(1)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("bias"):
                p.zero_()
            else:
                p.copy_(torch.from_numpy(rng.normal(0, p[0].numel() ** -0.5, tuple(p.shape))))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    found = []
    for epoch in range(2):
        running_loss = 0.0
        for i, data in enumerate(train, 0):
            inputs, targets = data
            optimizer.zero_grad()
            outputs = net(inputs)
            loss = criterion(outputs, targets)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            if i % 16 == 15:
                found.append(running_loss / 16)
                running_loss = 0.0
        print(f"epoch {epoch + 1} done")
    net.eval()
    with torch.no_grad():
        scores = net(x[1024:])
        correct = (scores.argmax(1) == y[1024:]).float().mean()
    assert found[-1] < 0.5 * found[0]
    assert correct > 0.85
    pooled = F.adaptive_avg_pool2d(x[:2], 1).flatten()
    blurred = F.conv2d(x[:1], torch.full((1, 1, 3, 3), 1 / 9), padding="same")
    return [*found, correct.item(), *pooled.tolist(), blurred.abs().max().item(), F.avg_pool2d(x[:1], 4).sum().item()]


if __name__ == "__main__":
    print(main())
