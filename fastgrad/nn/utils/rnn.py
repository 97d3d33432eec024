"""Sequences of different lengths in one tensor."""

from collections.abc import Iterable

from fastgrad import ops
from fastgrad.tensor import Tensor

__all__ = ["pad_sequence", "unpad_sequence"]


def pad_sequence(
    sequences: Tensor | Iterable[Tensor], batch_first: bool = False, padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:  # fmt: skip
    """Tensors (length, ...) as one: (longest, count, ...), or (count, longest, ...) with `batch_first`.

    What is missing on the "right" or the "left" becomes `padding_value`. RuntimeError for none at all, or another side.
    """
    parts = list(sequences)
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
