"""save and load: tensors in the safetensors format, which holds no code.

A file is the length of its header (8 bytes, little-endian), the header (JSON: for each name a dtype, a shape, and where
its bytes begin and end in what follows), and the bytes of the tensors, without gaps. `__metadata__` in the header maps
strings to strings. https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from collections.abc import Mapping
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastgrad.tensor import Tensor, device, from_numpy

__all__ = ["load", "save"]

Path: TypeAlias = str | os.PathLike[str]

MAX_HEADER = 100_000_000  # as in the reference implementation
MAX_DIMS = 8
STRUCTURE = "fastgrad.structure"  # the metadata's entry that says how tensors are nested

_DTYPES = {
    "BOOL": np.dtype(np.bool_), "U8": np.dtype(np.uint8), "I8": np.dtype(np.int8), "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"), "I64": np.dtype("<i8"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8"),
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


# ------------------------------------------------------------------------------------------ arrays and bytes


def dump_arrays(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file. TypeError for a dtype or a name that the format has no place for."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    # The largest items first, so that all of them are aligned.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    chunks = []
    begin = 0
    for name in order:
        if not isinstance(name, str) or name == "__metadata__":
            raise TypeError(f"a tensor cannot be saved under the name {name!r}")
        array = np.asarray(arrays[name])
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _NAMES:
            raise TypeError(f"cannot save {name!r}: its dtype is {array.dtype}")
        data = array.astype(dtype, copy=False).tobytes()
        header[name] = {"dtype": _NAMES[dtype], "shape": list(array.shape), "data_offsets": [begin, begin + len(data)]}
        begin += len(data)
        chunks.append(data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *chunks])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in the header")
    return found


def _whole(n: object) -> bool:
    return type(n) is int and 0 <= n < 1 << 63


def _parse(data: bytes | bytearray) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    if len(data) < 8:
        raise ValueError("it is shorter than 8 bytes")
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER or length > len(data) - 8:
        raise ValueError(f"its header would take {length} bytes")
    header = json.loads(bytes(data[8 : 8 + length]).decode(), object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not strings")
    size = len(data) - 8 - length
    arrays: dict[str, NDArray[Any]] = {}
    spans = []
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"the entry of {name!r} is not a dtype, a shape and offsets")
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(map(_whole, shape)):
            raise ValueError(f"the shape of {name!r} is {shape}")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_whole, offsets)):
            raise ValueError(f"the offsets of {name!r} are {offsets}")
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
            raise ValueError(f"the dtype of {name!r} is {entry['dtype']}, which fastgrad does not have")
        dtype = _DTYPES[entry["dtype"]]
        begin, end = offsets
        if not begin <= end <= size or end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"the offsets of {name!r} are {offsets}, with shape {shape} in {size} bytes")
        spans.append((begin, end))
        array = np.frombuffer(data, dtype, math.prod(shape), 8 + length + begin).reshape(shape)
        if dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
            raise ValueError(f"{name!r} has booleans other than 0 and 1")
        arrays[name] = array.astype(dtype.newbyteorder("="))  # a copy: writable, aligned, and of nothing else
    reached = 0
    for begin, end in sorted(spans):
        if begin != reached:
            raise ValueError("its tensors overlap or leave gaps")
        reached = end
    if reached != size:
        raise ValueError(f"it has {size - reached} bytes that belong to no tensor")
    return arrays, metadata


def parse_arrays(data: bytes | bytearray) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays and the metadata of a safetensors file's bytes. ValueError, with the reason, for anything else."""
    try:
        return _parse(data)
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"not a safetensors file: {error}") from error


# ------------------------------------------------------------------------------------------ save and load


def _flatten(thing: Any, path: str, arrays: dict[str, NDArray[Any]]) -> Any:
    """What describes `thing` in JSON; its tensors go into `arrays`."""
    if isinstance(thing, Tensor):
        while path in arrays or path in ("", "__metadata__"):
            path += "_"
        arrays[path] = thing.detach().numpy()
        return {"tensor": path}
    if isinstance(thing, Mapping):
        return {"dict": [[_flatten(key, "", {}) if _plain(key) else _refuse(key),
                          _flatten(value, f"{path}.{key}" if path else str(key), arrays)]
                         for key, value in thing.items()]}  # fmt: skip
    if isinstance(thing, np.generic):
        return _flatten(thing.item(), path, arrays)
    if isinstance(thing, list | tuple):
        parts = [_flatten(part, f"{path}.{i}" if path else str(i), arrays) for i, part in enumerate(thing)]
        return {"list" if isinstance(thing, list) else "tuple": parts}
    return thing if _plain(thing) else _refuse(thing)


def _plain(thing: object) -> bool:
    return thing is None or type(thing) in (bool, int, float, str)


def _refuse(thing: object) -> Any:
    raise TypeError(
        f"cannot save {type(thing).__name__}: save() takes tensors, numbers, strings, None, and dicts, lists and "
        f"tuples of them; for a module, save its state_dict()"
    )


def _rebuild(shape: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    if not isinstance(shape, dict):
        if not _plain(shape):
            raise ValueError("its structure is damaged")
        return shape
    ((kind, value),) = shape.items()
    if kind == "tensor":
        return from_numpy(arrays[value])
    if kind == "dict":
        return {_rebuild(key, arrays): _rebuild(part, arrays) for key, part in value}
    parts = [_rebuild(part, arrays) for part in value]
    return {"list": parts, "tuple": tuple(parts)}[kind]


def save(obj: Any, f: Path | IO[bytes]) -> None:
    """Write a state dict, or tensors nested in dicts, lists and tuples, to a path or a binary file.

    The format is safetensors, which no code can hide in; other programs read a state dict's tensors under their names.
    Numbers (NumPy's as Python's), strings, None and the nesting are kept in the metadata. A path is replaced whole or
    not at all. TypeError for other objects. Tensors that share memory are apart after loading; `requires_grad` is not
    kept.
    """
    arrays: dict[str, NDArray[Any]] = {}
    structure = _flatten(obj, "", arrays)
    flat = isinstance(obj, Mapping) and bool(obj) and list(obj) == list(arrays)
    metadata = {"format": "pt"} if flat else {STRUCTURE: json.dumps(structure)}
    if flat:
        metadata["fastgrad.order"] = json.dumps(list(arrays))
    content = dump_arrays(arrays, metadata)
    if not isinstance(f, str | os.PathLike):
        f.write(content)
        return
    target = os.path.realpath(f)
    temporary = f"{target[:200]}.{secrets.token_hex(6)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def load(
    f: Path | IO[bytes], map_location: Any = None, *, weights_only: bool | None = None, mmap: bool | None = None
) -> Any:
    """What `save` wrote to a path or a binary file, or the dict of tensors of any safetensors file.

    The tensors do not require grad. ValueError for what is not a sound safetensors file, or has dtypes that fastgrad
    does not have; nothing in a file is ever run, whatever `weights_only`. `map_location` may be None or "cpu".
    """
    if map_location is not None:
        device(map_location)  # RuntimeError for another than the CPU
    if isinstance(f, str | os.PathLike):
        with open(f, "rb") as file:
            data = file.read()
    else:
        data = f.read()
    arrays, metadata = parse_arrays(data)
    try:
        if STRUCTURE in metadata:
            return _rebuild(json.loads(metadata[STRUCTURE]), arrays)
        names = json.loads(metadata.get("fastgrad.order", "null"))
        if isinstance(names, list) and len(names) == len(arrays) and set(names) == arrays.keys():
            arrays = {name: arrays[name] for name in names}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"not a file that save() wrote: {error}") from error
    return {name: from_numpy(array) for name, array in arrays.items()}
