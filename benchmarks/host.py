"""The parent's side of the worker processes: start one, ask it, notice that it died, end it."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# Left over from debugging, these would change one library's kernels and not the others'.
UNSET = ("OPENBLAS_CORETYPE", "MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS")

STARTING = ("prepare", "held", "peak")  # commands that need nothing that an earlier one prepared


class AskError(Exception):
    """The worker could not do what it was asked; the message is for the table."""


class WorkerDied(AskError):
    """The worker's process ended, or did not answer in time."""


def environment(threads: int) -> dict[str, str]:
    """The environment of a worker: the same thread count for every library."""
    env = {k: v for k, v in os.environ.items() if k not in UNSET}
    env.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    return env


class Host:
    """One library's worker process, started when it is first asked, and again after it died."""

    def __init__(self, module: str, threads: int, cores: int, dtype: str, timeout_s: float) -> None:
        self.module, self.threads, self.cores, self.dtype, self.timeout_s = module, threads, cores, dtype, timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._stderr: Any = None

    def start(self) -> dict[str, Any]:
        """Start the process and greet it: what the library is and offers."""
        self.stop()
        self._stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed by `stop`)
        # A session of its own: Ctrl-C reaches the parent alone, which then ends the workers.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", self.module],
            cwd=ROOT, env=environment(self.threads), text=True, bufsize=1, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr,
        )  # fmt: skip
        if self.threads < self.cores and hasattr(os, "sched_setaffinity"):
            # Not every library's pool reads a variable; none can leave its cores.
            os.sched_setaffinity(self._process.pid, sorted(os.sched_getaffinity(0))[: self.threads])
        return self._ask("hello", threads=self.threads, dtype=self.dtype)

    @property
    def running(self) -> bool:
        return self._process is not None

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The worker's answer; `AskError` with its reason where it cannot give one."""
        if self._process is None:
            if command not in STARTING:
                raise WorkerDied("its worker died")
            self.start()
        return self._ask(command, **arguments)

    def _ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"cmd": command, **arguments}) + "\n")
            process.stdin.flush()
            line = self._read_line(process.stdout)
        except OSError:
            line = ""
        if not line:
            raise WorkerDied(self._obituary())
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise AskError(answer["error"])
        return answer

    def _read_line(self, stdout: Any) -> str:
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            if not selector.select(self.timeout_s):
                self.stop()
                raise WorkerDied(f"no answer in {self.timeout_s:g} s")
        return str(stdout.readline())

    def _obituary(self) -> str:
        assert self._process is not None
        code = self._process.wait(timeout=10)
        self._stderr.seek(0)
        lines = self._stderr.read().strip().splitlines()
        self.stop()
        ended = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        return f"worker died: {ended}" + (f", {lines[-1]}" if lines else "")

    def stop(self) -> None:
        """End the process, if there is one, without waiting for what it computes."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                try:
                    if stream is not None:
                        stream.close()
                except OSError:
                    pass
            self._process = None
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None
