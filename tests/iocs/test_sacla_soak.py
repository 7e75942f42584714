"""Shots at 60 Hz for ten minutes, eight tiles each: none is lost, memory and page keep up."""

import threading
import time
from pathlib import Path

import epics
import numpy as np
import psutil
import pytest
from ioc_process import IocProcess, running_ioc
from support.waiting import until

from skywright.files.columns import ColumnReader
from skywright.instruments.sacla.layouts import SHOTS, TAG
from skywright.instruments.sacla.owner import IMAGE_PERIOD_S

RATE_HZ = 60.0
MEMORY_BYTES = 20_000_000
DISPLAY_S = 2.0
SMALL = ("--rows", "256", "--columns", "128", "--pool", "16")
OCTAL = ("--tiles", "8", "--pool", "12", "--workers", "2")


def put(ioc: IocProcess, name: str, value: object) -> None:
    assert epics.caput(ioc.prefix + name, value, wait=True, timeout=60) == 1


def get(ioc: IocProcess, name: str) -> float:
    value = epics.caget(ioc.prefix + name, timeout=10, use_monitor=False)
    assert value is not None, name
    return float(value)


def memory(ioc: IocProcess) -> int:
    """Return the memory of the IOC and its workers that is theirs alone, bytes."""
    parent = psutil.Process(ioc.process.pid)
    return sum(each.memory_full_info().uss for each in (parent, *parent.children(recursive=True)))


def memory_between_images(ioc: IocProcess) -> int:
    """Return the least of many looks at the memory, bytes.

    Running images are written every 10 s and need memory for the moment; what grows for good is
    seen between them.
    """
    looks = []
    for _ in range(2 * round(IMAGE_PERIOD_S)):
        looks.append(memory(ioc))
        threading.Event().wait(0.6)
    print(f"memory {min(looks) / 1e6:.0f} MB, at most {max(looks) / 1e6:.0f} MB")
    return min(looks)


@pytest.mark.parametrize(
    ("seconds", "size", "is_soak"),
    [
        pytest.param(6.0, SMALL, False, id="small"),
        pytest.param(
            600.0,
            OCTAL,
            True,
            id="octal",
            marks=[pytest.mark.soak, pytest.mark.timeout(1200)],
        ),
    ],
)
def test_no_shot_is_lost(
    tmp_path: Path, seconds: float, size: tuple[str, ...], is_soak: bool
) -> None:
    pace = ("--rate", str(RATE_HZ), "--auto-start")
    with running_ioc("iocs.sacla", "--source", "sim", *pace, *size) as ioc:
        until(lambda: get(ioc, "Count:accepted_RBV") > 60, 120, "shots are analyzed")
        shown: list[float] = []
        curves = epics.PV(
            f"{ioc.prefix}Curve:sequence_RBV", callback=lambda **_: shown.append(time.monotonic())
        )
        put(ioc, "HDF1:FilePath", f"{tmp_path}/")
        put(ioc, "HDF1:FileTemplate", "%s%s.h5")
        put(ioc, "HDF1:FileName", "shots")
        put(ioc, "HDF1:Capture", 1)
        if is_soak:
            threading.Event().wait(60.0)  # images of each kind have their memory
            settled = memory_between_images(ioc)
        wanted = int(seconds * RATE_HZ)
        limit_s = 3 * seconds + 60
        until(lambda: get(ioc, "HDF1:NumCaptured_RBV") >= wanted, limit_s, "all shots are recorded")
        grown = memory_between_images(ioc) - settled if is_soak else 0
        put(ioc, "HDF1:Capture", 0)
        assert get(ioc, "Lost_RBV") == 0
        for reason in ("late", "duplicate", "no_frame", "no_value"):
            assert get(ioc, f"Count:{reason}_RBV") == 0
        with ColumnReader(tmp_path / "shots.h5", TAG.path) as reader:
            tags, accepted = reader.read(TAG.path), reader.read(f"{SHOTS}/accepted")
            sums = reader.read(f"{SHOTS}/sum_ev")
        assert len(tags) >= wanted
        assert (np.diff(tags) == 1).all()
        assert np.isfinite(sums[accepted == 1, 0]).all()
        assert len(shown) >= 2
        if is_soak:
            period = float(np.diff(shown).max())
            print(f"memory grew by {grown / 1e6:.1f} MB, longest display period {period:.2f} s")
            assert grown < MEMORY_BYTES
            assert period <= DISPLAY_S
        curves.disconnect()
