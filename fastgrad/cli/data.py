"""Reads the user's data files (csv, parquet, npz) into plain arrays, and says what is wrong with a file."""

from __future__ import annotations

import difflib
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UserError, first_line, listed, require

TEXT_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_TEXT_REMEDY = "turn it into numbers first, or leave the column out with --ignore COLUMN"
SUFFIXES = (*TEXT_SUFFIXES, ".parquet", ".npz")


@dataclass
class Table:
    """What a model learns from: finite features float64 ``(rows, columns)`` and the target as the file had it."""

    columns: list[str]
    features: NDArray[np.float64]
    target_name: str
    target: NDArray[Any]  # (rows,), bool, integer, float64 or object (text)
    skipped: list[str]  # what was left out, in words


def read_training_table(path: Path, target: str | None, ignore: Sequence[str] = ()) -> Table:
    """Features and target of a data file. ``target`` may be None for an npz file only, where it means the array ``y``.

    Raises UserError for whatever makes the file unusable: missing values, text columns, an unknown name, no rows.
    """
    frame, skipped = _read(path, "y" if target is None else target, "X")
    columns = [str(name) for name in frame.columns]
    if target is None and path.suffix.lower() != ".npz":
        raise UserError(f"--target is needed to say which column of {path} to predict: {listed(columns)}")
    target = target or "y"
    for name in (target, *ignore):
        _check_name(name, columns, path)
    if target in ignore:
        raise UserError(f"{target!r} is both the target and ignored")
    if not len(frame):
        raise UserError(f"{path} has no rows, only the names of its columns")
    features = frame.drop(columns=[target, *ignore])
    if not features.shape[1]:
        raise UserError(f"{path} has no column to learn from besides the target {target!r}")
    _check_missing(frame.drop(columns=list(ignore)), path)
    names = [str(name) for name in features.columns]
    return Table(names, _numbers(features, path, _TEXT_REMEDY), target, _target(frame[target], path), skipped)


def read_features(path: Path, columns: Sequence[str]) -> NDArray[np.float64]:
    """The named feature columns of a data file, in that order, float64 ``(rows, len(columns))``; others are ignored.

    The array ``X`` of an npz file has no names: its columns are taken in order, and their number must be right.
    """
    frame, _ = _read(path, None, "X")
    if path.suffix.lower() == ".npz":
        if frame.shape[1] != len(columns):
            raise UserError(f"the model takes {len(columns)} features, but X in {path} has {frame.shape[1]} columns")
        frame.columns = list(columns)
    lacking = [name for name in columns if name not in frame.columns]
    if lacking:
        raise UserError(f"{path} lacks {_columns(lacking)} that the model was trained on")
    if not len(frame):
        raise UserError(f"{path} has no rows, only the names of its columns")
    frame = frame[list(columns)]
    _check_missing(frame, path)
    return _numbers(frame, path, "the model was trained on numbers there")


# Reading: every format becomes a pandas DataFrame with unique text names -----------------------------------------


def _read(path: Path, target: str | None, features: str) -> tuple[Any, list[str]]:
    """A data file as a DataFrame, and what was left out. ``features`` and ``target`` name the arrays of an npz file."""
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise UserError(f"cannot tell the format of {path}: a data file ends in {', '.join(SUFFIXES)}")
    if not path.exists():
        raise UserError(f"there is no file {path}")
    if path.is_dir():
        raise UserError(f"{path} is a directory, not a data file")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    pandas = require("pandas")
    try:
        if name.endswith(TEXT_SUFFIXES):
            frame = _read_text(path, "\t" if ".tsv" in name[-7:] else ",", pandas)
        elif name.endswith(".parquet"):
            frame = _read_parquet(path, pandas)
        else:
            frame = _read_npz(path, target, features, pandas)
    except (UserError, MemoryError):
        raise
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: it is not text in UTF-8") from error
    except Exception as error:  # three libraries' readers: whatever they raise, the file is what the user can mend
        raise UserError(f"cannot read {path}: {first_line(error)}") from error
    names = [str(column) for column in frame.columns]
    frame.columns = names
    repeated = sorted({column for column in names if column and names.count(column) > 1})
    if repeated:
        raise UserError(f"{path} has more than one column named {listed(repeated)}")
    nameless = names.count("")
    if nameless:
        frame = frame.drop(columns=[""])
        return frame, [f"{nameless} column{'s' * (nameless > 1)} without a name (row numbers?)"]
    return frame, []


def _read_text(path: Path, separator: str, pandas: Any) -> Any:
    options: dict[str, Any] = {"sep": separator, "encoding": "utf-8-sig", "skipinitialspace": True}
    try:
        # Read apart: pandas would rename repeated and empty names, and hide that they were.
        header = pandas.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, **options)
    except pandas.errors.EmptyDataError as error:
        raise UserError(f"{path} is empty") from error
    names = [name.strip() for name in header.iloc[0]]
    if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
        used = "semicolons" if ";" in names[0] else "tabs (name it .tsv)"
        raise UserError(f"{path} has one column only, {names[0]!r}: it seems to be separated by {used}, not by commas")
    with warnings.catch_warnings():
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        try:
            frame = pandas.read_csv(path, header=0, index_col=False, low_memory=False, **options)
        except pandas.errors.ParserWarning as error:
            raise UserError(f"{path} has rows with more fields than its header has names") from error
    frame.columns = names
    return frame


def _read_parquet(path: Path, pandas: Any) -> Any:
    try:
        return pandas.read_parquet(path)
    except ImportError as error:
        raise UserError("reading parquet files needs pyarrow; install it with: pip install pyarrow") from error


def _read_npz(path: Path, target: str | None, features: str, pandas: Any) -> Any:
    """Columns ``x0, x1 ...`` of the feature array, flattened from its second axis on, then the target by name."""
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is not an npz archive (numpy.savez writes one)")
    with np.load(path, allow_pickle=False) as arrays:
        for name in (features, *([target] if target else [])):
            if name not in arrays.files:
                raise UserError(f"{path} has no array {name!r}{_hint(name, arrays.files)}")
        try:
            inputs = arrays[features]
            targets = arrays[target] if target else None
        except ValueError as error:
            if "pickle" not in str(error):
                raise
            # the one kind of array that is not loaded, as it could run code
            raise UserError(f"{path} holds Python objects; save plain arrays of numbers or text") from error
    if inputs.ndim < 2:
        raise UserError(
            f"{features} in {path} has shape {inputs.shape}; it needs one row per example: (rows, features)"
        )
    frame = pandas.DataFrame(inputs.reshape(len(inputs), -1) if inputs.size else np.empty((len(inputs), 1)))
    frame.columns = [f"x{i}" for i in range(frame.shape[1])]
    if targets is not None:
        if targets.shape not in ((len(inputs),), (len(inputs), 1)):
            raise UserError(f"{target} in {path} has shape {targets.shape}; {features} has {len(inputs)} rows")
        frame.insert(frame.shape[1], target, targets.reshape(-1))  # refuses a target named like a feature
    return frame


# Checking --------------------------------------------------------------------------------------------------------


def _check_name(name: str, columns: Sequence[str], path: Path) -> None:
    if name not in columns:
        raise UserError(f"{path} has no column {name!r}{_hint(name, columns)}")


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; it has {listed(known)}"


def _columns(names: Sequence[str]) -> str:
    return f"the column{'s' * (len(names) > 1)} {listed(names)}"


def _check_missing(frame: Any, path: Path) -> None:
    counts = frame.isna().sum()
    counts = counts[counts > 0]
    if len(counts):
        words = [f"{name!r} ({count} of {len(frame)} rows)" for name, count in counts.items()]
        more = f" and {len(words) - 8} more columns" if len(words) > 8 else ""
        raise UserError(
            f"{path} has missing values in {', '.join(words[:8])}{more}; fill them in or remove those rows first"
        )


def _numbers(frame: Any, path: Path, remedy: str) -> NDArray[np.float64]:
    """The columns as float64 ``(rows, columns)``; one that is not numbers, or not finite, is named in the error."""
    pandas = require("pandas")
    kinds = pandas.api.types
    wrong = [
        name
        for name in frame.columns
        if not kinds.is_bool_dtype(frame[name]) and not kinds.is_any_real_numeric_dtype(frame[name])
    ]
    if wrong:
        words = []
        for name in wrong[:8]:
            text = frame[name][pandas.to_numeric(frame[name].astype(str), errors="coerce").isna()]
            example = f", such as {str(text.iloc[0])!r}" if len(text) else ""
            words.append(f"{name!r} ({len(text) or len(frame)} of {len(frame)} rows{example})")
        more = f" and {len(wrong) - 8} more columns" if len(wrong) > 8 else ""
        raise UserError(f"{path} has text where numbers are needed: {', '.join(words)}{more}; {remedy}")
    numbers: NDArray[np.float64] = frame.to_numpy(dtype=np.float64)
    infinite = ~np.isfinite(numbers).all(axis=0)
    if infinite.any():
        raise UserError(f"{path} has infinite values in {_columns([str(name) for name in frame.columns[infinite]])}")
    return numbers


def _target(series: Any, path: Path) -> NDArray[Any]:
    """The target as bool, integer, float64 or, for text and categories, object."""
    kinds = require("pandas").api.types
    if kinds.is_bool_dtype(series):
        return np.asarray(series.to_numpy(dtype=bool))
    if isinstance(series.dtype, require("pandas").CategoricalDtype):
        return np.asarray(series.astype(object).to_numpy(dtype=object))
    if kinds.is_integer_dtype(series):
        return np.asarray(series.to_numpy(dtype=getattr(series.dtype, "numpy_dtype", series.dtype)))
    if kinds.is_float_dtype(series):
        values = np.asarray(series.to_numpy(dtype=np.float64))
        if not np.isfinite(values).all():
            raise UserError(f"{path} has infinite values in the target {series.name!r}")
        return values
    if kinds.is_datetime64_any_dtype(series) or kinds.is_timedelta64_dtype(series) or kinds.is_complex_dtype(series):
        raise UserError(f"{path}: the target {series.name!r} is {series.dtype}; it must be numbers or class names")
    return np.asarray([str(value) for value in series], dtype=object)
