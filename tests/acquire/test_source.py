"""The base class of sources that poll in a thread."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from skywright.acquire.source import PolledSource
from skywright.errors import ConfigError, HardwareError


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


def test_a_start_does_not_open_beside_a_source_that_still_releases_what_it_opened() -> None:
    opened: list[int] = []
    go_on = threading.Event()

    class Stuck(Counting):
        stop_limit_s = 0.05

        def open(self) -> None:
            opened.append(0)
            raise ConfigError("no such file")

        def halt(self) -> None:
            assert go_on.wait(60)

    source = Stuck("stuck")
    with pytest.raises(ConfigError, match="no such file"):
        source.start(lambda item: None, lambda message: None)
    with pytest.raises(HardwareError, match="has not ended"):
        source.start(lambda item: None, lambda message: None)
    assert len(opened) == 1
    source.stop_limit_s = 60.0
    go_on.set()
    with pytest.raises(ConfigError, match="no such file"):
        source.start(lambda item: None, lambda message: None)
    assert len(opened) == 2
