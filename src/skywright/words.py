"""Numbers of things as people read them."""


def counted(number: int, noun: str) -> str:
    """Return a number of things as text: ``1 run``, ``2 runs``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
