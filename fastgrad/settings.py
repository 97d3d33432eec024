"""Settings that programs for several devices make, and that change nothing here: they are kept for who asks."""

__all__ = [
    "are_deterministic_algorithms_enabled", "get_float32_matmul_precision", "set_float32_matmul_precision",
    "use_deterministic_algorithms",
]  # fmt: skip

from fastgrad.recorder import at_replay, refuse

_precision = "highest"
_deterministic = False


def set_float32_matmul_precision(precision: str) -> None:
    """"highest", "high" or "medium", else ValueError. Products are always of the highest precision."""
    global _precision
    refuse("set_float32_matmul_precision() in a captured function: a replay would not repeat it. Call it outside")
    if precision not in ("highest", "high", "medium"):
        raise ValueError(f"precision is highest, high or medium, not {precision!r}")
    _precision = precision


def get_float32_matmul_precision() -> str:
    """What was set."""
    at_replay(get_float32_matmul_precision)
    return _precision


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """There are no others."""
    global _deterministic
    refuse("use_deterministic_algorithms() in a captured function: a replay would not repeat it. Call it outside")
    _deterministic = bool(mode)


def are_deterministic_algorithms_enabled() -> bool:
    """What was set."""
    at_replay(are_deterministic_algorithms_enabled)
    return _deterministic
