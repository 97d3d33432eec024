"""The parser and the commands. ``main`` is the console script's entry point."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import fastgrad as fg
from fastgrad import kernels
from fastgrad.data import load_digits

from . import report, store, train
from .data import SUFFIXES, Table, read_features, read_training_table
from .errors import UserError, require
from .problem import CLASSIFICATION, REGRESSION, Problem, prepare

HIDDEN = 64

FIT_HELP = f"""\
Train a model and save it. Without DATA: the two-layer sigmoid net on the handwritten digits that ship with fastgrad.

DATA is a table ({", ".join(SUFFIXES)}) with named columns of numbers; the
column named by --target may also be text. In an npz file the array X (rows, features) holds the features, and
--target names the array of targets (default: y).

A text, true/false or categorical target, or integers with few distinct values, make a classification, other
numbers a regression; --task overrides. A part of the rows is held out: the model never learns from it, and the
loss, accuracy, RMSE and R^2 are measured on it. What is saved is the model after the last epoch.
"""

PREDICT_HELP = """\
Predict with a saved model. The columns of DATA are found by name, in any order; others are ignored. An npz file
gives its array X, whose columns must be those of the training, in order. The predictions are CSV, a row for a row
of DATA: the column `prediction`, and for a classification `probability_CLASS` for each class.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 2 after an error that was explained, or 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        if isinstance(
            sys.stdout, io.TextIOWrapper
        ):  # a name that the terminal's encoding lacks must not end the command
            sys.stdout.reconfigure(errors="backslashreplace")
        arguments.run(arguments)
        sys.stdout.flush()
        return 0
    except UserError as error:
        print(f"fastgrad {arguments.command}: error: {error}", file=sys.stderr)
        return 2
    except MemoryError:
        print(f"fastgrad {arguments.command}: error: there is not enough memory for this", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nfastgrad {arguments.command}: interrupted; no file was left half-written", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) left: nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


N = TypeVar("N", int, float)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastgrad", description="Train and use small models with fastgrad, an autograd engine for the CPU."
    )
    parser.add_argument("--version", action="version", version=f"fastgrad {fg.__version__}")
    count = _within(int, 1, 2**31 - 1, "a whole number from 1 up")
    seed = _within(int, 0, 2**63 - 1, "a whole number from 0 up")
    rate = _within(float, sys.float_info.min, sys.float_info.max, "a number above 0")
    fraction = _within(float, 1e-9, 1 - 1e-9, "a number between 0 and 1")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    raw = argparse.RawDescriptionHelpFormatter

    fit = commands.add_parser("fit", help="train a model and save it", description=FIT_HELP, formatter_class=raw)
    fit.set_defaults(run=_fit)
    fit.add_argument("data", nargs="?", type=Path, metavar="DATA", help="the table to learn from (default: the digits)")
    fit.add_argument("--target", metavar="COLUMN", help="the column to predict")
    fit.add_argument(
        "--ignore", action="append", default=[], metavar="COLUMN", help="leave a column out; may be repeated"
    )
    fit.add_argument("--task", choices=(REGRESSION, CLASSIFICATION), help="default: chosen from the target")
    fit.add_argument("--model", choices=store.MODELS, default="two-layer", help="default: %(default)s")
    fit.add_argument("--hidden", type=count, metavar="N", help=f"hidden units of the two-layer net (default: {HIDDEN})")
    fit.add_argument(
        "--epochs", type=count, default=25, metavar="N", help="passes over the data (default: %(default)s)"
    )
    fit.add_argument("--batch-size", type=count, default=32, metavar="N", help="rows per step (default: %(default)s)")
    fit.add_argument("--lr", type=rate, metavar="X", help="first learning rate, falls to 0 (default: printed)")
    fit.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="of split, shuffling, weights (default: %(default)s)"
    )
    fit.add_argument(
        "--test-fraction",
        type=fraction,
        default=0.2,
        metavar="X",
        help="part of the rows held out (default: %(default)s)",
    )
    fit.add_argument(
        "--out",
        type=Path,
        default=Path("model.safetensors"),
        metavar="FILE",
        help="the model file (default: %(default)s)",
    )
    fit.add_argument(
        "--plot", type=Path, metavar="FILE", help=f"draw the learning curve ({', '.join(report.PLOT_SUFFIXES)})"
    )

    predict = commands.add_parser(
        "predict", help="predict with a saved model", description=PREDICT_HELP, formatter_class=raw
    )
    predict.set_defaults(run=_predict)
    predict.add_argument("model", type=Path, metavar="MODEL", help="a file saved by fastgrad fit")
    predict.add_argument("data", type=Path, metavar="DATA", help=f"the rows to predict ({', '.join(SUFFIXES)})")
    predict.add_argument(
        "--out", default="predictions.csv", metavar="FILE", help="default: %(default)s; - is standard output"
    )

    info = commands.add_parser("info", help="print version, instruction set and threads")
    info.set_defaults(run=_info)
    return parser


def _within(kind: type[N], low: float, high: float, words: str) -> Callable[[str], N]:
    """An argument type for argparse: a number from ``low`` to ``high``; ``words`` say so to the user."""

    def convert(text: str) -> N:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if low <= value <= high:
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {words}")

    return convert


# fit -------------------------------------------------------------------------------------------------------------


def _fit(arguments: argparse.Namespace) -> None:
    table, source = _check_fit(arguments)
    shown = report.Report()
    if table is None:
        table = _digits()
        problem = prepare(table, CLASSIFICATION, arguments.test_fraction, arguments.seed, one_unit=True)
    else:
        problem = prepare(table, arguments.task, arguments.test_fraction, arguments.seed)
    hidden = None if arguments.model == "linear" else arguments.hidden or HIDDEN
    lr = arguments.lr or default_lr(problem, hidden)
    settings = train.Settings(arguments.model, hidden, arguments.epochs, arguments.batch_size, lr, arguments.seed)
    fg.manual_seed(settings.seed)
    model = train.build_model(hidden, len(problem.columns), problem.outputs)
    _describe(shown, table, source, problem, settings)

    began = time.perf_counter()
    epochs = []
    batches = math.ceil(len(problem.x_train) / settings.batch_size)
    shown.table_header(problem.task)
    with shown.progress(settings.epochs, batches) as on_batch:
        for epoch in train.train(model, problem, settings, on_batch):
            epochs.append(epoch)
            shown.table_row(epoch)
    seconds = time.perf_counter() - began

    info = store.ModelInfo(
        problem.task, settings.model, hidden, problem.columns, problem.target_name, problem.classes,
        problem.inputs, problem.target,
    )  # fmt: skip
    store.save_model(arguments.out, info, {name: tensor.numpy() for name, tensor in model.state_dict().items()})
    if arguments.plot:
        picture = report.plot(arguments.plot, epochs, problem.task, problem.target_name)
        store.write_atomically(arguments.plot, picture)
    _conclude(shown, arguments, problem, epochs[-1], seconds)


def _check_fit(arguments: argparse.Namespace) -> tuple[Table | None, str]:
    """All that can be refused before training; the table, or None for the digits, and where it comes from."""
    if arguments.data is None and (arguments.target or arguments.ignore or arguments.task):
        raise UserError("--target, --ignore and --task go with a data file: fastgrad fit DATA.csv --target COLUMN")
    if arguments.model == "linear" and arguments.hidden:
        raise UserError("--hidden has no meaning with --model linear, which has no hidden units")
    require("rich")
    require("safetensors")
    inputs = [arguments.data] if arguments.data else []
    store.check_output(arguments.out, (store.MODEL_SUFFIX,), inputs)
    if arguments.plot:
        store.check_output(arguments.plot, report.PLOT_SUFFIXES, [*inputs, arguments.out])
        report.check_plotting()
    if arguments.data is None:
        return None, "UCI handwritten digits (8 x 8 pixels; shipped with fastgrad; CC BY 4.0, doi:10.24432/C50P49)"
    return read_training_table(arguments.data, arguments.target, arguments.ignore), str(arguments.data)


def _digits() -> Table:
    images, labels = load_digits()
    columns = [f"pixel_{row}_{column}" for row in range(8) for column in range(8)]
    return Table(columns, images.astype(np.float64), "digit", labels, [])


def default_lr(problem: Problem, hidden: int | None) -> float:
    """A learning rate that trains well and does not diverge on standardised columns.

    In a regression the largest safe rate falls with the largest eigenvalue of the features' covariance, which
    correlated columns can raise up to their number; the steps of a classification are bounded.
    """
    if problem.task == CLASSIFICATION:
        return 0.3 if hidden else 0.1
    features = len(problem.columns)
    return min(0.05, 15 / features) if hidden else min(0.01, 0.3 / features)


def _describe(shown: report.Report, table: Table, source: str, problem: Problem, settings: train.Settings) -> None:
    rows, features = table.features.shape
    shown.line("data", f"{source}, {rows} rows, {features} feature{'s' * (features > 1)}")
    for text in table.skipped:
        shown.line("left out", text)
    constant = int((problem.inputs.scale == 0).sum())
    if constant:
        shown.line("note", f"{constant} of the features never change in the training rows and are not used")
    kind = f"{len(problem.classes)} classes" if problem.classes else "in the units of the file"
    why = f" ({problem.reason})" if problem.reason else ""
    shown.line("task", f"{problem.task} of {problem.target_name!r}, {kind}{why}")
    shown.line(
        "held out", f"{len(problem.x_test)} rows chosen at random, never trained on; {len(problem.x_train)} to train on"
    )
    layers = [len(problem.columns), *([settings.hidden] if settings.hidden else []), problem.outputs]
    name = "two-layer sigmoid net" if settings.hidden else "linear model"
    shown.line(
        "model",
        f"{name} {'-'.join(map(str, layers))}, {settings.epochs} epoch{'s' * (settings.epochs > 1)}, "
        f"batch size {settings.batch_size}, learning rate {settings.lr:g} falling to 0, seed {settings.seed}",
    )


def _conclude(
    shown: report.Report, arguments: argparse.Namespace, problem: Problem, last: train.Epoch, seconds: float
) -> None:
    scores, guess = last.held_out, train.baseline(problem)
    if problem.task == CLASSIFICATION:
        right = round(scores.accuracy * len(problem.x_test))
        result = (
            f"held-out accuracy {scores.accuracy:.2%} ({right} of {len(problem.x_test)} rows; "
            f"always the commonest class: {guess.accuracy:.2%})"
        )
    else:
        result = (
            f"held-out R^2 {report.number(scores.r2)}, RMSE {report.number(scores.rmse)} in units of "
            f"{problem.target_name!r} (always the mean: {report.number(guess.rmse)})"
        )
    shown.text(f"\n{result}, trained in {seconds:.1f} s", "bold green")
    shown.line("saved", str(arguments.out))
    if arguments.plot:
        shown.line("plot", str(arguments.plot))
    data = "DATA.npz   (its array X: rows of 64 pixels, 0 to 16)"
    if arguments.data:
        data = "DATA" + "".join(arguments.data.suffixes[-1:])
    shown.line("next", f"fastgrad predict {shlex.quote(str(arguments.out))} {data}")


# predict and info ------------------------------------------------------------------------------------------------


def _predict(arguments: argparse.Namespace) -> None:
    to_stdout = arguments.out == "-"
    out = Path(arguments.out)
    if not to_stdout:
        store.check_output(out, (".csv",), [arguments.data, arguments.model])
    info, state = store.load_model(arguments.model)
    model = train.build_model(info.hidden, len(info.columns), info.outputs)
    expected = {name: (tuple(tensor.shape), tensor.numpy().dtype) for name, tensor in model.state_dict().items()}
    if expected != {name: (array.shape, array.dtype) for name, array in state.items()}:
        raise UserError(f"{arguments.model} is damaged: its weights do not fit its description")
    model.load_state_dict({name: fg.tensor(array) for name, array in state.items()})
    features = read_features(arguments.data, info.columns)
    text = _predictions(info, train.forward(model, info.inputs.apply(features)))
    if to_stdout:
        if isinstance(sys.stdout, io.TextIOWrapper):  # as in the file
            sys.stdout.reconfigure(encoding="utf-8")
        sys.stdout.write(text)
        return
    store.write_atomically(out, text.encode())
    print(f"{len(features)} prediction{'s' * (len(features) > 1)} of {info.target_name!r} saved in {out}")


def _predictions(info: store.ModelInfo, outputs: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    """The predictions as CSV text, a header and a line per row."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if info.classes:
        writer.writerow(["prediction", *(f"probability_{name}" for name in info.classes)])
        names, best = info.classes, outputs.argmax(axis=1).tolist()
        for index, row in zip(best, np.exp(train.log_softmax(outputs)).tolist(), strict=True):
            writer.writerow([names[index], *(f"{probability:.6g}" for probability in row)])
    elif info.target:
        writer.writerow(["prediction"])
        writer.writerows([f"{value:.12g}"] for value in info.target.undo(outputs)[:, 0].tolist())
    return buffer.getvalue()


def _info(arguments: argparse.Namespace) -> None:
    print(f"fastgrad         {fg.__version__}")
    print(f"instruction set  {kernels.isa()}")
    print(f"threads          {fg.get_num_threads()}")
    print(f"python           {platform.python_version()}, numpy {np.__version__}, {platform.machine()}")
