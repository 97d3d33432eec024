"""What programs ask about GPUs before they fall back to the CPU: there are none."""

__all__ = ["device_count", "empty_cache", "is_available", "is_initialized", "manual_seed", "manual_seed_all"]


def is_available() -> bool:
    """False."""
    return False


def is_initialized() -> bool:
    """False."""
    return False


def device_count() -> int:
    """0."""
    return 0


def manual_seed(seed: int) -> None:
    """Nothing: `fastgrad.manual_seed` seeds the CPU."""


def manual_seed_all(seed: int) -> None:
    """Nothing: `fastgrad.manual_seed` seeds the CPU."""


def empty_cache() -> None:
    """Nothing: `fastgrad.memory` has the CPU's."""
