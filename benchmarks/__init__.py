"""Speed and memory of fastgrad beside its peers: ``python -m benchmarks`` from the root of the repository.

The same small program is written in every library's idiom (``lib_*.py``), checked against a float64 reference
(``reference.py``), and only then timed: each library in a process of its own (``worker.py``), in turn (``runner.py``).
``workloads.py`` is the table of what is measured and of the floors that fastgrad has to reach.
"""
