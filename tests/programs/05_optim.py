"""Optimisers and schedules of the learning rate, on one small regression each."""

import io

import numpy as np
import torch
import torch.nn as nn
import torch.optim as optim
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, StepLR


def make_model():
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    rng = np.random.default_rng(5)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.from_numpy(rng.normal(0, 0.5, tuple(p.shape))))
    return model


def make_data():
    rng = np.random.default_rng(6)
    x = torch.from_numpy(rng.uniform(-1, 1, (40, 3)))
    return x, torch.sin(3 * x).sum(dim=1, keepdim=True)


def train(model, optimizer, scheduler, steps=60):
    x, y = make_data()
    criterion = nn.MSELoss()
    history = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        if step % 15 == 0:
            history.append(loss.item())
    assert loss.item() < history[0]
    return [*history, loss.item(), optimizer.param_groups[0]["lr"]]


def resumed():
    """Stop half-way, save everything, go on in new objects: the same as going through."""
    straight = make_model()
    through = train(straight, optim.Adam(straight.parameters(), lr=0.02), None, steps=30)
    model = make_model()
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    train(model, optimizer, None, steps=16)
    file = io.BytesIO()
    checkpoint = {"epoch": 16, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(checkpoint, file)
    file.seek(0)
    loaded = torch.load(file)
    model = make_model()
    model.load_state_dict(loaded["model"])
    optimizer = optim.Adam(model.parameters(), lr=0.5)
    optimizer.load_state_dict(loaded["optimizer"])
    again = train(model, optimizer, None, steps=30 - loaded["epoch"])
    print("resumed:", abs(again[-2] - through[-2]) < 1e-12)
    return through


def main():
    found = []

    model = make_model()
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4, nesterov=True)
    found += train(model, optimizer, StepLR(optimizer, step_size=20, gamma=0.5))
    print(optimizer)

    model = make_model()
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    scheduler = ExponentialLR(optimizer, gamma=0.97)
    found += train(model, optimizer, scheduler)
    print([round(lr, 6) for lr in scheduler.get_last_lr()])

    model = make_model()
    optimizer = optim.RMSprop(model.parameters(), lr=1e-2, alpha=0.95)
    found += train(model, optimizer, CosineAnnealingLR(optimizer, T_max=60, eta_min=1e-4))

    model = make_model()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 1e-3}]
    optimizer = optim.AdamW(groups, lr=1e-2, weight_decay=0.1)
    scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + 0.05 * epoch))
    found += train(model, optimizer, scheduler)
    found.append(optimizer.param_groups[1]["lr"])

    model = make_model()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    plateau = optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="min", factor=0.3, patience=2)
    x, y = make_data()
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.l1_loss(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=0.5)
        optimizer.step()
        plateau.step(loss.item())
    found += [loss.item(), optimizer.param_groups[0]["lr"]]
    return found + resumed()


if __name__ == "__main__":
    print(main())
