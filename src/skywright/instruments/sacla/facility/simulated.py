"""The state of the double: rings of images, values and runs, fed by simulated shots in time."""

import heapq
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from itertools import count, cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.sacla.facility.link import NEWEST, APIError
from skywright.instruments.sacla.facility.runs import Run, Runs, RunStatus
from skywright.instruments.sacla.facility.settings import FacilitySettings
from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.twin import Beamline
from skywright.instruments.sacla.twin.beamline import GAIN, PHOTON_EV
from skywright.instruments.sacla.values import parse_value

Image = NDArray[np.float32]
ODD_VALUES = ("not-converged", "saturated", "", None)
FAULTS = ("wrong_tag", "socket", "calibration", "database")
WAIT_FOR_FUTURE_S = 5.0
UPSTREAM_S = 0.2
"""From a shot to the value of the upstream monitor, which answers before the one at the sample."""


class _Ring:
    """Images of one detector: the newest ones, and those of runs that are stored."""

    def __init__(self, images: int, history: int) -> None:
        self.images: OrderedDict[int, Image] = OrderedDict()
        self.stored: OrderedDict[tuple[int, int], Image] = OrderedDict()  # by high and low tag
        self.newest: tuple[int, Image] | None = None
        self.latest_s = 0.0
        self.reads: Counter[int] = Counter()  # by tag, of the images in the ring
        self.most_reads = 0
        self._most, self._history = images, history

    def count_read(self, tag: int) -> None:
        self.reads[tag] += 1
        self.most_reads = max(self.most_reads, self.reads[tag])

    def add(self, hightag: int, tag: int, image: Image) -> None:
        self.newest = (tag, image)
        self.images[tag] = self.stored[hightag, tag] = image
        if len(self.images) > self._most:
            gone, _ = self.images.popitem(last=False)
            del self.reads[gone]
        if len(self.stored) > self._history:
            self.stored.popitem(last=False)


class SimulatedFacility:
    """The simulated facility.

    Parameters
    ----------
    settings
        What is simulated.

    Attributes
    ----------
    changed
        Threads hold it while they call a method; `advance` notifies it.
    """

    def __init__(self, settings: FacilitySettings) -> None:
        self.settings = settings
        self._beamline = Beamline(settings.twin, settings.seed)
        self._random = np.random.default_rng([settings.seed, 1])
        self._odd = cycle(ODD_VALUES)
        self.runs = Runs(settings.tag_step, settings.running)
        self.changed = threading.Condition()
        self._ids = settings.equipment()
        self._values: dict[str, OrderedDict[tuple[int, int], str | None]] = {
            name: OrderedDict() for name in self._ids.values()
        }
        self._newest: dict[str, tuple[int, int]] = {}
        self._rings = {
            name: _Ring(settings.ring_images, settings.history) for name in settings.twin.detectors
        }
        self._made = 0  # shots
        self._now_s = 0.0
        self._order = count()
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._away: set[str] = set()
        self._silent: set[str] = set()
        self._faults: Counter[tuple[str, str]] = Counter()

    # ---- time

    def advance(self, seconds: float) -> None:
        """Move the time on; what is due is there afterwards."""
        with self.changed:
            self._now_s += seconds
            while self._made / self.settings.rate_hz <= self._now_s and self._made != (
                self.settings.shots
            ):
                self._make_shot()
            while self._coming and self._coming[0][0] <= self._now_s:
                heapq.heappop(self._coming)[2]()
            self.changed.notify_all()

    def advance_shots(self, shots: int) -> None:
        """Move the time on until this number of shots more was made; their data come later."""
        self.advance((self._made + shots - 0.5) / self.settings.rate_hz - self._now_s)

    def _make_shot(self) -> None:
        shot, self._made = self._made, self._made + 1
        hightag, tag = self.runs.hightag, self.runs.tag(shot)
        records: list[tuple[float, Record[Any]]] = list(self._beamline.shot(shot))
        moving = self._random.random() < self.settings.laser_moving
        if not shot % self.settings.every.get("upstream", 1):
            # Another monitor sees the same pulse, whatever becomes of the value of the first one.
            charge = f"{self._beamline.truth.pulse_energy * 1e-9:.4e}C"
            due = shot / self.settings.rate_hz + UPSTREAM_S + self.settings.database_lag_s
            self._plan(due, self._add_value, self._ids["upstream"], hightag, tag, charge)
        for arrival, record in records:
            if shot % self.settings.every.get(record.channel, 1):
                continue
            if record.channel in self._rings:
                # The images of a detector come in order.
                ring = self._rings[record.channel]
                due = ring.latest_s = max(ring.latest_s, arrival + self.settings.image_lag_s)
                self._plan(due, self._add_image, record.channel, hightag, tag, record.payload)
                continue
            due = arrival + self.settings.database_lag_s
            text = record.payload
            if text == "not-converged":
                text = next(self._odd)
            elif moving and record.channel in ("laser_open", "laser_close"):
                text = "0"
            self._plan(due, self._add_value, self._ids[record.channel], hightag, tag, text)

    def _plan(self, due_s: float, action: Callable[..., None], *arguments: Any) -> None:
        entry = (due_s, next(self._order), lambda: action(*arguments))
        heapq.heappush(self._coming, entry)

    def _add_image(self, detector: str, hightag: int, tag: int, image: Image) -> None:
        if detector not in self._silent:
            self._rings[detector].add(hightag, tag, image)

    def _add_value(self, equipment: str, hightag: int, tag: int, text: str | None) -> None:
        values = self._values[equipment]
        values[hightag, tag] = text
        if len(values) > self.settings.history:
            values.popitem(last=False)
        before = self._newest.get(equipment)
        if before is None or before[0] != hightag or tag > before[1]:
            self._newest[equipment] = (hightag, tag)

    # ---- what a control client may do

    def start_run(self, hightag: int | None = None, first: int | None = None) -> dict[str, int]:
        """Begin a run with the next shot."""
        run = self.runs.begin(self._made, hightag, first)
        return {"run": run.number, "hightag": run.hightag, "first": run.first}

    def stop_run(self) -> None:
        """End the run under way."""
        self.runs.end(self._made)

    def pause_run(self, is_paused: bool) -> None:
        """Pause the run, or go on with it."""
        self.runs.pause(is_paused)

    def remove_detector(self, detector: str) -> None:
        """Let a detector be absent."""
        self._check_detector(detector)
        self._away.add(detector)

    def restore_detector(self, detector: str) -> None:
        """Let an absent or silent detector work again."""
        self._check_detector(detector)
        self._away.discard(detector)
        self._silent.discard(detector)

    def stop_images(self, detector: str) -> None:
        """Let a detector give no more images; its ring stays."""
        self._check_detector(detector)
        self._silent.add(detector)

    def inject(self, kind: str, target: str, calls: int) -> None:
        """Let the next calls fail; arguments as of `FacilityControl.inject`."""
        if kind not in FAULTS:
            raise APIError(f"no fault {kind}; there are {', '.join(FAULTS)}")
        if kind == "database" and target not in self._values:
            raise APIError(f"no equipment {target}")
        if kind != "database":
            self._check_detector(target)
        self._faults[kind, target] += calls

    def pending_faults(self) -> int:
        """Return the number of injected faults that no call has met."""
        return sum(self._faults.values())

    def most_reads(self, detector: str) -> int:
        """Return how often the image was read that was read most often by its tag."""
        self._check_detector(detector)
        return self._rings[detector].most_reads

    def _take_fault(self, kind: str, target: str) -> bool:
        if self._faults[kind, target] <= 0:
            return False
        self._faults[kind, target] -= 1
        return True

    # ---- the database

    def read_runnumber_newest(self, beamline: int) -> int:
        """Return the number of the newest run."""
        self._check_beamline(beamline)
        return self.runs.runs[-1].number if self.runs.runs else 0

    def read_runstatus(self, beamline: int, run: int) -> int:
        """Return the status of a run."""
        self._check_beamline(beamline)
        return self.runs.find(run).status if self.runs.runs else RunStatus.NONE

    def read_hightagnumber(self, beamline: int, run: int) -> int:
        """Return the high tag of a run."""
        return self._run(beamline, run).hightag

    def read_start_tagnumber(self, beamline: int, run: int) -> tuple[int, int]:
        """Return (high tag, first low tag) of a run."""
        found = self._run(beamline, run)
        return found.hightag, found.first

    def read_end_tagnumber(self, beamline: int, run: int) -> tuple[int, int]:
        """Return (high tag, last low tag) of a run that has ended."""
        found = self._run(beamline, run)
        if found.last is None:
            raise APIError(f"run {run} has not ended")
        return found.hightag, found.last

    def read_taglist_byrun(self, beamline: int, run: int) -> list[int]:
        """Return the low tags of a run so far."""
        found = self._run(beamline, run)
        last = self.runs.tag(self._made - 1) if found.last is None else found.last
        return list(range(found.first, last + 1, self.settings.tag_step))

    def read_taglist(self, beamline: int, hightag: int, first: int, last: int) -> list[int]:
        """Return the low tags in a range."""
        self._check_beamline(beamline)
        return sorted(
            tag
            for run in self.runs.runs
            if run.hightag == hightag
            for tag in self.read_taglist_byrun(beamline, run.number)
            if first <= tag <= last
        )

    def read_taglist_bydetid(self, beamline: int, run: int, detector: str) -> list[int]:
        """Return the low tags of a run at which a detector has an image."""
        found, ring = self._run(beamline, run), self._ring(detector)
        return [
            tag
            for high, tag in ring.stored
            if high == found.hightag
            and tag >= found.first
            and (found.last is None or tag <= found.last)
        ]

    def read_tagnumber_newest(self, equipment: str) -> tuple[int, int]:
        """Return (high tag, low tag) of the newest value of an equipment."""
        self._check_equipment(equipment)
        if equipment not in self._newest:
            raise APIError(f"{equipment}: no value yet")
        return self._newest[equipment]

    def read_detidlist(self, beamline: int, run: int) -> list[str]:
        """Return the ids of the detectors of a run."""
        self._run(beamline, run)
        return [name for name in self._rings if name not in self._away]

    def read_equiplist(self) -> list[str]:
        """Return the ids of all equipment."""
        return list(self._values)

    def read_syncdatalist(
        self, equipment: str, hightag: int, tags: Iterable[int]
    ) -> list[str | None]:
        """Return values as text."""
        self._check_equipment(equipment)
        values = self._values[equipment]
        return [values.get((hightag, tag)) for tag in tags]

    def read_syncdatalist_float(
        self, equipment: str, hightag: int, tags: Iterable[int]
    ) -> list[float]:
        """Return values as numbers."""
        return [parse_value(text) for text in self.read_syncdatalist(equipment, hightag, tags)]

    def read_config_photonenergy_in_keV(self, beamline: int, run: int) -> float:
        """Return the configured photon energy."""
        self._run(beamline, run)
        return PHOTON_EV / 1000

    def _run(self, beamline: int, number: int) -> Run:
        self._check_beamline(beamline)
        return self.runs.find(number)

    def _check_beamline(self, beamline: int) -> None:
        if beamline != self.settings.beamline:
            raise APIError(f"no data of beamline {beamline} on this host")

    def _check_equipment(self, equipment: str) -> None:
        if equipment not in self._values:
            raise APIError(f"no equipment {equipment}")
        if self._take_fault("database", equipment):
            raise APIError(f"{equipment}: the database does not answer")

    # ---- images

    def open_reader(self, detector: str) -> None:
        """Connect to a detector."""
        self._ring(detector)

    def collect(self, detector: str, tag: int) -> tuple[int, Image, dict[str, Any]]:
        """Return an image of the ring: its tag, (rows, columns), and facts of the detector."""
        ring = self._ring(detector)
        if self._take_fault("socket", detector):
            raise APIError(f"-10102: {detector}: the socket was closed")
        if self._take_fault("calibration", detector):
            raise APIError(f"-10300: {detector}: no calibration")
        if self.settings.future == "wait" and tag != NEWEST:
            self.changed.wait_for(lambda: not self._is_future(ring, tag), WAIT_FOR_FUTURE_S)
        if ring.newest is not None and self.settings.future == "newest":
            tag = NEWEST if self._is_future(ring, tag) else tag
        if ring.newest is None or self._is_future(ring, tag):
            raise APIError(f"{detector}: tag {tag} is not there yet")
        if tag == NEWEST:
            return *ring.newest, self.facts(detector)
        if tag not in ring.images:
            raise APIError(f"-10000: {detector}: the data of tag {tag} are gone")
        ring.count_read(tag)
        image = ring.images[tag]
        if self._take_fault("wrong_tag", detector):
            tag, image = next(iter(ring.images.items()))
        return tag, image, self.facts(detector)

    @staticmethod
    def _is_future(ring: _Ring, tag: int) -> bool:
        if tag == NEWEST or tag in ring.images:
            return False
        return ring.newest is None or tag > ring.newest[0]

    def open_stored(self, detector: str, beamline: int, runs: list[int]) -> None:
        """Look for stored runs of a detector."""
        self._check_beamline(beamline)
        self._ring(detector)
        for run in runs:
            self.runs.find(run)

    def collect_stored(
        self, detector: str, beamline: int, runs: list[int], tag: int
    ) -> tuple[int, Image, dict[str, Any]]:
        """Return an image of stored runs."""
        self._check_beamline(beamline)
        ring = self._ring(detector)
        for number in runs:
            run = self.runs.find(number)
            inside = run.last is not None and run.first <= tag <= run.last
            if inside and (run.hightag, tag) in ring.stored:
                return tag, ring.stored[run.hightag, tag], self.facts(detector)
        raise APIError(f"-10000: {detector}: no data of tag {tag} in runs {runs}")

    def facts(self, detector: str) -> dict[str, Any]:
        """Return what ``read_det_info`` gives."""
        rows, columns = self.settings.shape
        facts: dict[str, Any] = {"id": detector, "xsize": columns, "ysize": rows}
        if detector in self.settings.cameras:
            return facts
        place = self.settings.detectors.index(detector)
        return facts | {
            "mp_absgain": GAIN,
            "mp_pixelsizex": 50.0,
            "mp_pixelsizey": 50.0,
            "mp_posx": 0.0,
            "mp_posy": place * rows * 50.0,
            "mp_posz": 0.0,
            "mp_rotationangle": 0.0,
            "mp_manipulator_shift": 0.0,
        }

    def _check_detector(self, detector: str) -> None:
        if detector not in self._rings:
            raise APIError(f"no such detector: {detector}")

    def _ring(self, detector: str) -> _Ring:
        self._check_detector(detector)
        if detector in self._away:
            raise APIError(f"-10101: cannot connect to {detector}")
        return self._rings[detector]
