"""Compiling the kernels of the loop's analysis ahead of their use."""

from skywright.instruments.loop import centering, detect


def warm_up_analysis() -> None:
    """Compile detection and fits by running them on small input."""
    detect.warm_up()
    centering.warm_up()
