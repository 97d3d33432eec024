"""Modules: Sequential, a subclass of one's own, parameters by name, train and eval, saving and loading."""

import copy
import io

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def fill(model, seed):
    """Weights from NumPy: the same with every library."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.from_numpy(rng.normal(0, 0.4, tuple(p.shape))))
    return model


class Net(nn.Module):
    def __init__(self, n_in, n_hidden, n_out):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(n_in, n_hidden),
            nn.ReLU(),
            nn.Linear(n_hidden, n_hidden),
            nn.Tanh(),
        )
        self.norm = nn.LayerNorm(n_hidden)
        self.drop = nn.Dropout(p=0.5)
        self.head = nn.Linear(n_hidden, n_out, bias=False)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x):
        x = self.norm(self.body(x))
        x = self.drop(F.gelu(x))
        return self.head(x) * self.scale


def data():
    rng = np.random.default_rng(3)
    x = torch.tensor(rng.normal(size=(64, 5)), dtype=torch.float64)
    return x, torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs() - 1], dim=1)


def main():
    x, y = data()
    model = nn.Sequential(nn.Linear(5, 16), nn.Sigmoid(), nn.Linear(16, 2)).double()
    fill(model, 1)
    print(model)
    loss_fn = nn.MSELoss(reduction="sum")
    losses = []
    for step in range(200):
        y_pred = model(x)
        loss = loss_fn(y_pred, y)
        if step % 40 == 0:
            losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for param in model.parameters():
                param -= 2e-3 * param.grad
    losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    print(model[0].weight.grad.shape == model[0].weight.shape, len(model), type(model[1]).__name__)

    net = fill(Net(5, 12, 2), 2).to(torch.float64)
    print(net)
    for name, p in net.named_parameters():
        print(name, tuple(p.shape), p.requires_grad, p.numel())
    print("parameters:", sum(p.numel() for p in net.parameters() if p.requires_grad))
    print([name for name, _ in net.named_children()], [name for name, _ in net.named_modules()])
    net.eval()
    with torch.no_grad():
        before = net(x)
    losses.append(F.mse_loss(before, y).item())
    net.train()
    assert not torch.equal(net(x), net(x))  # dropout

    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = Net(5, 12, 2).double()
    print(other.load_state_dict(torch.load(file, weights_only=True)))
    other.eval()
    print(torch.equal(other(x), before), list(other.state_dict())[:3])
    twin = copy.deepcopy(other)
    with torch.no_grad():
        twin.head.weight.mul_(2)
    print(torch.allclose(twin(x), 2 * before), torch.equal(other(x), before))
    try:
        other.load_state_dict({"head.weight": torch.zeros(3, 3)})
    except RuntimeError:
        print("a state dict that does not fit")

    for p in other.body.parameters():
        p.requires_grad_(False)
    F.l1_loss(other(x), y).backward()
    print([name for name, p in other.named_parameters() if p.grad is not None])
    losses += [other.head.weight.grad.abs().sum().item(), other.norm.weight.grad.abs().sum().item()]
    return losses


if __name__ == "__main__":
    print(main())
