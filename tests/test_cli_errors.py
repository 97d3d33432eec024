"""Commands that fail: a sentence, the exit status, and no file left, whole or half.

What makes a data file unusable is in test_data_files.py.
"""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

for library in ("pandas", "rich", "safetensors"):
    pytest.importorskip(library)

from safetensors import safe_open  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

from fastgrad.cli import store  # noqa: E402
from fastgrad.cli.main import main  # noqa: E402

TABLE = "a,b,y,z\n" + "".join(f"{i},{i * i},{'pq'[i % 2]},{i}.5\n" for i in range(20))
FIT = ("fit", "data.csv", "--target", "y", "--epochs", "1")


@pytest.fixture(autouse=True)
def _in_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data.csv").write_text(TABLE)


@pytest.fixture
def model():
    assert main([*FIT, "--ignore", "z"]) == 0


def listing() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def status(arguments: Sequence[str]) -> object:
    """The exit status; argparse's own errors exit at once."""
    try:
        return main(arguments)
    except SystemExit as exit:
        return exit.code


def fails(capsys, *arguments: str) -> str:
    """Run a command that must fail with exit status 2: what it says. The directory is as it was before."""
    before = listing()
    capsys.readouterr()
    assert status(arguments) == 2
    assert listing() == before
    error = capsys.readouterr().err
    assert error.count(": error: ") == 1
    return error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--epochs 0", "--epochs: '0' is not a whole number from 1 up"),
        ("--epochs -3", "--epochs: '-3' is not"),
        ("--epochs many", "--epochs: 'many' is not"),
        ("--batch-size 0", "--batch-size: '0'"),
        ("--hidden 1.5", "--hidden: '1.5'"),
        ("--lr 0", "--lr: '0' is not a number above 0"),
        ("--lr nan", "--lr: 'nan'"),
        ("--lr inf", "--lr: 'inf'"),
        ("--seed -1", "--seed: '-1'"),
        ("--test-fraction 1", "--test-fraction: '1' is not a number between 0 and 1"),
        ("--model deep", "invalid choice: 'deep'"),
        ("--task guess", "invalid choice: 'guess'"),
        ("--bogus", "unrecognized arguments: --bogus"),
        ("--target y", "go with a data file"),
        ("--model linear --hidden 3", "--hidden has no meaning with --model linear"),
        ("data.csv --target y --task regression", "'y' is not numeric"),
        ("data.csv --target z --ignore y --task classification", "20 classes in 20 rows"),
        ("data.csv --target y --ignore y", "both the target and ignored"),
        ("data.csv --target y --ignore c", "no column 'c'"),
        ("--out no/such/m.safetensors", "there is no directory no/such"),
        ("--out m.pt", "must end in .safetensors"),
        ("--out dir.safetensors", "not a regular file"),
        ("--plot curve.bmp", "must end in .png or .svg or .pdf"),
        ("--plot no/curve.png", "there is no directory no"),
    ],
)
def test_fit_refuses(arguments, words, capsys):
    Path("dir.safetensors").mkdir()
    assert words in fails(capsys, "fit", *arguments.split())


def test_no_command(capsys):
    assert "required: COMMAND" in fails(capsys)


def test_divergence_saves_nothing(capsys):
    error = fails(capsys, "fit", "data.csv", "--target", "z", "--ignore", "y", "--lr", "1e30")
    assert "training diverged in epoch " in error
    assert "smaller --lr (it was 1e+30)" in error


def test_outputs_do_not_replace_inputs(model, capsys):
    os.rename("model.safetensors", "m.csv")
    assert "would replace" in fails(capsys, "predict", "m.csv", "data.csv", "--out", "data.csv")
    assert "would replace" in fails(capsys, "predict", "m.csv", "data.csv", "--out", "./m.csv")


def test_predict_refuses_data(model, capsys):
    Path("lacks.csv").write_text("b,c\n1,2\n")
    assert "lacks the column 'a' that the model was trained on" in fails(
        capsys, "predict", "model.safetensors", "lacks.csv"
    )
    Path("gap.csv").write_text("a,b\n1,2\n,3\n")
    assert "missing values in 'a' (1 of 2 rows)" in fails(capsys, "predict", "model.safetensors", "gap.csv")
    Path("text.csv").write_text("a,b\n1,x\n2,3\n")
    assert "'b' (1 of 2 rows, such as 'x')" in fails(capsys, "predict", "model.safetensors", "text.csv")
    Path("huge.csv").write_text("a,b\n1e300,2\n")
    assert "too large" in fails(capsys, "predict", "model.safetensors", "huge.csv")
    Path("none.csv").write_text("a,b\n")
    assert "no rows" in fails(capsys, "predict", "model.safetensors", "none.csv")
    np.savez("wide.npz", X=np.zeros((3, 3)))
    assert "takes 2 features, but X in wide.npz has 3" in fails(capsys, "predict", "model.safetensors", "wide.npz")
    assert "must end in .csv" in fails(capsys, "predict", "model.safetensors", "data.csv", "--out", "p.txt")
    assert "there is no directory no" in fails(capsys, "predict", "model.safetensors", "data.csv", "--out", "no/p.csv")


def test_predict_refuses_models(model, capsys):
    def predict(name: str) -> str:
        return fails(capsys, "predict", name, "data.csv")

    assert "there is no model file none" in predict("none")
    assert "is a directory" in predict(".")
    assert "not a model file that `fastgrad fit` saved" in predict("data.csv")
    Path("empty.safetensors").touch()
    assert "not a model file" in predict("empty.safetensors")
    Path("cut.safetensors").write_bytes(Path("model.safetensors").read_bytes()[:-4])
    assert "not a model file" in predict("cut.safetensors")
    weights = load_file("model.safetensors")
    save_file(weights, "other.safetensors")
    assert "is a safetensors file, but not a model that `fastgrad fit` saved" in predict("other.safetensors")

    with safe_open("model.safetensors", framework="numpy") as file:
        about = file.metadata()["fastgrad"]
    save_file({name: array.T.copy() for name, array in weights.items()}, "shape.safetensors", {"fastgrad": about})
    assert "its weights do not fit its description" in predict("shape.safetensors")
    for old, new, words in (
        ('"format": 1', '"format": 2', "newer version"),
        ('"task"', '"tusk"', "does not make sense"),
        ('"hidden": 64', '"hidden": -1', "does not make sense"),
        ('["p", "q"]', '["p"]', "does not make sense"),
        ('"mean": [', '"mean": [NaN, ', "does not make sense"),
        ("{", "", "does not make sense"),
        ('"hidden": 64', '"hidden": 63', "do not fit"),
    ):
        assert old in about
        save_file(weights, "damaged.safetensors", {"fastgrad": about.replace(old, new, 1)})
        assert words in predict("damaged.safetensors")


@pytest.mark.parametrize(
    ("library", "arguments"),
    [
        ("rich", "fit"),
        ("safetensors", "fit"),
        ("pandas", "fit data.csv --target y"),
        ("matplotlib", "fit --plot curve.png"),
        ("safetensors", "predict model.safetensors data.csv"),
    ],
)
def test_missing_library(library, arguments, model, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    error = fails(capsys, *arguments.split())
    assert f"needs {library}" in error
    assert 'pip install "fastgrad[cli]"' in error


# Files are whole or absent


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(step, existing, capsys, monkeypatch):
    if existing:
        Path("model.safetensors").write_text("old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    assert "cannot write model.safetensors: No space left on device" in fails(capsys, *FIT, "--ignore", "z")


def test_interrupt_while_writing(capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    Path("model.safetensors").write_text("old")
    before = listing()
    monkeypatch.setattr(os, "fsync", interrupt)
    assert main(FIT) == 130
    assert "interrupted; no file was left half-written" in capsys.readouterr().err
    assert listing() == before


def test_write_goes_through_a_symbolic_link():
    Path("real").mkdir()
    Path("real/file.csv").write_text("old")
    os.symlink("real/file.csv", "link.csv")
    store.write_atomically(Path("link.csv"), b"new")
    assert os.path.islink("link.csv")
    assert Path("real/file.csv").read_bytes() == b"new"


# Default handlers, as in an interactive shell: a parent in the background may have had them ignored.
RUN = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("fastgrad", run_name="__main__")
"""


def test_ctrl_c_while_training():
    before = listing()
    command = [sys.executable, "-c", RUN, "fit", "--epochs", "100000", "--plot", "curve.png"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert any(line.split()[:1] == ["2"] for line in process.stdout)  # the second epoch is over
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == "\nfastgrad fit: interrupted; no file was left half-written\n"
    assert listing() == before


def test_a_reader_that_leaves_early_is_no_error(model):
    np.savez("many.npz", X=np.zeros((100_000, 2)))
    command = [sys.executable, "-c", RUN, "predict", "model.safetensors", "many.npz", "--out", "-"]
    environment = os.environ | {"PYTHONUNBUFFERED": ""}  # unbuffered, Python does not notice
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline().startswith("prediction,")
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 1
