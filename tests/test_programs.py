"""tests/programs/: scripts for PyTorch, run with fastgrad by a change of their imports alone.

Each has `main`, which prints, checks that its losses fall, and returns numbers. Where PyTorch is installed, it runs the
script as it stands: the output must be the same text, and the numbers the same up to rounding.
"""

import contextlib
import io
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.py"))
# Some hundreds of steps, each rounded to 1e-16 or, in these, 6e-8: the error grows with their number, and once more
# where training leaves flat regions. A loss of single precision that has fallen to 1e-6 is itself rounding.
DOUBLE = {"rtol": 1e-9, "atol": 1e-14}
SINGLE = {"rtol": 1e-5, "atol": 1e-6}
IN_SINGLE = ("06_dynamic", "07_digits", "09_lecture", "13_convolution")


def with_fastgrad(source):
    """The script with `import torch` and the like for fastgrad, and nothing else changed."""
    source = re.sub(r"^import torch$", "import fastgrad as torch", source, flags=re.M)
    return re.sub(r"^(import|from) torch\.(\S+) (as|import) ", r"\1 fastgrad.\2 \3 ",
                  re.sub(r"^from torch import ", "from fastgrad import ", source, flags=re.M), flags=re.M)


def run(source, path):
    names = {"__name__": path.stem}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, path, "exec"), names)
        numbers = names["main"]()
    return printed.getvalue(), numbers


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated", "ignore:enable_nested_tensor")  # PyTorch's own
@pytest.mark.parametrize("path", PROGRAMS, ids=[path.stem for path in PROGRAMS])
def test_program(path):
    source = path.read_text(encoding="utf-8")
    changed = with_fastgrad(source)
    assert not re.search(r"\bimport torch\b(?!$)|\bfrom torch|\btorch\.\w+ as\b", changed)
    printed, numbers = run(changed, path)
    assert numbers
    assert np.isfinite(numbers).all()
    if find_spec("torch") is None:
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # much faster, on tensors this small
    try:
        expected, theirs = run(source, path)
    finally:
        torch.set_num_threads(threads)
    assert printed.replace("fastgrad.", "torch.") == expected
    np.testing.assert_allclose(numbers, theirs, **(SINGLE if path.stem in IN_SINGLE else DOUBLE))
