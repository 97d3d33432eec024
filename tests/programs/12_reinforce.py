"""Policy gradients: a bandit with three arms, and a walk through a small grid."""

from collections import deque

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim

draws = np.random.default_rng(31)  # chance is NumPy's, so that every library sees the same


def choose(probs):
    """An action drawn with these probabilities."""
    return min(int((probs.detach().cumsum(-1) < draws.random()).sum()), probs.numel() - 1)


def bandit():
    payoffs = [0.2, 0.5, 0.9]
    preferences = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = optim.SGD([preferences], lr=0.3)
    baseline, recent = 0.0, deque(maxlen=50)
    for step in range(300):
        log_probs = F.log_softmax(preferences, dim=0)
        action = choose(log_probs.exp())
        reward = float(draws.random() < payoffs[action])
        loss = -log_probs[action] * (reward - baseline)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        baseline += (reward - baseline) / (step + 1)
        recent.append(reward)
    probs = preferences.softmax(0)
    assert probs.argmax() == 2
    print("best arm:", probs.argmax().item())
    return [*probs.tolist(), sum(recent) / len(recent)]


class Policy(nn.Module):
    def __init__(self, states, actions):
        super().__init__()
        self.affine = nn.Linear(states, 16)
        self.action_head = nn.Linear(16, actions)
        self.value_head = nn.Linear(16, 1)

    def forward(self, x):
        x = F.relu(self.affine(x))
        return F.softmax(self.action_head(x), dim=-1), self.value_head(x)


class Grid:
    """4 x 4 cells: from one corner to the other, -0.1 a step, +1 at the goal."""

    def reset(self):
        self.place, self.steps = [0, 0], 0
        return self.state()

    def state(self):
        state = torch.zeros(16, dtype=torch.float64)
        state[4 * self.place[0] + self.place[1]] = 1
        return state

    def step(self, action):
        axis, by = [(0, 1), (0, -1), (1, 1), (1, -1)][action]
        self.place[axis] = min(max(self.place[axis] + by, 0), 3)
        self.steps += 1
        home = self.place == [3, 3]
        return self.state(), 1.0 if home else -0.1, home or self.steps >= 30


def grid():
    env, policy = Grid(), Policy(16, 4).double()
    rng = np.random.default_rng(32)
    with torch.no_grad():
        for p in policy.parameters():
            p.copy_(torch.from_numpy(rng.normal(0, 0.3, tuple(p.shape))))
    optimizer = optim.Adam(policy.parameters(), lr=2e-2)
    gamma, eps = 0.95, np.finfo(np.float32).eps.item()
    lengths, found = [], []
    for episode in range(150):
        state, done = env.reset(), False
        saved, rewards = [], []
        while not done:
            probs, value = policy(state)
            action = choose(probs)
            saved.append((torch.log(probs[action]), value, -(probs * probs.log()).sum()))
            state, reward, done = env.step(action)
            rewards.append(reward)
        R, returns = 0.0, []
        for r in rewards[::-1]:
            R = r + gamma * R
            returns.insert(0, R)
        returns = torch.tensor(returns, dtype=torch.float64)
        if len(returns) > 1:
            returns = (returns - returns.mean()) / (returns.std() + eps)
        policy_losses, value_losses, entropies = [], [], []
        for (log_prob, value, entropy), R in zip(saved, returns):
            advantage = R - value.item()
            policy_losses.append(-log_prob * advantage)
            value_losses.append((value - torch.tensor([R])).pow(2))
            entropies.append(entropy)
        optimizer.zero_grad()
        loss = torch.stack(policy_losses).sum() + 0.5 * torch.cat(value_losses).sum() - 0.01 * sum(entropies)
        loss.backward()
        optimizer.step()
        lengths.append(len(rewards))
        if episode % 25 == 24:
            found.append(loss.item())
    early, late = sum(lengths[:20]), sum(lengths[-20:])
    print("steps of the first and the last twenty walks:", early, late)
    assert late < early
    return found


def main():
    torch.manual_seed(0)
    sampled = torch.multinomial(torch.tensor([0.1, 0.0, 0.9]), 200, replacement=True)
    print(bool((sampled != 1).all()), (sampled == 2).sum().item() > 130)
    return bandit() + grid()


if __name__ == "__main__":
    print(main())
