"""Recurrent nets: a plain cell and a GRU written with Linear layers, and nn.LSTM on words of different lengths."""

import numpy as np
import torch
import torch.nn as nn
from torch.nn.utils.rnn import pad_sequence


class RNNCell(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.hidden_size = hidden_size
        self.i2h = nn.Linear(input_size + hidden_size, hidden_size)

    def forward(self, x, hidden):
        return torch.tanh(self.i2h(torch.cat((x, hidden), 1)))


class GRUCell(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.hidden_size = hidden_size
        self.x2h = nn.Linear(input_size, 3 * hidden_size)
        self.h2h = nn.Linear(hidden_size, 3 * hidden_size)

    def forward(self, x, hidden):
        x_r, x_z, x_n = self.x2h(x).chunk(3, dim=1)
        h_r, h_z, h_n = self.h2h(hidden).chunk(3, 1)
        reset = torch.sigmoid(x_r + h_r)
        update = torch.sigmoid(x_z + h_z)
        new = torch.tanh(x_n + reset * h_n)
        return (1 - update) * new + update * hidden


class Sequence(nn.Module):
    """(steps, batch, features) to (steps, batch, 1)."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell
        self.decoder = nn.Linear(cell.hidden_size, 1)

    def forward(self, inputs, hidden=None):
        if hidden is None:
            hidden = inputs.new_zeros(inputs.size(1), self.cell.hidden_size)
        outputs = []
        for x in inputs:
            hidden = self.cell(x, hidden)
            outputs.append(self.decoder(hidden))
        return torch.stack(outputs), hidden


def prepare(model, seed):
    rng = np.random.default_rng(seed)
    model.double()
    for p in model.parameters():
        p.data = torch.from_numpy(rng.uniform(-0.3, 0.3, size=tuple(p.size())))
    return model


def cumulative_sums():
    rng = np.random.default_rng(21)
    inputs = torch.tensor(rng.normal(0, 0.3, (8, 16, 1)))
    targets = inputs.cumsum(dim=0)
    model = prepare(Sequence(RNNCell(1, 12)), 22)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    found = []
    for step in range(60):
        outputs, _ = model(inputs)
        loss = nn.functional.mse_loss(outputs, targets)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        if step % 15 == 0:
            found += [loss.item(), norm.item()]
    assert loss.item() < 0.2 * found[0]
    return found


def next_value():
    wave = torch.sin(torch.arange(0, 20, 0.25, dtype=torch.float64))
    model = prepare(Sequence(GRUCell(1, 10)), 23)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.8)
    found = []
    for epoch in range(8):
        hidden = None
        total = 0.0
        for start in range(0, len(wave) - 21, 20):
            inputs = wave[start : start + 20].view(-1, 1, 1)
            targets = wave[start + 1 : start + 21].view(-1, 1, 1)
            if hidden is not None:
                hidden = hidden.detach()  # backpropagation through time stops here
            outputs, hidden = model(inputs, hidden)
            loss = ((outputs - targets) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        found.append(total.item())
        if epoch == 0:
            print(type(total).__name__, total.requires_grad, hidden.shape == (1, 10))
    assert found[-1] < 0.5 * found[0]
    with torch.no_grad():  # let it go on by itself
        x, ahead = wave[-1].view(1, 1), []
        hidden = torch.zeros(1, 10, dtype=torch.float64)
        for _ in range(5):
            hidden = model.cell(x, hidden)
            x = model.decoder(hidden)
            ahead.append(x.squeeze().item())
    return found + ahead


class WordClassifier(nn.Module):
    def __init__(self, n_letters, n_classes):
        super().__init__()
        self.embed = nn.Embedding(n_letters + 1, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 10, num_layers=2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(20, n_classes)

    def forward(self, words, lengths):
        output, _ = self.lstm(self.embed(words))
        last = output[torch.arange(len(words)), lengths - 1]
        return torch.log_softmax(self.out(last), dim=-1)


def words():
    """Which of two made-up languages a word is from."""
    letters = "aeioklmnt"
    samples = [("aloha", 0), ("kona", 0), ("moana", 0), ("laola", 0), ("nalo", 0), ("ekolu", 0),
               ("tlik", 1), ("kentl", 1), ("mitl", 1), ("tekl", 1), ("kontli", 1), ("netk", 1)]
    encoded = [torch.tensor([1 + "aeioklmnt".find(c) for c in word]) for word, _ in samples]
    batch = pad_sequence(encoded, batch_first=True)
    lengths = torch.tensor([len(word) for word, _ in samples])
    labels = torch.tensor([label for _, label in samples])
    print(batch[0], batch.shape == (12, 6), lengths.tolist())
    model = prepare(WordClassifier(len(letters), 2), 24)
    print(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    criterion = nn.NLLLoss()
    found = []
    for step in range(25):
        log_probs = model(batch, lengths)
        loss = criterion(log_probs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 5 == 0:
            found.append(loss.item())
    print("right:", (log_probs.argmax(dim=1) == labels).sum().item(), "of", len(labels))
    assert found[-1] < 0.5 * found[0]
    return found


def main():
    return cumulative_sums() + next_value() + words()


if __name__ == "__main__":
    print(main())
