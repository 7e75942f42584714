"""The base class of sources that poll in a thread."""

import threading

from skywright.acquire.source import PolledSource


class Counting(PolledSource[int]):
    def next(self, timeout_s: float) -> int:
        return 1


def test_a_source_that_stops_itself_does_not_delay_a_stop_by_another_thread() -> None:
    is_stopping, taken = threading.Event(), threading.Event()

    def deliver(item: int) -> None:
        taken.set()
        run = source._run
        assert run is not None
        assert run.stopping.wait(60)  # the other thread is in `stop` now
        source.stop()
        is_stopping.set()

    source = Counting("counting")
    source.start(deliver, lambda message: None)
    assert taken.wait(60)
    source.stop()  # raises if it has to wait until its time limit
    assert is_stopping.is_set()
