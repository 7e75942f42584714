"""Pulses lost in a crash are counted by the process after it; those after a stop are not."""

from pathlib import Path

import pytest
from support.psss_scripted import make_pulse

from skywright.acquire.counters import Counters
from skywright.instruments.psss.continuity import CAUSE, Continuity
from skywright.instruments.psss.processor import process_pulse
from skywright.instruments.psss.settings import Settings


def take(path: Path, *pulse_ids: int) -> tuple[Continuity, int]:
    """Take pulses as a new process does; return how many it says were lost in the crash."""
    counters = Counters()
    continuity = Continuity(path, counters)
    for pulse_id in pulse_ids:
        pulse = make_pulse(pulse_id, None)
        continuity.offer(process_pulse(pulse, 0, Settings(), counters))
    return continuity, counters.as_dict().get(CAUSE, 0)


def test_killed_and_stopped(tmp_path: Path) -> None:
    path = tmp_path / "new" / "last_pulse"
    assert take(path, 10, 12, 14)[1] == 0
    continuity, lost = take(path, 24, 26)  # the one before was killed: 16, 18, 20, 22
    assert lost == 4
    continuity.stopped()
    continuity, lost = take(path, 100, 102)
    assert lost == 0
    assert take(path, 104)[1] == 0  # killed, and none lost
    assert take(path, 50)[1] == 0  # a sender that counts anew
    assert take(path, 10**10)[1] == 0  # another clock


def test_the_rate_may_have_fallen_since(tmp_path: Path) -> None:
    path = tmp_path / "last_pulse"
    take(path, 10, 11, 12)[0].stopped()
    assert take(path, 100, 104, 108)[1] == 0
    assert take(path, 124)[1] == 3


def test_a_pulse_lost_just_before_the_crash_is_no_lower_rate(tmp_path: Path) -> None:
    path = tmp_path / "last_pulse"
    take(path, 10, 12, 14, 18)
    assert take(path, 24)[1] == 2


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 24, b"x" * 99])
def test_a_file_that_is_another(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "last_pulse"
    path.write_bytes(content)
    assert take(path, 7, 8)[1] == 0
    assert take(path, 10)[1] == 1


def test_without_a_place_nothing_is_noted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert take(tmp_path / "file" / "last_pulse", 1, 5)[1] == 0
