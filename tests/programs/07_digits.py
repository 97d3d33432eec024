"""Handwritten digits: a Dataset, DataLoaders, training and validation, accuracy, early stopping on the best model."""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, random_split

from fastgrad.data import load_digits  # NumPy arrays

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Digits(Dataset):
    def __init__(self, images, labels, transform=None):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = torch.from_numpy(self.images[index])
        if self.transform:
            image = self.transform(image)
        return image, int(self.labels[index])


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.flatten = nn.Flatten()
        self.layers = nn.Sequential(
            nn.Linear(64, 48),
            nn.ReLU(),
            nn.Linear(48, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        )

    def forward(self, x):
        return self.layers(self.flatten(x))


def train_one_epoch(model, loader, loss_fn, optimizer):
    model.train()
    total = 0.0
    for inputs, targets in loader:
        inputs, targets = inputs.to(device), targets.to(device)
        loss = loss_fn(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * inputs.size(0)
    return total / len(loader.dataset)


@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    correct, loss = 0, 0.0
    for inputs, targets in loader:
        outputs = model(inputs)
        _, predicted = torch.max(outputs, 1)
        correct += (predicted == targets).sum().item()
        loss += F.cross_entropy(outputs, targets, reduction="sum").item()
    return correct / len(loader.dataset), loss / len(loader.dataset)


def main():
    images, labels = load_digits()
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order].reshape(-1, 8, 8), labels[order]
    dataset = Digits(images, labels, transform=lambda image: image / 16.0)
    train_set, valid_set = Subset(dataset, range(1400)), Subset(dataset, range(1400, len(dataset)))
    train_loader = DataLoader(train_set, batch_size=64)
    valid_loader = DataLoader(valid_set, batch_size=256)
    image, label = dataset[0]
    print(image.shape == (8, 8), label, len(train_loader), len(valid_loader), len(dataset))

    model = Classifier().to(device)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, nn.Linear):
            weight = rng.normal(0, (2 / layer.in_features) ** 0.5, tuple(layer.weight.shape))
            layer.weight.data.copy_(torch.from_numpy(weight))
            nn.init.zeros_(layer.bias)
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found, best, best_accuracy = [], None, 0.0
    for epoch in range(5):
        train_loss = train_one_epoch(model, train_loader, loss_fn, optimizer)
        accuracy, valid_loss = evaluate(model, valid_loader)
        if accuracy > best_accuracy:
            best_accuracy, best = accuracy, copy.deepcopy(model.state_dict())
        found += [train_loss, valid_loss, accuracy]
        print(f"epoch {epoch + 1}: {type(train_loss).__name__} {100 * accuracy:.0f}%")
    assert best_accuracy > 0.9
    model.load_state_dict(best)
    assert evaluate(model, valid_loader)[0] == best_accuracy
    confusion = torch.zeros(10, 10, dtype=torch.int64)
    with torch.no_grad():
        for inputs, targets in valid_loader:
            for truth, guess in zip(targets.view(-1), model(inputs).argmax(dim=1)):
                confusion[truth, guess] += 1
    assert confusion.sum() == len(valid_set)
    per_class = confusion.diag().float() / confusion.sum(1)
    found.append(per_class.min().item())

    # shuffling: every sample once, in an order that the generator's seed decides
    tensors = TensorDataset(torch.arange(20), torch.arange(20) ** 2)
    torch.manual_seed(7)
    first = torch.cat([x for x, _ in DataLoader(tensors, batch_size=6, shuffle=True)])
    torch.manual_seed(7)
    second = torch.cat([x for x, _ in DataLoader(tensors, batch_size=6, shuffle=True)])
    print(torch.equal(first, second), sorted(first.tolist()) == list(range(20)), torch.equal(first, torch.arange(20)))
    a, b = random_split(tensors, [15, 5])
    print(len(a), len(b), sorted(int(x) for part in (a, b) for x, _ in part) == list(range(20)))
    print([len(x) for x, y in DataLoader(tensors, batch_size=6, drop_last=True)])
    x, y = next(iter(DataLoader(tensors, batch_size=4)))
    print(x, y)
    return found


if __name__ == "__main__":
    print(main())
