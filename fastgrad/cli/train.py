"""Fits the linear or the two-layer model to a problem by mini-batch SGD with momentum, and measures it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastgrad as fg
from fastgrad import nn, optim
from fastgrad.models import LinearModel, TwoLayerNet

from .errors import UserError
from .problem import CLASSIFICATION, Problem

MOMENTUM = 0.9
EVALUATION_ROWS = 4096  # rows per forward pass when nothing is learnt: bounds memory


@dataclass(frozen=True)
class Settings:
    model: str
    hidden: int | None  # None for a linear model
    epochs: int
    batch_size: int
    lr: float
    seed: int


@dataclass(frozen=True)
class Scores:
    """Measured on held-out rows. ``loss`` is what training minimises: cross-entropy, or squared standardised error."""

    loss: float
    accuracy: float = math.nan  # classification: fraction of rows, 0 to 1
    rmse: float = math.nan  # regression: root mean squared error in the target's units
    r2: float = math.nan  # regression: 1 - squared error / squared deviation from the held-out mean; nan if that is 0


@dataclass(frozen=True)
class Epoch:
    number: int  # from 1
    train_loss: float  # mean over the epoch's rows, each measured before the step that learnt from it
    held_out: Scores


def build_model(hidden: int | None, inputs: int, outputs: int) -> Any:
    """The linear model, or with ``hidden`` units the two-layer sigmoid net."""
    return (
        LinearModel(inputs, outputs) if hidden is None else TwoLayerNet(inputs, hidden, outputs, activation="sigmoid")
    )


def train(model: Any, problem: Problem, settings: Settings, on_batch: Callable[[], None]) -> Iterator[Epoch]:
    """Train ``model`` in place, one epoch per item; UserError when the loss stops being a finite number.

    The learning rate falls linearly from epoch to epoch, towards 0, so that the last epochs settle: it is the model
    after the last one that is kept, and at a constant rate that one can be a bad draw.
    """
    rng = np.random.default_rng([settings.seed, 1])
    loss_function = nn.CrossEntropyLoss() if problem.task == CLASSIFICATION else nn.MSELoss()
    optimiser = optim.SGD(model.parameters(), lr=settings.lr, momentum=MOMENTUM)
    rows = len(problem.x_train)

    @fg.capture
    def step(x: Any, y: Any) -> Any:
        return train_step(model, loss_function, optimiser, x, y)

    for number in range(1, settings.epochs + 1):
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * (1 - (number - 1) / settings.epochs)
        order = rng.permutation(rows)
        total = 0.0
        for start in range(0, rows, settings.batch_size):
            batch = order[start : start + settings.batch_size]
            loss = step(problem.x_train[batch], problem.y_train[batch]).item()
            if not math.isfinite(loss):
                raise _diverged(number, settings)
            total += loss * len(batch)
            on_batch()
        scores = evaluate(model, problem)
        if not math.isfinite(scores.loss):
            raise _diverged(number, settings)
        yield Epoch(number, total / rows, scores)


def train_step(model: Any, loss_function: Any, optimiser: Any, x: Any, y: Any) -> Any:
    """One update from one batch; returns the loss before it, a scalar tensor."""
    optimiser.zero_grad()
    loss = loss_function(model(x), y)
    loss.backward()
    optimiser.step()
    return loss


def _diverged(number: int, settings: Settings) -> UserError:
    return UserError(
        f"training diverged in epoch {number}: the loss is no longer a finite number; "
        f"try a smaller --lr (it was {settings.lr:g})"
    )


def forward(model: Any, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """The model's outputs for standardised rows, float64 ``(rows, outputs)``."""
    with fg.no_grad():
        parts = [
            model(fg.tensor(x[start : start + EVALUATION_ROWS])).numpy() for start in range(0, len(x), EVALUATION_ROWS)
        ]
    return np.concatenate(parts).astype(np.float64)


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithms of class probabilities, ``(rows, classes)``."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def evaluate(model: Any, problem: Problem) -> Scores:
    """Scores on the held-out rows."""
    outputs = forward(model, problem.x_test)
    if not np.isfinite(outputs).all():
        return Scores(math.nan)
    if problem.target is None:
        rows = np.arange(len(outputs))
        loss = -log_softmax(outputs)[rows, problem.y_test].mean()
        return Scores(float(loss), accuracy=float((outputs.argmax(axis=1) == problem.y_test).mean()))
    wanted = problem.y_test.astype(np.float64)
    return _regression_scores(wanted - outputs, wanted, float(problem.target.scale[0]))


def baseline(problem: Problem) -> Scores:
    """Scores of a guess that looks at no feature: the commonest class, or the mean, of the training rows."""
    if problem.target is None:
        guess = np.bincount(problem.y_train).argmax()
        return Scores(math.nan, accuracy=float((problem.y_test == guess).mean()))
    wanted = problem.y_test.astype(np.float64)
    return _regression_scores(wanted, wanted, float(problem.target.scale[0]))  # standardised: the mean is 0


def _regression_scores(errors: NDArray[np.float64], wanted: NDArray[np.float64], scale: float) -> Scores:
    loss = float(np.mean(errors**2))
    spread = float(np.var(wanted))
    return Scores(loss, rmse=math.sqrt(loss) * scale, r2=1 - loss / spread if spread > 0 else math.nan)
