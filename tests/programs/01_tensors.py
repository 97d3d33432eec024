"""Tensors: making them, looking at them, changing them."""

import numpy as np
import torch


def creation():
    data = [[1, 2], [3, 4]]
    x = torch.tensor(data)
    print(x)
    print(x.dtype == torch.int64, x.shape == (2, 2), x.device)
    print(torch.tensor([0.5, 1.5, 2.0]))
    print(torch.tensor([True, False]))
    print(torch.ones_like(x))
    print(torch.zeros(2, 3), torch.ones((2,)), torch.full((2, 2), 7), torch.eye(3))
    print(torch.arange(5), torch.arange(1, 2, 0.25), torch.linspace(0, 1, 5))
    noise = torch.rand_like(x, dtype=torch.float)
    assert noise.shape == x.shape
    assert bool(((noise >= 0) & (noise < 1)).all())
    assert not torch.is_floating_point(x)


def indexing():
    x = torch.arange(12).reshape(3, 4)
    print("first row:", x[0])
    print("first column:", x[:, 0])
    print("last column:", x[..., -1])
    print(x[1:, ::2])
    print(x[[0, 2]], x[torch.tensor([2, 0]), torch.tensor([1, 3])])
    print(x[x % 3 == 0])
    rows, columns = torch.where(x > 8)
    print(rows, columns, torch.nonzero(x > 9).tolist())
    y = x.clone().float()
    y[:, 1] = 0
    y[y > 9] = -1
    y[0] += torch.tensor([1.0, 2.0, 3.0, 4.0])
    y[1, 2:] = torch.tensor([0.5, 0.25])
    print(y)
    for i, row in enumerate(y):
        print(i, row.sum().item(), len(row), [v.item() for v in row[:2]])


def arithmetic():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    print(x + 1, 2 * x, x - x.mean(), x / x.sum(dim=1, keepdim=True), x ** 2, -x)
    product = x @ x.T
    again = torch.empty_like(product)
    torch.matmul(x, x.T, out=again)
    print(product, torch.equal(product, again), (x * x).equal(x.mul(x)))
    print(x.sum(), x.sum(dim=0), x.mean(1), x.max(), x.argmax(), x.std())
    values, places = torch.tensor([3.0, 1.0, 2.0]).sort(descending=True)
    print(values, places)
    best, where = x.max(dim=1)
    print(best, where)
    if x.sum() > 9:
        print(f"the sum is {x.sum():.2f}, or {x.sum().item()}")


def broadcasting():
    column, row = torch.arange(3).unsqueeze(1), torch.arange(4)
    print(column * 10 + row)
    try:
        torch.ones(2, 3) + torch.ones(4)
    except RuntimeError:
        print("sizes that do not broadcast")
    images = torch.arange(24.0).reshape(2, 3, 2, 2)
    per_channel = images.mean(dim=(0, 2, 3), keepdim=True)
    print(per_channel.shape == (1, 3, 1, 1), (images - per_channel).sum().item())


def shapes():
    x = torch.arange(6.0)
    print(x.view(2, 3), x.view(3, -1).t(), x[None].shape == (1, 6))
    print(torch.cat([x, x]).shape[0], torch.stack([x, x], dim=1).size(), x.reshape(1, 2, 3).permute(2, 0, 1).shape[0])
    print(x.reshape(2, 3).flatten(), x.reshape(1, 6).squeeze(), x.expand(2, 6).stride())
    view = x.view(2, 3)
    view[0, 0] = 100
    print("the view and the tensor share memory:", x[0].item(), x.data_ptr() == view.data_ptr())
    flipped = view.t()
    try:
        flipped.view(6)
    except RuntimeError:
        print("view needs one stride", flipped.is_contiguous(), flipped.contiguous().view(6))
    print([part.tolist() for part in torch.chunk(x, 3)], [part.tolist() for part in x.split([1, 5])])


def numpy_bridge():
    t = torch.ones(5)
    n = t.numpy()
    t.add_(1)
    print(t, n)
    np.add(n, 1, out=n)
    print(t)
    doubled = torch.from_numpy(np.arange(3.0))
    print(doubled, doubled.dtype == torch.float64, doubled.to(torch.float32), doubled.long())
    copied = torch.tensor(n)
    n[0] = 0
    print(copied[0].item(), t[0].item())


def in_place():
    x = torch.zeros(2, 2)
    alias = x
    x += 1
    x.mul_(3).sub_(torch.eye(2))
    x[1].fill_(9)
    print(x, alias is x)
    x.zero_()
    print(alias)
    torch.manual_seed(1)
    a = torch.randn(100)
    torch.manual_seed(1)
    print(torch.allclose(a, torch.randn(100)))


def main():
    for part in (creation, indexing, arithmetic, broadcasting, shapes, numpy_bridge, in_place):
        print(part.__name__)
        part()
    x = torch.linspace(-2, 2, 50, dtype=torch.float64)
    return [x.exp().sum().item(), torch.tanh(x).norm().item(), x.var().item(), x.cumsum(0)[10].item()]


if __name__ == "__main__":
    print(main())
