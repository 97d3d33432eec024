"""Fits of science: a Gaussian process by Cholesky factors, a differential equation learnt by a net (second derivatives,
L-BFGS), a neural ODE by Runge-Kutta steps, and learning to learn through inner steps of gradient descent."""

import math
from collections import OrderedDict

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd import grad
from torch.func import functional_call

draws = np.random.default_rng(51)


def prepare(model, seed):
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.from_numpy(rng.normal(0, 0.4, tuple(p.shape))))
    return model


def kernel(a, b, log_length, log_variance):
    return log_variance.exp() * torch.exp(-0.5 * (torch.cdist(a, b) / log_length.exp()) ** 2)


def gaussian_process():
    x = torch.linspace(0, 1, 15).unsqueeze(-1)
    y = torch.sin(6 * x).squeeze() + 0.1 * torch.from_numpy(draws.standard_normal(15))
    length, variance, noise = parameters = [torch.tensor(v, requires_grad=True) for v in (-1.0, 0.0, -2.0)]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        K = kernel(x, x, length, variance) + noise.exp() * torch.eye(15)
        L = torch.linalg.cholesky(K)
        alpha = torch.cholesky_solve(y.unsqueeze(1), L)
        loss = 0.5 * (y @ alpha).squeeze() + torch.log(torch.diagonal(L)).sum() + 15 / 2 * math.log(2 * math.pi)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        new = torch.tensor([[0.25], [0.8]])
        mean = kernel(new, x, length, variance) @ alpha
        v = torch.linalg.solve_triangular(L, kernel(x, new, length, variance), upper=False)
        spread = (variance.exp() - v.square().sum(0)).sqrt()
        density = torch.distributions.MultivariateNormal(torch.zeros(15), K).log_prob(y)
    print("marginal likelihood:", torch.allclose(density, -loss), torch.logdet(K).item() < 0)
    assert losses[-1] < losses[0]
    return [*losses[::6], *mean.flatten().tolist(), *spread.tolist(), torch.linalg.cond(K).log().item()]


def differential_equation():
    """u'' = -u with u(0) = 0 and u'(0) = 1."""
    net = prepare(nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)), 1)
    t = torch.linspace(0, 3, 25).view(-1, 1).requires_grad_(True)

    def residual():
        u = net(t)
        (du,) = grad(u, t, grad_outputs=torch.ones_like(u), create_graph=True)
        (ddu,) = grad(du, t, torch.ones_like(du), create_graph=True)
        return (ddu + u).square().mean() + u[0, 0] ** 2 + (du[0, 0] - 1) ** 2

    adam = torch.optim.Adam(net.parameters(), lr=5e-3)
    losses = []
    for _ in range(20):
        adam.zero_grad()
        loss = residual()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    lbfgs = torch.optim.LBFGS(net.parameters(), max_iter=5, line_search_fn="strong_wolfe")

    def closure():
        lbfgs.zero_grad()
        loss = residual()
        loss.backward()
        return loss

    losses += [lbfgs.step(closure).item() for _ in range(3)]
    curvature = torch.func.hessian(lambda z: net(z).squeeze())(torch.tensor([1.5]))
    slope = torch.func.jacrev(net)(torch.tensor([1.5]))
    assert losses[-1] < 0.5 * losses[0]
    return [*losses[::5], curvature.item(), slope.item()]


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 2))

    def forward(self, t, y):
        return self.net(y**3)


def integrate(f, y, times):
    path = [y]
    for t, h in zip(times[:-1], torch.diff(times)):
        k1 = f(t, y)
        k2 = f(t + h / 2, y + h * k1 / 2)
        k3 = f(t + h / 2, y + h * k2 / 2)
        k4 = f(t + h, y + h * k3)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        path.append(y)
    return torch.stack(path, dim=0)


def neural_ode():
    A = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    times = torch.linspace(0.0, 1.0, 12)
    with torch.no_grad():
        true = integrate(lambda t, y: torch.mm(y**3, A), torch.tensor([[2.0, 0.0]]), times)
    field = prepare(Field(), 2)
    optimizer = torch.optim.RMSprop(field.parameters(), lr=5e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        starts = torch.from_numpy(draws.integers(0, 6, 4))
        want = torch.stack([true[starts + i] for i in range(6)], dim=0)
        loss = torch.mean(torch.abs(integrate(field, true[starts], times[:6]) - want))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    area = torch.trapezoid(true[:, 0, 0], times)
    slopes = torch.gradient(true[:, 0, 1], spacing=(times,))[0]
    assert losses[-1] < losses[0]
    return [*losses[::5], area.item(), slopes.abs().max().item()]


def learning_to_learn():
    """Sines of different phases, each learnt in two steps from a common start: Finn et al. (2017)."""
    layers = OrderedDict([("l1", nn.Linear(1, 16)), ("act", nn.Tanh()), ("l2", nn.Linear(16, 1))])
    net = prepare(nn.Sequential(layers), 3)
    outer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        outer.zero_grad()
        total = 0.0
        for _ in range(3):
            phase, x = draws.uniform(0, 3), torch.from_numpy(draws.uniform(-2, 2, (10, 1)))
            y = torch.sin(x + phase)
            fast = OrderedDict(net.named_parameters())
            for _ in range(2):
                inner = F.mse_loss(functional_call(net, fast, (x[:5],)), y[:5])
                slopes = torch.autograd.grad(inner, fast.values(), create_graph=True)
                fast = OrderedDict((name, p - 0.1 * g) for (name, p), g in zip(fast.items(), slopes))
            total = total + F.mse_loss(functional_call(net, fast, (x[5:],)), y[5:])
        total.backward()
        outer.step()
        losses.append(total.item())
    assert min(losses[-5:]) < losses[0]
    return losses[::3]


def main():
    torch.set_default_dtype(torch.float64)
    try:
        return gaussian_process() + differential_equation() + neural_ode() + learning_to_learn()
    finally:
        torch.set_default_dtype(torch.float32)


if __name__ == "__main__":
    print(main())
