"""Recording the frames of a run: slots for modules, an index for each slot and product."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from skywright.acquire.columns_layout import Rows
from skywright.acquire.index_layout import IndexLayout, Records
from skywright.acquire.owner import Owner
from skywright.acquire.recorder import Recorder
from skywright.acquire.source import Source
from skywright.files.beside import sibling
from skywright.instruments.panoseti.event_table import EventsLayout
from skywright.instruments.panoseti.products import PRODUCTS, Product
from skywright.instruments.panoseti.received import ReceivedFrames, newest_clocks
from skywright.instruments.panoseti.records import index_layout, records_of
from skywright.instruments.panoseti.sources.rundir import FrameGroup

SLOTS = 4
"""Modules that have PVs and indexes by default."""
CLOCK_S = 60.0
"""The state of a board's clock is known for this time after its newest packet, s."""
QUEUE_BYTES = 16_000_000
"""Of the rows that wait for the disk, of each index."""
QUEUE_TIMEOUT_S = 20.0
"""Frames are in files: reading waits this long for a slow disk before rows are lost."""

UNREAD = ("file not readable", "file replaced")
"""Causes by which a source counts files that it reads no further."""


class RunSource(Source[FrameGroup], Protocol):
    """A source of the frames of one run after the other."""

    data_dir: Path
    """Where the files are."""

    @property
    def run(self) -> str:
        """Name of the run whose frames are delivered; empty if there is none."""

    @property
    def has_ended(self) -> bool:
        """Whether this run is over and all of its frames are delivered."""

    def rewind(self, run: str = "") -> None:
        """Deliver all frames of one run from its start, and no others; the source is stopped.

        `lost` counts files that cannot be read, and frames that are cut, from here on.

        Parameters
        ----------
        run
            Name of its directory; empty: the newest run, or the first one that comes.
        """


class ModuleSlots:
    """Modules of one recording: they take slots in the order in which they appear."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._lock = threading.Lock()
        self._modules: list[int] = []
        self._further: set[int] = set()

    def slot(self, module: int) -> int | None:
        """Return the slot of a module, a new one if need be; None if all are taken."""
        with self._lock:
            if module not in self._modules:
                if len(self._modules) >= self.count:
                    self._further.add(module)
                    return None
                self._modules.append(module)
            return self._modules.index(module)

    def clear(self) -> None:
        """Empty all slots."""
        with self._lock:
            self._modules.clear()
            self._further.clear()

    @property
    def modules(self) -> list[int]:
        """Module of each slot that is taken."""
        with self._lock:
            return list(self._modules)

    @property
    def further(self) -> list[int]:
        """Modules without a slot."""
        with self._lock:
            return sorted(self._further)


class _SlotLayout(IndexLayout):
    """The index of one slot and product."""

    def __init__(self, slots: ModuleSlots, slot: int, product: Product) -> None:
        plain = index_layout(product)
        super().__init__(f"{product.name} of slot {slot + 1}", plain.identity, plain.extra)
        self._slots, self._slot, self._product = slots, slot, product
        self.next_identity = 0

    def row_group(self, result: FrameGroup) -> Records | None:
        """Return the records of a group of this slot and product."""
        frames = result.frames
        if frames.product != self._product or self._slots.slot(frames.module) != self._slot:
            return None
        records = records_of(frames, result.path, result.sizes, self.next_identity)
        self.next_identity += len(frames)
        return records


@dataclass(frozen=True)
class IndexKey:
    """What an index is of: a slot, from 0, and a product."""

    slot: int
    product: str

    @property
    def name(self) -> str:
        """For files, streams and PVs: ``m1_img16``."""
        return f"m{self.slot + 1}_{self.product}"


class _FrameOwner(Owner[FrameGroup, FrameGroup]):
    def expects_items(self) -> bool:
        """Return False: a run may have no new frames for a long time."""
        return False


class Tracker:
    """Owner of the frames below a data directory, with an index for each slot and product.

    Parameters
    ----------
    source
        Of the frames.
    slots
        Number of modules that get an index.
    changed
        Called from any thread after something has changed; must return at once.
    """

    def __init__(
        self,
        source: RunSource,
        slots: int = SLOTS,
        changed: Callable[[], None] | None = None,
    ) -> None:
        self.source = source
        self.slots = ModuleSlots(slots)
        self._layouts = {
            IndexKey(slot, name): _SlotLayout(self.slots, slot, product)
            for slot in range(slots)
            for name, product in PRODUCTS.items()
        }
        self.recorders: Mapping[IndexKey, Recorder[FrameGroup, Records]] = {
            key: Recorder(
                layout, changed=changed, queue_bytes=QUEUE_BYTES, queue_timeout_s=QUEUE_TIMEOUT_S
            )
            for key, layout in self._layouts.items()
        }
        self._events_layout = EventsLayout(self.slots.slot)
        self.events: Recorder[Any, Rows] = Recorder(
            self._events_layout,
            changed=changed,
            queue_bytes=QUEUE_BYTES,
            queue_timeout_s=QUEUE_TIMEOUT_S,
        )
        self.owner = _FrameOwner(
            source,
            recorders=[*self.recorders.values(), self.events],
            changed=changed,
            name="panoseti",
            item_name="frame group",
        )
        self._all: list[Recorder[Any, Any]] = [*self.recorders.values(), self.events]
        self._is_started = False
        self._without_slot = 0
        self.has_recorded = False
        """Whether an index was ever begun: it refers to the files of the run."""
        self.newest: dict[IndexKey, FrameGroup] = {}
        """Newest frames of each slot and product in the present, or last, recording."""
        self.received: dict[IndexKey, ReceivedFrames] = {}
        """Rate and lost packets of each slot and product that has frames."""
        self._clocks: dict[tuple[int, int], tuple[bool, float]] = {}
        """Whether a clock is in step, and when its newest packet came, s of a monotonic clock."""
        self.owner.endpoints.append(self)

    def offer(self, result: FrameGroup) -> None:
        """Note the newest frames of each slot and product, and what they tell."""
        slot = self.slots.slot(result.frames.module)
        if slot is None:
            self._without_slot += len(result.frames)
            return
        key = IndexKey(slot, result.frames.product.name)
        self.received.setdefault(key, ReceivedFrames()).add(result)
        for board, is_in_step in newest_clocks(result.frames).items():
            self._clocks[slot, board] = is_in_step, time.monotonic()
        self.newest[key] = result

    @property
    def clocks(self) -> dict[tuple[int, int], bool]:
        """Whether the clock of a board is in step with UTC, by slot and board.

        A board without a packet in the last `CLOCK_S` has none: it is not known.
        """
        since = time.monotonic() - CLOCK_S
        clocks = list(self._clocks.items())  # another thread adds to it
        return {board: is_in_step for board, (is_in_step, came) in clocks if came >= since}

    def start_recording(self, path: Path, run: str = "") -> str:
        """Begin to index every frame of one run from its start.

        Parameters
        ----------
        path
            ``DIR/NAME.h5``: the index of a slot and product is ``DIR/NAME_m1_img16.h5``, the event
            table of all modules ``DIR/NAME_events.h5``.
        run
            Name of the run, as `RunSource.rewind` takes it.

        Returns
        -------
        str
            Why it failed; empty when it did not.
        """
        self.owner.stop()
        self.has_recorded = True
        self.slots.clear()
        self._without_slot = 0
        self.newest.clear()
        self.received.clear()
        self._clocks.clear()
        self._is_started = False
        try:
            error = self._open_indexes(path)
            if not error:
                self.source.rewind(run)
                self.owner.acquire()
                self._is_started = True
        finally:
            if not self._is_started:
                for recorder in self._all:
                    recorder.stop()
        return error

    def _open_indexes(self, path: Path) -> str:
        """Begin all indexes; return why one of them cannot be."""
        for key, recorder in self.recorders.items():
            self._layouts[key].next_identity = 0
            if error := recorder.start(sibling(path, key.name)):
                return error
        self._events_layout.restart()
        return self.events.start(sibling(path, "events"))

    def stop_recording(self) -> None:
        """End the recording; all frames found so far are in the indexes."""
        acquisition = self.owner.stop_acquisition()
        if acquisition is not None:
            acquisition.done.wait(30.0)
        for recorder in self._all:
            recorder.stop()
        self._is_started = False

    @property
    def is_recording(self) -> bool:
        """Whether frames are indexed now: the indexes are open, and the source has been started."""
        return self._is_started and any(
            recorder.path is not None for recorder in self.recorders.values()
        )

    @property
    def error(self) -> str:
        """Why frames are in no index; empty if all are."""
        errors = [recorder.error for recorder in self._all if recorder.error]
        if modules := self.slots.further:
            errors.append(f"modules {modules} have no slot: start the IOC with more --modules")
        return "; ".join(errors)

    @property
    def unread(self) -> int:
        """Number of files of the present, or last, recording that are read no further."""
        return sum(self.source.lost.get(cause, 0) for cause in UNREAD)

    @property
    def rows_lost(self) -> int:
        """Number of rows that are in no index."""
        return self._without_slot + sum(sum(each.lost.values()) for each in self._all)

    def rows(self) -> dict[IndexKey, int]:
        """Return the number of rows of each index that readers can see."""
        return {key: recorder.rows_readable for key, recorder in self.recorders.items()}

    def close(self) -> None:
        """Stop for good."""
        self.owner.close()
        for recorder in self._all:
            recorder.close()
