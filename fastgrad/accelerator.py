"""What programs ask about devices other than the CPU: there are none."""

from fastgrad.cuda import device_count, is_available

__all__ = ["current_accelerator", "device_count", "is_available"]


def current_accelerator(check_available: bool = False) -> None:
    """None."""
