"""Data sets, samplers and the loader, against PyTorch's where nothing is random."""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
import pytest

import fastgrad as fg
from fastgrad.utils import data as ours


class Squares:
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if not 0 <= i < self.n:
            raise IndexError(i)
        return {"x": np.float32(i), "y": (i * i, float(i)), "name": str(i)}


class Pair(NamedTuple):
    a: object
    b: object


def plain(thing):
    if hasattr(thing, "tolist") and not isinstance(thing, np.ndarray):
        return str(thing.dtype).rpartition(".")[2], thing.tolist()
    if isinstance(thing, dict):
        return {key: plain(value) for key, value in thing.items()}
    if isinstance(thing, tuple | list):
        return [type(thing).__name__, *[plain(part) for part in thing]]
    return thing


@pytest.mark.parametrize("options", [{}, {"batch_size": 4}, {"batch_size": 4, "drop_last": True}, {"batch_size": None},
                                     {"batch_size": 3, "sampler": [4, 1, 1, 0]}, {"batch_sampler": [[1, 2], [0]]}])
@pytest.mark.parametrize("workers", [0, 3])
def test_batches_are_pytorchs(options, workers):
    torch = pytest.importorskip("torch")
    loader = ours.DataLoader(Squares(10), num_workers=workers, **options)
    theirs = torch.utils.data.DataLoader(Squares(10), **options)
    assert len(loader) == len(theirs)
    got, want = [plain(batch) for batch in loader], [plain(batch) for batch in theirs]
    assert got == want
    assert [plain(batch) for batch in loader] == got


def test_streams_are_pytorchs():
    torch = pytest.importorskip("torch")
    for size, drop in ((3, False), (3, True), (None, False)):
        results = []
        for space in (ours, torch.utils.data):

            class Count(space.IterableDataset):
                def __iter__(self):
                    return iter(range(8))

            results.append([plain(batch) for batch in space.DataLoader(Count(), batch_size=size, drop_last=drop)])
        assert results[0] == results[1]


def test_tensors_are_shuffled_together():
    x, y = fg.arange(20), fg.arange(20) * 10
    loader = ours.DataLoader(ours.TensorDataset(x, y), batch_size=6, shuffle=True)
    fg.manual_seed(0)
    seen = [pair for batch in loader for pair in zip(*[part.tolist() for part in batch], strict=True)]
    assert sorted(seen) == [(i, 10 * i) for i in range(20)]
    assert seen != sorted(seen)
    fg.manual_seed(0)
    assert [a for batch in loader for a in batch[0].tolist()] == [a for a, _ in seen]
    assert [a for batch in loader for a in batch[0].tolist()] != [a for a, _ in seen]


def test_workers_pass_exceptions_on_and_end():
    class Broken(Squares):
        def __getitem__(self, i):
            if i == 5:
                raise ZeroDivisionError("five")
            return i

    before = threading.active_count()
    loader = ours.DataLoader(Broken(9), batch_size=2, num_workers=2)
    batches = iter(loader)
    assert [next(batches).tolist(), next(batches).tolist()] == [[0, 1], [2, 3]]
    with pytest.raises(ZeroDivisionError, match="five"):
        next(batches)
    for _ in loader:
        break
    assert threading.active_count() == before


def test_splits_and_subsets():
    parts = ours.random_split(Squares(10), [0.5, 0.25, 0.25], np.random.default_rng(0))
    assert [len(part) for part in parts] == [6, 2, 2]
    assert sorted(element["y"][0] for part in parts for element in part) == [i * i for i in range(10)]
    both = ours.ConcatDataset([ours.Subset(range(100), [5, 7]), range(3)])
    assert [both[i] for i in (0, 1, 2, 4, -1)] == [5, 7, 0, 2, 2]
    assert len(ours.RandomSampler(range(5), True, 12)) == len(list(ours.RandomSampler(range(5), True, 12))) == 12
    assert sorted(ours.RandomSampler(range(5))) == [0, 1, 2, 3, 4]


def test_collating():
    batch = ours.default_collate([Pair(fg.ones(2), 1), Pair(fg.zeros(2), 2)])
    assert isinstance(batch, Pair)
    assert batch.a.tolist() == [[1, 1], [0, 0]]
    assert batch.b.tolist() == [1, 2]
    with pytest.raises(RuntimeError, match="equal size"):
        ours.default_collate([[1, 2], [1]])
    with pytest.raises(TypeError, match="found"):
        ours.default_collate([object()])


def test_wrong_options():
    for options in ({"batch_size": 0}, {"shuffle": True, "sampler": [0]}, {"batch_sampler": [[0]], "batch_size": 2},
                    {"num_workers": -1}, {"batch_size": None, "drop_last": True}):  # fmt: skip
        with pytest.raises(ValueError, match=r"batch_size|sampler|num_workers"):
            ours.DataLoader(Squares(3), **options)
    with pytest.raises(ValueError, match="Sum"):
        ours.random_split(range(5), [1, 2])
    with pytest.raises(AssertionError):
        ours.TensorDataset(fg.ones(2), fg.ones(3))


def test_a_negative_timeout_is_refused():
    with pytest.raises(ValueError, match="timeout"):
        ours.DataLoader(range(3), timeout=-1)
