"""A subscriber that fails must not end the run."""

import logging
from typing import Any

import pytest

from skywright.callbacks.isolated import isolated


def test_a_failing_table_leaves_the_run_alone(RE: Any, caplog: pytest.LogCaptureFixture) -> None:
    from bluesky.plans import count
    from ophyd.sim import det

    seen: list[str] = []

    def bad_table(name: str, doc: Any) -> None:
        if name == "event":
            raise ZeroDivisionError("no column")

    RE.subscribe(isolated(bad_table))
    RE.subscribe(isolated(lambda name, doc: seen.append(name)))
    with caplog.at_level(logging.ERROR, "skywright.callbacks.isolated"):
        assert RE(count([det], 3)).exit_status == "success"
        assert RE(count([det], 2)).exit_status == "success"
    assert seen.count("event") == 5
    assert seen.count("stop") == 2
    # The first failure of each run is logged in full, the others are not repeated.
    assert [record.getMessage() for record in caplog.records] == 2 * [
        f"{bad_table.__qualname__} failed on a event document; the run goes on"
    ]
    assert "ZeroDivisionError: no column" in caplog.text


def test_it_is_ours_that_makes_the_difference(RE: Any) -> None:
    """Without it the RunEngine fails the run: the behavior that `isolated` is there for."""
    from bluesky.plans import count
    from ophyd.sim import det

    def bad_table(name: str, doc: Any) -> None:
        raise ZeroDivisionError

    RE.subscribe(bad_table)
    with pytest.raises(ZeroDivisionError):
        RE(count([det], 1))
