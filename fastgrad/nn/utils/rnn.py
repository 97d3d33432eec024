"""Sequences of different lengths in one tensor."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastgrad import ops
from fastgrad.tensor import Tensor, from_numpy

__all__ = [
    "PackedSequence", "pack_padded_sequence", "pack_sequence", "pad_packed_sequence", "pad_sequence", "unpack_sequence",
    "unpad_sequence",
]  # fmt: skip


class PackedSequence(NamedTuple):
    """Sequences of falling lengths, step by step: the first elements of all, the second ones of those that have one.

    `batch_sizes` (int64) says how many there are in each step. `sorted_indices` sorted the sequences, and
    `unsorted_indices` leads back; None where they were sorted.
    """

    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None = None
    unsorted_indices: Tensor | None = None

    def to(self, *args: Any, **keywords: Any) -> "PackedSequence":
        """The same with `data` in another dtype."""
        return self._replace(data=self.data.to(*args, **keywords))


def pack_padded_sequence(
    input: Tensor, lengths: Tensor | Sequence[int], batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """The sequences (longest, count, ...), or (count, longest, ...) with `batch_first`, without what pads them.

    RuntimeError for a length below 1, or lengths that grow where `enforce_sorted`.
    """
    sizes = np.asarray(lengths.numpy() if isinstance(lengths, Tensor) else lengths, np.int64)
    x = ops.as_tensor(input)
    x = x.transpose(0, 1) if batch_first else x
    if sizes.size != x.shape[1]:
        raise RuntimeError(f"Expected `len(lengths)` to be equal to batch_size, but got {sizes.size} ({x.shape[1]=})")
    if sizes.min() < 1:
        raise RuntimeError("Length of all samples has to be greater than 0, but 'lengths' has an element that is not")
    order = None
    if not enforce_sorted:
        places = np.argsort(-sizes, kind="stable")
        order, sizes = from_numpy(places), sizes[places]
        x = x.index_select(1, order)
    elif (np.diff(sizes) > 0).any():
        raise RuntimeError("`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can "
                           "pass `enforce_sorted=False` to pack_padded_sequence")
    counts = (sizes > np.arange(sizes[0])[:, None]).sum(1)
    data = ops.cat([x[step, : int(count)] for step, count in enumerate(counts)])
    return PackedSequence(data, from_numpy(counts), order, None if order is None else ops.argsort(order))


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """The reverse of `pack_padded_sequence`: the padded tensor and the lengths. ValueError if `total_length` is less
    than the longest."""
    counts = sequence.batch_sizes.numpy()
    lengths = from_numpy((counts[:, None] > np.arange(counts[0])).sum(0))
    parts = list(sequence.data.split(counts.tolist()))
    if total_length is not None:
        if total_length < len(parts):
            raise ValueError(f"Expected total_length to be at least the length of the longest sequence in input, but "
                             f"got total_length={total_length} and max sequence length being {len(parts)}")
        parts += [parts[0][:0]] * (total_length - len(parts))
    size, rest = int(counts[0]), sequence.data.shape[1:]
    rows = ops.stack([
        ops.cat([part, part.new_full((size - part.shape[0], *rest), padding_value)]) for part in parts
    ])  # fmt: skip
    if sequence.unsorted_indices is not None:
        rows = rows.index_select(1, sequence.unsorted_indices)
        lengths = lengths[sequence.unsorted_indices]
    return rows.transpose(0, 1) if batch_first else rows, lengths


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """`pack_padded_sequence` of sequences (length, ...)."""
    return pack_padded_sequence(pad_sequence(sequences), [len(part) for part in sequences], False, enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences that were packed."""
    rows, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(rows, lengths, batch_first=True)


def pad_sequence(
    sequences: Tensor | Iterable[Tensor], batch_first: bool = False, padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:  # fmt: skip
    """Tensors (length, ...) as one: (longest, count, ...), or (count, longest, ...) with `batch_first`.

    What is missing on the "right" or the "left" becomes `padding_value`. RuntimeError for none at all, or another side.
    """
    parts = [ops.as_tensor(part) for part in sequences]
    if not parts:
        raise RuntimeError("pad_sequence: received an empty list of sequences")
    if padding_side not in ("left", "right"):
        raise RuntimeError(f"Expected padding_side to be one of left or right, but got {padding_side}.")
    longest = max(part.shape[0] for part in parts)
    padded = []
    for part in parts:
        missing = part.new_full((longest - part.shape[0], *part.shape[1:]), padding_value)
        padded.append(ops.cat([part, missing] if padding_side == "right" else [missing, part]))
    return ops.stack(padded, 0 if batch_first else 1)


def unpad_sequence(padded_sequences: Tensor, lengths: Tensor, batch_first: bool = False) -> list[Tensor]:
    """The sequences that `pad_sequence` made one tensor of, given their lengths."""
    rows = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    return [row[: int(n)] for row, n in zip(rows.unbind(0), lengths, strict=True)]
