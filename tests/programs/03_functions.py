"""Functions with a derivative of their own: a Legendre polynomial, a straight-through step, a bounded exponential."""

import math

import torch
from torch.autograd import Function, gradcheck


class LegendrePolynomial3(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input):
        ctx.save_for_backward(input)
        return 0.5 * (5 * input ** 3 - 3 * input)

    @staticmethod
    def backward(ctx, grad_output):
        (input,) = ctx.saved_tensors
        return grad_output * 1.5 * (5 * input ** 2 - 1)


class StraightThrough(Function):
    """A step forwards, the identity backwards; the threshold gets no gradient."""

    @staticmethod
    def forward(ctx, x, threshold):
        ctx.mark_non_differentiable()
        return (x > threshold).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        assert ctx.needs_input_grad == (True, False)
        return grad, None


class BoundedExp(Function):
    @staticmethod
    def forward(ctx, x, limit=2.0):
        result = x.clamp(max=limit).exp()
        ctx.limit = limit
        ctx.save_for_backward(x, result)
        return result

    @staticmethod
    def backward(ctx, grad):
        x, result = ctx.saved_tensors
        return grad * result * (x < ctx.limit), None


def main():
    dtype = torch.double
    x = torch.linspace(-math.pi, math.pi, 2000, dtype=dtype)
    y = torch.sin(x)
    a = torch.full((), 0.0, dtype=dtype, requires_grad=True)
    b = torch.full((), -1.0, dtype=dtype, requires_grad=True)
    c = torch.full((), 0.0, dtype=dtype, requires_grad=True)
    d = torch.full((), 0.3, dtype=dtype, requires_grad=True)
    found = []
    for t in range(600):
        P3 = LegendrePolynomial3.apply
        y_pred = a + b * P3(c + d * x)
        loss = (y_pred - y).pow(2).sum()
        if t % 100 == 99:
            found.append(loss.item())
        loss.backward()
        with torch.no_grad():
            for parameter in [a, b, c, d]:
                parameter -= 5e-6 * parameter.grad
                parameter.grad = None
    assert found[-1] < 0.2 * found[0]
    print(f"y = {b.item():.3f} * P3({d.item():.3f} x)")

    points = torch.tensor([-1.0, 0.2, 1.5], dtype=dtype, requires_grad=True)
    print(gradcheck(LegendrePolynomial3.apply, (points,)), gradcheck(BoundedExp.apply, (points,)))
    (StraightThrough.apply(points, 0.5) * torch.arange(3.0, dtype=dtype)).sum().backward()
    found += points.grad.tolist()
    first = torch.autograd.grad(BoundedExp.apply(2 * points).sum(), points, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), points)[0]
    return [*found, *first.tolist(), *second.tolist()]


if __name__ == "__main__":
    print(main())
