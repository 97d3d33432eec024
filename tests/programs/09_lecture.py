"""The lecture on backpropagation: y = x w by hand, by autograd and by a module, and a net of two layers."""

import numpy as np
import torch
from torch import nn
from torch.autograd import Variable

x_data = [1.0, 2.0, 3.0]
y_data = [2.0, 4.0, 6.0]


def by_hand():
    w = 1.0
    losses = []
    for _ in range(100):
        for x_val, y_val in zip(x_data, y_data):
            w = w - 0.01 * 2 * x_val * (x_val * w - y_val)
        losses.append((x_val * w - y_val) ** 2)
    return [losses[0], losses[-1], w * 4]


def by_autograd():
    w = torch.tensor([1.0], requires_grad=True)

    def forward(x):
        return x * w

    def loss(y_pred, y_val):
        return (y_pred - y_val) ** 2

    print("before training", 4, forward(4).item())
    found = []
    for epoch in range(100):
        for x_val, y_val in zip(x_data, y_data):
            y_pred = forward(x_val)
            l = loss(y_pred, y_val)
            l.backward()
            w.data = w.data - 0.01 * w.grad.item()
            w.grad.data.zero_()
        if epoch % 20 == 0:
            found.append(l.item())
    print(f"after training: {forward(4).item():.4f}")
    return [*found, forward(4).item()]


class Model(nn.Module):
    def __init__(self):
        super(Model, self).__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, x):
        return self.linear(x)


def by_module():
    x, y = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[2.0], [4.0], [6.0]])
    model = Model()
    model.linear.weight.data.fill_(0.3)
    model.linear.bias.data = torch.tensor([0.1])
    criterion = torch.nn.MSELoss(reduction="sum")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found = []
    for epoch in range(500):
        y_pred = model(x)
        loss = criterion(y_pred, y)
        if epoch % 100 == 0:
            found.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    answer = model(torch.tensor([[4.0]])).data[0][0].item()
    assert abs(answer - 8) < 0.05
    return [*found, answer]


def logistic():
    """Hours of study against a passed exam."""
    x, y = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    model = Model()
    nn.init.constant_(model.linear.weight, 0.2)
    nn.init.constant_(model.linear.bias, -0.1)
    criterion = nn.BCELoss(reduction="mean")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(1000):
        loss = criterion(torch.sigmoid(model(x)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    hours = model(torch.tensor([[1.0], [7.0]])).sigmoid()
    print((hours > 0.5).tolist(), f"{hours[1].item() > 0.5}")
    return [loss.item(), *hours.flatten().tolist()]


def two_layers():
    """Forward and backward written out with products, against autograd."""
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.normal(size=(64, 100))), torch.from_numpy(rng.normal(size=(64, 10)))
    w1, w2 = torch.from_numpy(rng.normal(size=(100, 30))), torch.from_numpy(rng.normal(size=(30, 10)))
    v1, v2 = w1.clone().requires_grad_(), Variable(w2.clone(), requires_grad=True)
    found = []
    for t in range(150):
        h = x.mm(w1)
        h_relu = h.clamp(min=0)
        y_pred = h_relu.mm(w2)
        loss = (y_pred - y).pow(2).sum().item()
        grad_y_pred = 2.0 * (y_pred - y)
        grad_w2 = h_relu.t().mm(grad_y_pred)
        grad_h = grad_y_pred.mm(w2.t()).clone()
        grad_h[h < 0] = 0
        grad_w1 = x.t().mm(grad_h)
        w1 -= 1e-5 * grad_w1
        w2 -= 1e-5 * grad_w2

        automatic = (x.mm(v1).clamp(min=0).mm(v2) - y).pow(2).sum()
        automatic.backward()
        with torch.no_grad():
            for w in (v1, v2):
                w -= 1e-5 * w.grad
                w.grad.zero_()
        assert abs(automatic.item() - loss) < 1e-9 * loss
        if t % 50 == 49:
            found.append(loss)
    assert found[-1] < found[0]
    return found


def main():
    return by_hand() + by_autograd() + by_module() + logistic() + two_layers()


if __name__ == "__main__":
    print(main())
