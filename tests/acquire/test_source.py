"""The base class of sources that poll in a thread."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from skywright.acquire.source import PolledSource
from skywright.errors import ConfigError


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


def test_a_start_that_fails_waits_until_the_source_has_released_what_it_opened() -> None:
    """Else it would release what the next start opens."""
    is_halting, go_on = threading.Event(), threading.Event()

    class Closed(Counting):
        stop_limit_s = 60.0

        def open(self) -> None:
            raise ConfigError("no such file")

        def halt(self) -> None:
            is_halting.set()
            assert go_on.wait(60)

    source = Closed("closed")
    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(source.start, lambda item: None, lambda message: None)
        assert is_halting.wait(60)
        assert not wait([start], 0.1).done
        go_on.set()
        with pytest.raises(ConfigError, match="no such file"):
            start.result(60)
