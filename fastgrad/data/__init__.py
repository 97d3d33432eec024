"""The data set that ships inside the package: UCI handwritten digits. README.md here states source and licence."""

from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["load_digits"]


def load_digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The 1,797 handwritten digits of the UCI test set, 8 x 8 pixels each.

    Returns ``(images, labels)``: float32 ``(1797, 64)``, pixels row by row, ink from 0 to 16, and int64 ``(1797,)``,
    the digits 0 to 9. Both are fresh arrays. Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
    Digits", UCI Machine Learning Repository, 1998, doi:10.24432/C50P49, licence CC BY 4.0.

    >>> images, labels = load_digits()
    >>> images.shape, labels[:5].tolist()
    ((1797, 64), [0, 1, 2, 3, 4])
    """
    with files(__name__).joinpath("digits.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        pixels: NDArray[Any] = arrays["X"]
        return pixels.reshape(len(pixels), -1).astype(np.float32), arrays["y"].astype(np.int64)
