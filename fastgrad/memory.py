"""The pool that tensors' memory comes from: what it holds, its bound, and how to empty it.

A freed block is kept and used again: a fresh page costs more than the arithmetic on it. Blocks are aligned to 64 bytes,
in sizes of which at most a fifth is unused; freed nodes of the graph are kept likewise, apart. Threads may share it.

>>> from fastgrad import memory, zeros
>>> memory.empty_cache()
>>> before = memory.stats()
>>> x = zeros(1024)
>>> memory.stats()["live"] - before["live"]
4096
>>> del x
>>> memory.stats()["cached"]
4096
>>> x = zeros(1000)  # the same size class: the block is used again
>>> memory.stats()["hits"] - before["hits"]
1
"""

from fastgrad.runtime import empty_cache, reset_peak, set_cache_limit
from fastgrad.runtime import memory_stats as stats

__all__ = ["empty_cache", "reset_peak", "set_cache_limit", "stats"]
