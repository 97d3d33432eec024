"""cuDNN: there is none. Programs set these; nothing reads them."""

enabled = True
benchmark = False
deterministic = False
allow_tf32 = True


def is_available() -> bool:
    """False."""
    return False
