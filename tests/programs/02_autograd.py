"""Gradients: backward, accumulation, what is not recorded, higher derivatives, and a cubic that fits the sine."""

import math

import torch


def first_steps():
    x = torch.tensor([[1.0, -1.0], [2.0, 0.5]], dtype=torch.float64, requires_grad=True)
    y = x * x + 3 * x
    assert y.requires_grad
    assert not y.is_leaf
    y.mean().backward()
    found = x.grad.clone()
    assert torch.allclose(found, (2 * x + 3).detach() / 4)
    (x.sin().sum()).backward()  # adds to what is there
    assert torch.allclose(x.grad, found + torch.cos(x).detach())
    x.grad.zero_()
    y = x.exp()
    y.backward(gradient=torch.ones_like(y), retain_graph=True)
    y.backward(torch.ones_like(y))
    return [found.sum().item(), x.grad.sum().item()]


def what_is_not_recorded():
    w = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        a = w * 2
    b = w.detach() * 2
    frozen = torch.ones(3)
    c = w * frozen
    print(a.requires_grad, b.requires_grad, c.requires_grad, frozen.grad is None)

    @torch.no_grad()
    def evaluate(x):
        return (x * w).sum()

    print(evaluate(frozen).requires_grad, torch.is_grad_enabled())
    try:
        w += 1
    except RuntimeError:
        print("a leaf that requires grad cannot be changed in place")
    loss = (w * 2).sum()
    loss.backward()
    try:
        loss.backward()
    except RuntimeError:
        print("the graph is gone")
    with torch.no_grad():
        w -= 0.1 * w.grad
    w.grad = None
    print(w, w.grad)
    try:
        (w * w).backward()
    except RuntimeError:
        print("only scalars have an implicit gradient")


def higher_derivatives():
    x = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y = torch.exp(-x) * torch.sin(3 * x)
    found = []
    for _ in range(4):
        found.append(y.item())
        (y,) = torch.autograd.grad(y, x, create_graph=True)
    v = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(lambda t: t ** 2 * t.sum(), v)
    hessian = torch.autograd.functional.hessian(lambda t: (t ** 3).sum() * t[0], v)
    # a penalty on the norm of a gradient
    (g,) = torch.autograd.grad((v ** 3).sum(), v, create_graph=True)
    penalty = (g.norm() - 1) ** 2
    penalty.backward()
    return [*found, *jacobian.flatten().tolist(), *hessian.flatten().tolist(), penalty.item(), *v.grad.tolist()]


def cubic(dtype):
    """y = a + b x + c x^2 + d x^3 against sin x, with updates by hand."""
    x = torch.linspace(-math.pi, math.pi, 2000, dtype=dtype)
    y = torch.sin(x)
    a, b, c, d = (torch.tensor(v, dtype=dtype, requires_grad=True) for v in (0.3, -0.2, 0.1, 0.05))
    losses = []
    learning_rate = 1e-6
    for t in range(2000):
        y_pred = a + b * x + c * x ** 2 + d * x ** 3
        loss = (y_pred - y).pow(2).sum()
        if t % 250 == 249:
            losses.append(loss.item())
        loss.backward()
        with torch.no_grad():
            for p in (a, b, c, d):
                p -= learning_rate * p.grad
                p.grad = None
    print("fitted a cubic")
    assert losses[-1] < 0.05 * losses[0]
    return [*losses, a.item(), b.item(), c.item(), d.item()]


def main():
    what_is_not_recorded()
    return [*first_steps(), *higher_derivatives(), *cubic(torch.float64)]


if __name__ == "__main__":
    print(main())
