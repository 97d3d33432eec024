"""Sequences to sequences: packed words through an LSTM, a GRU that attends to what it read, bags of words, an
encoder and decoder of attention, and character-level text."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

draws = np.random.default_rng(41)


def prepare(model, seed):
    rng = np.random.default_rng(seed)
    model.double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.from_numpy(rng.normal(0, 0.3, tuple(p.shape))))
    return model


class WordClassifier(nn.Module):
    """The language of a word, from the last states of both directions."""

    def __init__(self, letters, classes):
        super().__init__()
        self.embedding = nn.Embedding(letters + 1, 8, padding_idx=0)
        self.lstm = nn.LSTM(8, 10, bidirectional=True, batch_first=True)
        self.out = nn.Linear(20, classes)

    def forward(self, words, lengths):
        packed = pack_padded_sequence(self.embedding(words), lengths, batch_first=True, enforce_sorted=False)
        outputs, (h, _) = self.lstm(packed)
        outputs, _ = pad_packed_sequence(outputs, batch_first=True)
        return self.out(torch.cat((h[-2], h[-1]), dim=1)), outputs


def words():
    names = {"english": ["smith", "brown", "clark", "wood"], "italian": ["rossi", "ferrari", "bianchi", "russo"],
             "german": ["weber", "klein", "schwarz", "koch"]}
    letters = sorted({c for group in names.values() for word in group for c in word})
    encoded = [torch.tensor([letters.index(c) + 1 for c in word]) for group in names.values() for word in group]
    labels = torch.arange(3).repeat_interleave(4)
    lengths = torch.tensor([len(word) for word in encoded])
    padded = pad_sequence(encoded, batch_first=True)
    model = prepare(WordClassifier(len(letters), 3), 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(25):
        scores, outputs = model(padded, lengths)
        loss = F.cross_entropy(scores, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    print("words right:", (scores.argmax(1) == labels).sum().item(), "of", len(labels), tuple(outputs.shape))
    assert losses[-1] < 0.5 * losses[0]
    return losses[::5]


class Encoder(nn.Module):
    def __init__(self, size, hidden):
        super().__init__()
        self.embedding = nn.Embedding(size, hidden)
        self.gru = nn.GRU(hidden, hidden, batch_first=True)

    def forward(self, x):
        return self.gru(self.embedding(x))


class Attention(nn.Module):
    """Bahdanau et al. (2015)."""

    def __init__(self, hidden):
        super().__init__()
        self.Wa, self.Ua, self.Va = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 1)

    def forward(self, query, keys):
        scores = self.Va(torch.tanh(self.Wa(query) + self.Ua(keys))).squeeze(2).unsqueeze(1)
        weights = F.softmax(scores, dim=-1)
        return torch.bmm(weights, keys), weights


class Decoder(nn.Module):
    def __init__(self, hidden, size, steps):
        super().__init__()
        self.steps = steps
        self.embedding = nn.Embedding(size, hidden)
        self.attention = Attention(hidden)
        self.gru = nn.GRU(2 * hidden, hidden, batch_first=True)
        self.out = nn.Linear(hidden, size)

    def forward(self, encoded, hidden, target=None):
        token = torch.empty(encoded.size(0), 1, dtype=torch.long).fill_(0)
        outputs, attentions = [], []
        for i in range(self.steps):
            context, weights = self.attention(hidden.permute(1, 0, 2), encoded)
            out, hidden = self.gru(torch.cat((self.embedding(token), context), dim=2), hidden)
            outputs.append(self.out(out))
            attentions.append(weights)
            if target is not None:
                token = target[:, i].unsqueeze(1)
            else:
                _, best = outputs[-1].topk(1)
                token = best.squeeze(-1).detach()
        return F.log_softmax(torch.cat(outputs, dim=1), dim=-1), torch.cat(attentions, dim=1)


def reversal():
    """Sequences of four digits, in reverse."""
    encoder, decoder = prepare(Encoder(7, 16), 2), prepare(Decoder(16, 7, 4), 3)
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.01) for m in (encoder, decoder)]
    criterion = nn.NLLLoss()
    losses = []
    for step in range(40):
        x = torch.from_numpy(draws.integers(1, 7, (12, 4)))
        y = x.flip(1)
        for optimizer in optimizers:
            optimizer.zero_grad()
        scores, weights = decoder(*encoder(x), y if step % 4 else None)
        loss = criterion(scores.view(-1, scores.size(-1)), y.reshape(-1))
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    assert min(losses[-4:]) < losses[0]
    return [*losses[::8], weights.max().item()]


class Bag(nn.Module):
    def __init__(self, size, width, classes):
        super().__init__()
        self.embedding = nn.EmbeddingBag(size, width, sparse=False)
        self.fc = nn.Linear(width, classes)

    def forward(self, text, offsets):
        return self.fc(self.embedding(text, offsets))


def bags():
    """Which half of the vocabulary most words of a text come from."""
    model = prepare(Bag(20, 6, 2), 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1.0, gamma=0.95)
    losses = []
    for _ in range(20):
        texts, labels = [], []
        for _ in range(16):
            label = int(draws.integers(2))
            n = int(draws.integers(3, 9))
            half = np.where(draws.random(n) < 0.8, label, 1 - label)
            texts.append(torch.tensor(half * 10 + draws.integers(0, 10, n)))
            labels.append(label)
        offsets = torch.tensor([0, *(len(t) for t in texts)][:-1]).cumsum(dim=0)
        loss = F.cross_entropy(model(torch.cat(texts), offsets), torch.tensor(labels, dtype=torch.int64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    return losses[::5]


class Translator(nn.Module):
    def __init__(self, size, width):
        super().__init__()
        self.embedding = nn.Embedding(size, width, padding_idx=0)
        self.place = nn.Parameter(torch.zeros(8, 1, width))
        self.transformer = nn.Transformer(width, 2, 1, 1, 32, dropout=0.0)
        self.out = nn.Linear(width, size)

    def forward(self, source, target):
        mask = nn.Transformer.generate_square_subsequent_mask(len(target)).to(self.place.dtype)
        hidden = (source == 0).T
        x, y = (self.embedding(t) + self.place[: len(t)] for t in (source, target))
        out = self.transformer(x, y, tgt_mask=mask, src_key_padding_mask=hidden, memory_key_padding_mask=hidden)
        return self.out(out)


def translation():
    """Each digit plus one; sources of different lengths."""
    model = prepare(Translator(9, 16), 5)
    for layer in model.transformer.modules():
        if isinstance(layer, nn.LayerNorm):
            nn.init.ones_(layer.weight)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.98), eps=1e-9)
    losses = []
    for _ in range(30):
        source = torch.from_numpy(draws.integers(1, 7, (5, 10)))
        target = source + 1
        source[3:, :5] = 0
        target[3:, :5] = 0
        given = torch.cat([torch.full((1, 10), 8), target[:-1]])
        scores = model(source, given)
        loss = F.cross_entropy(scores.reshape(-1, 9), target.reshape(-1), ignore_index=0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    return losses[::6]


def main():
    return words() + reversal() + bags() + translation()


if __name__ == "__main__":
    print(main())
