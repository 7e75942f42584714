"""What a client of the IOC of shots sees, and when: octal shots at 60 Hz, all analyses on.

The IOC takes no shot before its recording begins, so the n-th accepted shot of the file is the n-th
one of the curves. The file says when it was whole.
"""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.processes import own_channel_access, running
from benchmarks.rows import report
from skywright.files.columns import ColumnReader
from skywright.instruments.sacla.layouts import SHOTS, TAG

SECONDS, WARM_UP_S, LIMIT_S = 20.0, 4.0, 60.0
RATE_HZ, TILES = 60.0, 8
PREFIX = "BENCH:SACLA:"
DISPLAYS = ("Mean", "Newest", "Recent", "Curve")
EVERYWHERE = "-1,-1;600,-1;600,1100;-1,1100"


class Seen:
    """Updates that a client of the IOC receives: curves, and images that come once a second."""

    def __init__(self) -> None:
        import epics

        self.curves: list[tuple[float, float]] = []
        """Time, unix s, and the number of shots that are in the curves then."""
        self.updates: dict[str, list[float]] = {name: [] for name in DISPLAYS}
        self._counts = {"on": 0.0, "off": 0.0}
        self._pvs = [
            *(
                epics.PV(f"{PREFIX}Count:accepted_{side}_RBV", callback=self._count(side))
                for side in self._counts
            ),
            *(
                epics.PV(f"{PREFIX}{name}:sequence_RBV", callback=self._update(name))
                for name in DISPLAYS
            ),
        ]
        for pv in self._pvs:
            pv.wait_for_connection(LIMIT_S)

    def _count(self, side: str) -> Callable[..., None]:
        def take(value: float = 0.0, **_: object) -> None:
            self._counts[side] = value

        return take

    def _update(self, name: str) -> Callable[..., None]:
        def take(**_: object) -> None:
            now = time.time()
            self.updates[name].append(now)
            if name == "Curve":
                self.curves.append((now, sum(self._counts.values())))

        return take

    def close(self) -> None:
        """End the monitors."""
        for pv in self._pvs:
            pv.disconnect()


def delays(whole: NDArray[np.float64], curves: list[tuple[float, float]]) -> NDArray[np.float64]:
    """Return the time from each shot to the first curves that have it, s.

    Parameters
    ----------
    whole
        (n,) unix s, when each accepted shot was whole.
    curves
        Times, and the numbers of shots in the curves then.
    """
    times, counts = np.array(curves).T
    shown = np.searchsorted(np.maximum.accumulate(counts), np.arange(1, len(whole) + 1))
    is_shown = shown < len(times)
    return np.asarray(times[shown[is_shown]] - whole[is_shown])


def longest(times: list[float], since: float, until: float) -> float:
    """Return the longest time without an update, s."""
    return float(np.diff([since, *(each for each in times if since < each < until), until]).max())


def bench_live() -> None:
    """Time octal shots on their way to a client, and what it displays meanwhile."""
    port = own_channel_access()
    import epics

    where = ("--prefix", PREFIX, "--port", str(port), "--source", "sim", "--rate", str(RATE_HZ))
    analyses = ["--tiles", str(TILES), "--pool", "12", "--workers", "2", "--profiles"]
    for k in range(TILES):
        analyses += ["--roi", f"roi{k}:MPCCD-8N0-3-002-{k + 1}:{EVERYWHERE}"]
    with tempfile.TemporaryDirectory() as folder, running("iocs.sacla", *where, *analyses):
        seen = Seen()
        epics.caput(f"{PREFIX}HDF1:FilePath", f"{folder}/", wait=True, timeout=LIMIT_S)
        epics.caput(f"{PREFIX}HDF1:Capture", 1, wait=True, timeout=LIMIT_S)
        path = Path(epics.caget(f"{PREFIX}HDF1:FullFileName_RBV", as_string=True))
        threading.Event().wait(WARM_UP_S)
        since = time.time()
        threading.Event().wait(SECONDS)
        until = time.time()
        lost = epics.caget(f"{PREFIX}Lost_RBV")
        epics.caput(f"{PREFIX}HDF1:Capture", 0, wait=True, timeout=LIMIT_S)
        seen.close()
        with ColumnReader(path, TAG.path) as reader:
            whole = reader.read(f"{SHOTS}/time")[reader.read(f"{SHOTS}/accepted") == 1]
    is_timed = (whole >= since) & (whole < until)
    found = delays(whole, seen.curves)
    timed = found[is_timed[: len(found)]]
    more = {"median": float(np.median(timed)), "shots": len(timed), "lost": int(lost)}
    report(
        "sacla: shot to updated curve, p95", float(np.percentile(timed, 95)), "s", goal=0.5, **more
    )
    periods = {name: longest(times, since, until) for name, times in seen.updates.items()}
    images = np.diff([each for each in seen.updates["Mean"] if since < each < until])
    report(
        "sacla: display period, longest",
        max(periods.values()),
        "s",
        goal=2.0,
        median_of_images=float(np.median(images)) if len(images) else None,
        **{name.lower(): period for name, period in periods.items()},
    )
