"""CUDA: there is none."""


def is_built() -> bool:
    """False."""
    return False
