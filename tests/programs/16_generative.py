"""Models that draw: a variational autoencoder of digits, two networks against each other, a mixture of densities, and a
policy with actions from a distribution."""

import copy
import math

import numpy as np
import torch
from torch import nn, optim
from torch.distributions import Categorical, Normal, kl_divergence
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fastgrad.data import load_digits  # NumPy arrays

draws = np.random.default_rng(61)


def noise(*shape):
    return torch.from_numpy(draws.standard_normal(shape))


def prepare(model, seed):
    rng = np.random.default_rng(seed)
    model.double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.from_numpy(rng.normal(0, 0.2, tuple(p.shape))))
    return model


class VAE(nn.Module):
    def __init__(self):
        super(VAE, self).__init__()
        self.fc1 = nn.Linear(64, 32)
        self.fc21 = nn.Linear(32, 4)
        self.fc22 = nn.Linear(32, 4)
        self.fc3 = nn.Linear(4, 32)
        self.fc4 = nn.Linear(32, 64)

    def encode(self, x):
        h1 = F.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def reparameterize(self, mu, logvar):
        std = torch.exp(0.5 * logvar)
        return mu + noise(*std.shape) * std

    def decode(self, z):
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z))))

    def forward(self, x):
        mu, logvar = self.encode(x.view(-1, 64))
        return self.decode(self.reparameterize(mu, logvar)), mu, logvar


def autoencoder():
    images, _ = load_digits()
    data = TensorDataset(torch.from_numpy(np.asarray(images[:200], np.float64) / np.max(images)))
    model = prepare(VAE(), 1)
    optimizer = optim.Adam(model.parameters(), lr=3e-3)
    losses, best = [], None
    for _ in range(4):
        total = 0.0
        model.train()
        for (batch,) in DataLoader(data, batch_size=50):
            optimizer.zero_grad()
            out, mu, logvar = model(batch)
            bce = F.binary_cross_entropy(out, batch.view(-1, 64), reduction="sum")
            kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
            loss = bce + kld
            loss.backward()
            total += loss.item()
            optimizer.step()
        losses.append(total / len(data))
        if best is None or losses[-1] < best[0]:
            best = losses[-1], copy.deepcopy(model.state_dict())
    q = Normal(mu.detach(), (0.5 * logvar.detach()).exp())
    p = Normal(torch.zeros_like(mu), torch.ones_like(mu))
    print("divergence:", torch.allclose(kl_divergence(q, p).sum(), kld), q.batch_shape)
    model.load_state_dict(best[1])
    model.eval()
    with torch.no_grad():
        drawn = model.decode(noise(8, 4)).view(8, 8, 8)
    assert losses[-1] < losses[0]
    return [*losses, drawn.std().item()]


def adversaries():
    generator = prepare(nn.Sequential(nn.Linear(2, 16), nn.ReLU(True), nn.Linear(16, 2)), 2)
    discriminator = prepare(
        nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2, inplace=True), nn.Linear(16, 1), nn.Sigmoid()), 3)
    criterion = nn.BCELoss()
    optimizer_g = optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
    optimizer_d = optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.999))
    found = []
    for _ in range(20):
        real = noise(16, 2) * 0.3 + torch.tensor([1.0, -1.0])
        discriminator.zero_grad()
        label = torch.full((16,), 1.0, dtype=real.dtype)
        loss_real = criterion(discriminator(real).view(-1), label)
        loss_real.backward()
        fake = generator(noise(16, 2))
        label.fill_(0.0)
        loss_fake = criterion(discriminator(fake.detach()).view(-1), label)
        loss_fake.backward()
        optimizer_d.step()
        generator.zero_grad()
        label.fill_(1.0)
        loss_g = criterion(discriminator(fake).view(-1), label)
        loss_g.backward()
        optimizer_g.step()
        found.append((loss_real + loss_fake).item())
    found = [*found[::4], loss_g.item()]
    critic = prepare(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)), 4)
    optimizer = optim.RMSprop(critic.parameters(), lr=5e-3)
    for _ in range(6):  # Gulrajani et al. (2017)
        real, fake = noise(8, 2) + 1, generator(noise(8, 2)).detach()
        alpha = torch.from_numpy(draws.random((8, 1))).expand_as(real)
        between = (alpha * real + (1 - alpha) * fake).requires_grad_(True)
        scores = critic(between)
        slopes = torch.autograd.grad(
            outputs=scores, inputs=between, grad_outputs=torch.ones(scores.size(), dtype=scores.dtype),
            create_graph=True, retain_graph=True)[0]
        penalty = ((slopes.norm(2, dim=1) - 1) ** 2).mean() * 10
        loss = critic(fake).mean() - critic(real).mean() + penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


class Mixture(nn.Module):
    def __init__(self, hidden, parts):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, hidden), nn.Tanh())
        self.pi, self.sigma, self.mu = (nn.Linear(hidden, parts) for _ in range(3))

    def forward(self, x):
        h = self.body(x)
        return F.log_softmax(self.pi(h), -1), self.sigma(h), self.mu(h)


def densities():
    """An inverse with several answers: Bishop (1994)."""
    model = prepare(Mixture(12, 3), 5)
    y = torch.linspace(-5, 5, 60, dtype=torch.float64).view(-1, 1)
    x = 7 * torch.sin(0.75 * y) + 0.5 * y + noise(60, 1)
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        log_pi, log_sigma, mu = model(x)
        parts = log_pi - log_sigma - 0.5 * math.log(2 * math.pi) - 0.5 * ((y - mu) / log_sigma.exp()) ** 2
        loss = -torch.logsumexp(parts, dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    k = torch.multinomial(log_pi.exp(), 1).view(-1)
    print("drawn:", torch.normal(mu, log_sigma.exp())[torch.arange(60), k].shape)
    assert losses[-1] < losses[0]
    return losses[::6]


def policy():
    """One of two actions is right, and the state's sign says which."""
    actor, critic = prepare(nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 2)), 6), prepare(nn.Linear(1, 1), 7)
    optimizer = optim.Adam([*actor.parameters(), *critic.parameters()], lr=0.02)
    rewards = []
    for _ in range(60):
        states = noise(16, 1)
        actions = Categorical(logits=actor(states))
        chosen = (torch.from_numpy(draws.random(16)) > actions.probs[:, 0]).long()
        reward = (chosen == (states[:, 0] > 0).long()).to(states.dtype)
        values = critic(states).squeeze(-1)
        advantage = reward - values.detach()
        loss = -(actions.log_prob(chosen) * advantage).mean() + F.smooth_l1_loss(values, reward)
        loss = loss - 0.01 * actions.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rewards.append(reward.mean().item())
    early, late = np.mean(rewards[:10]), np.mean(rewards[-10:])
    assert late > early
    return [early, late, loss.item()]


def main():
    return autoencoder() + adversaries() + densities() + policy()


if __name__ == "__main__":
    print(main())
