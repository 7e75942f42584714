"""A process that gets only a part of the processor's time."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

PERIOD_S = 0.04


@contextmanager
def slowed(pid: Callable[[], int | None], times: float) -> Iterator[None]:
    """Stop a process for a part of each period, so that it is slower by a factor.

    Parameters
    ----------
    pid
        Returns the process; None: there is none at present.
    times
        The factor.
    """
    over = threading.Event()

    def send(number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            if (found := pid()) is not None:
                os.kill(found, number)

    def hinder() -> None:
        while not over.is_set():
            send(signal.SIGSTOP)
            over.wait(PERIOD_S * (1 - 1 / times))
            send(signal.SIGCONT)
            over.wait(PERIOD_S / times)

    thread = threading.Thread(target=hinder, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        send(signal.SIGCONT)
