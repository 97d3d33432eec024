"""A net whose depth and terms change from call to call, with weights that are used several times."""

import random

import numpy as np
import torch


class DynamicNet(torch.nn.Module):
    """A cubic with, now and then, a term of fourth order, of fourth and fifth, and with one coefficient for both."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.b = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.c = torch.nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
        self.d = torch.nn.Parameter(torch.tensor(-0.1, dtype=torch.float64))
        self.e = torch.nn.Parameter(torch.tensor(0.01, dtype=torch.float64))

    def forward(self, x):
        y = self.a + self.b * x + self.c * x ** 2 + self.d * x ** 3
        for exp in range(4, random.randint(4, 6)):
            y = y + self.e * x ** exp
        return y

    def string(self):
        return f"y = {self.a.item()} + {self.b.item()} x + {self.c.item()} x^2 + {self.d.item()} x^3"


class Repeated(torch.nn.Module):
    """The middle layer once, twice or more times: until the mean activation is small, and at most `limit` times."""

    def __init__(self, limit=4):
        super().__init__()
        self.first = torch.nn.Linear(2, 10)
        self.middle = torch.nn.Linear(10, 10)
        self.last = torch.nn.Linear(10, 1)
        self.limit = limit

    def forward(self, x):
        h = self.first(x).clamp(min=0)
        for count in range(self.limit):
            h = self.middle(h).clamp(min=0)
            if h.mean() < 0.3:
                break
        return self.last(h), count + 1


def main():
    random.seed(4)
    x = torch.linspace(-1, 1, 500, dtype=torch.float64)
    y = torch.sin(3 * x)
    model = DynamicNet()
    criterion = torch.nn.MSELoss(reduction="sum")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    found = []
    for t in range(1200):
        loss = criterion(model(x), y)
        if t % 200 == 199:
            found.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert found[-1] < found[0]
    print(model.string()[:8])

    rng = np.random.default_rng(9)
    net = Repeated()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.from_numpy(rng.uniform(-0.6, 0.6, tuple(p.shape))))
    points = torch.from_numpy(rng.normal(size=(30, 2)).astype(np.float32))
    target = (points[:, :1] * points[:, 1:]).tanh()
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    used = []
    for _ in range(80):
        out, count = net(points)
        used.append(count)
        loss = ((out - target) ** 2).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    print(sorted(set(used)))

    # one matrix as the embedding and as the output layer
    tied = torch.nn.ModuleDict({"embed": torch.nn.Embedding(7, 4), "out": torch.nn.Linear(4, 7, bias=False)})
    tied["out"].weight = tied["embed"].weight
    with torch.no_grad():
        tied["embed"].weight.copy_(torch.from_numpy(rng.normal(size=(7, 4))))
    tokens = torch.tensor([0, 3, 3, 6])
    scores = tied["out"](tied["embed"](tokens))
    torch.nn.functional.cross_entropy(scores, torch.tensor([3, 3, 6, 0])).backward()
    print(len(list(tied.parameters())), tied["out"].weight is tied["embed"].weight)
    return [*found, loss.item(), tied["embed"].weight.grad.norm().item()]


if __name__ == "__main__":
    print(main())
