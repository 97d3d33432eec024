"""Files on disk: written whole or not at all, and the model file (safetensors).

A model file holds the state dict's tensors under their own names, so that ``load_state_dict`` takes them as they are;
all else that a prediction needs (columns, standardisation, class names) is JSON in its metadata under ``fastgrad``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UserError, first_line, require
from .problem import CLASSIFICATION, REGRESSION, Scaling

FORMAT = 1
MODEL_SUFFIX = ".safetensors"
MODELS = ("linear", "two-layer")


def check_output(path: Path, suffixes: Sequence[str], inputs: Sequence[Path] = ()) -> None:
    """Raise UserError now, before the work, if ``path`` could not be written, or would replace one of ``inputs``."""
    if path.suffix.lower() not in suffixes:
        raise UserError(f"cannot write {path}: the name must end in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no directory {path.parent}")
    if path.exists() and not path.is_file():
        raise UserError(f"cannot write {path}: it exists and is not a regular file")
    if not os.access(path.resolve().parent, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {path}: no permission to write in {path.resolve().parent}")
    for other in inputs:
        if path.resolve() == other.resolve():
            raise UserError(f"writing {path} would replace another file of this command; choose another name")


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary name in the same directory, then rename: ``path`` is the old file or the whole new one."""
    target = path.resolve()  # through a symbolic link, as an ordinary write would
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException as error:  # an interrupt too
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error
        raise


@dataclass(frozen=True)
class ModelInfo:
    """What a model file says about its model, besides the weights."""

    task: str
    model: str  # one of MODELS
    hidden: int | None  # None for a linear model
    columns: list[str]
    target_name: str
    classes: list[Any] | None
    inputs: Scaling
    target: Scaling | None

    @property
    def outputs(self) -> int:
        return len(self.classes) if self.classes else 1


def save_model(path: Path, info: ModelInfo, state: Mapping[str, NDArray[Any]]) -> None:
    """Write the model file; ``state`` maps the state dict's names to arrays."""
    described = {
        "format": FORMAT, "task": info.task, "model": info.model, "hidden": info.hidden, "columns": info.columns,
        "target": info.target_name, "classes": info.classes,
        "inputs": _scaling_to_json(info.inputs), "outputs": info.target and _scaling_to_json(info.target),
    }  # fmt: skip
    arrays = {name: np.ascontiguousarray(array) for name, array in state.items()}
    write_atomically(path, require("safetensors.numpy").save(arrays, metadata={"fastgrad": json.dumps(described)}))


def load_model(path: Path) -> tuple[ModelInfo, dict[str, NDArray[Any]]]:
    """A model file's description and weights; UserError if it is not one."""
    if not path.exists():
        raise UserError(f"there is no model file {path}")
    if path.is_dir():
        raise UserError(f"{path} is a directory, not a model file")
    safetensors = require("safetensors")
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            described = (file.metadata() or {}).get("fastgrad")
            if described is None:
                raise UserError(f"{path} is a safetensors file, but not a model that `fastgrad fit` saved")
            info = _parse(described, path)
            return info, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a model file that `fastgrad fit` saved ({first_line(error)})") from error


def _parse(described: str, path: Path) -> ModelInfo:
    try:
        fields = json.loads(described)
        if fields["format"] > FORMAT:
            raise UserError(f"{path} was saved by a newer version of fastgrad; upgrade to read it")
        info = ModelInfo(
            fields["task"],
            fields["model"],
            fields["hidden"],
            [str(name) for name in fields["columns"]],
            str(fields["target"]),
            fields["classes"],
            _scaling_from_json(fields["inputs"]),
            fields["outputs"] and _scaling_from_json(fields["outputs"]),
        )
        sound = (
            info.model in MODELS
            and (info.hidden is None) == (info.model == "linear")
            and (info.hidden is None or (isinstance(info.hidden, int) and info.hidden > 0))
            and len(info.columns) == len(info.inputs.mean) > 0
            and (
                (info.task == CLASSIFICATION and isinstance(info.classes, list) and len(info.classes) > 1)
                or (
                    info.task == REGRESSION
                    and info.classes is None
                    and info.target is not None
                    and len(info.target.mean) == 1
                )
            )
        )
        if not sound:
            raise ValueError("contradictory fields")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged: its description of the model does not make sense ({first_line(error)})"
        ) from error
    return info


def _scaling_to_json(scaling: Scaling) -> dict[str, list[float]]:
    return {"mean": scaling.mean.tolist(), "scale": scaling.scale.tolist()}


def _scaling_from_json(fields: Mapping[str, Sequence[float]]) -> Scaling:
    mean, scale = [float(x) for x in fields["mean"]], [float(x) for x in fields["scale"]]
    if len(mean) != len(scale) or not all(map(math.isfinite, mean + scale)) or min(scale, default=0.0) < 0:
        raise ValueError("bad standardisation")
    return Scaling(np.array(mean), np.array(scale))
