"""fastgrad.memory: the figures add up, the cache is bounded, blocks are aligned, threads may share the pool."""

from __future__ import annotations

import doctest
import itertools
import threading

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import memory, nn

MIB = 1 << 20


@pytest.fixture(autouse=True)
def own_limit():
    limit = memory.stats()["limit"]
    memory.empty_cache()
    yield
    memory.set_cache_limit(limit)


def test_the_documentation_is_true():
    found = doctest.testmod(memory)
    assert found.attempted > 5
    assert found.failed == 0


def test_live_cached_peak_and_hits():
    before = memory.stats()
    memory.reset_peak()
    x = fg.zeros(MIB, dtype=fg.float32)
    y = fg.zeros(MIB // 2, dtype=fg.float32)
    assert memory.stats() == before | {"live": before["live"] + 6 * MIB, "peak": before["live"] + 6 * MIB,
                                       "allocations": before["allocations"] + 2}
    del x
    assert memory.stats()["live"] - before["live"] == 2 * MIB
    assert memory.stats()["cached"] == 4 * MIB
    assert memory.stats()["peak"] == before["live"] + 6 * MIB  # stays
    x = fg.ones(MIB)
    assert memory.stats()["hits"] == before["hits"] + 1
    assert memory.stats()["cached"] == 0
    del x, y
    memory.reset_peak()
    assert memory.stats()["peak"] == memory.stats()["live"] == before["live"]
    assert memory.stats()["cached"] == 6 * MIB
    memory.empty_cache()
    assert memory.stats()["cached"] == 0


def test_views_and_arrays_keep_a_block():
    before = memory.stats()["live"]
    row = fg.zeros(1024, 1024)[3]
    assert memory.stats()["live"] - before == 4 * MIB
    array = row.numpy()
    del row
    assert memory.stats()["live"] - before == 4 * MIB
    del array
    assert memory.stats()["live"] == before
    foreign = fg.from_numpy(np.zeros(MIB))
    assert memory.stats()["live"] == before  # NumPy's own
    del foreign


@pytest.mark.parametrize("limit", [0, 1000, MIB, 10 * MIB])
def test_the_cache_is_bounded(limit):
    memory.set_cache_limit(limit)
    rng = np.random.default_rng(0)
    largest = 0
    for _ in range(200):
        held = [fg.zeros(int(n)) for n in rng.integers(1, MIB // 4, 10)]
        del held
        largest = max(largest, memory.stats()["cached"])
        assert largest <= limit
    assert largest >= 0.7 * limit - 1000  # it is used
    memory.set_cache_limit(limit // 2)
    assert memory.stats()["cached"] <= limit // 2
    with pytest.raises(OverflowError):
        memory.set_cache_limit(-1)


def test_every_block_is_aligned():
    sizes = [*range(300), *(2**i + d for i in range(8, 23) for d in (-1, 0, 1, 2**i // 3))]
    for _ in range(2):  # fresh, and used again
        blocks = [fg.empty(n, dtype=fg.uint8) for n in sizes]
        assert [t.data_ptr() % 64 for t in blocks] == [0] * len(sizes)
        spans = sorted((t.data_ptr(), t.data_ptr() + t.numel()) for t in blocks if t.numel())
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
        results = [fg.ones(n) + 1.0 for n in sizes[:300]]
        assert all(t.data_ptr() % 64 == 0 for t in results)


def test_at_most_a_fifth_of_a_block_is_unused():
    for n in (1025, 1281, 2049, 5000, 65_537, 1_000_000, 1_310_721):
        before = memory.stats()["live"]
        block = fg.empty(n, dtype=fg.uint8)
        assert n <= memory.stats()["live"] - before <= 1.25 * n
        del block


def test_threads_share_the_pool():
    """Each thread writes its own number into blocks that the others have just freed, also while the GIL is released."""
    before, failures = memory.stats()["live"], []

    def work(number):
        rng = np.random.default_rng(number)
        for _ in range(300):
            sizes = rng.integers(1, 40_000, 6)
            held = [fg.full((int(n),), float(number)) for n in sizes]
            sums = [(t * 2.0 - t) for t in held[::-1]]
            if any((t.numpy() != number).any() for t in [*held, *sums]):
                failures.append(number)
            if rng.random() < 0.02:
                memory.empty_cache()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert memory.stats()["live"] == before


def test_instances_of_subclasses_give_their_memory_back():
    nn.Parameter(fg.ones(3))
    before = memory.stats()["live"]
    for _ in range(100):
        nn.Parameter(fg.ones(3))
    assert memory.stats()["live"] == before
