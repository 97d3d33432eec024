"""CUDA: there is none."""


class _Matmul:
    """Programs set this; nothing reads it."""

    allow_tf32 = False


matmul = _Matmul()


def is_built() -> bool:
    """False."""
    return False
