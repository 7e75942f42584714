"""Puts results of the spectrometer to PVs of an existing IOC, and reads ROI and axis from there.

The old service did the same. But here no pulse waits for Channel Access: another thread puts the
newest result a few times per second, and PVs that do not exist cost no time.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from caproto import AccessRights, ChannelType
from caproto.asyncio.client import Context

from iocs.psss.pvs import STATES
from skywright.acquire.counters import Counters
from skywright.errors import ConfigError, DataError
from skywright.instruments.psss.averages import Averages
from skywright.instruments.psss.layouts import FIGURE_COLUMNS
from skywright.instruments.psss.processor import Processor
from skywright.instruments.psss.pv_names import OLD_PUT_NAMES
from skywright.instruments.psss.results import ProcessorState, Result
from skywright.instruments.psss.service_statistics import ServiceStatistics

logger = logging.getLogger(__name__)

PUT_PERIOD_S = 0.1
PUT_LIMIT_S = 2.0
CLOSE_LIMIT_S = 3.0
SEARCH_S = 3.0
"""Time after which PVs that do not answer are reported, s."""
INPUTS = ("ymin", "ymax", "axis")
INTEGERS: Mapping[ChannelType, type[np.integer[Any]]] = {
    ChannelType.CHAR: np.uint8,
    ChannelType.ENUM: np.uint16,
    ChannelType.INT: np.int16,
    ChannelType.LONG: np.int32,
}
"""Integers that PVs hold. In place of a larger number, Channel Access would carry another one."""


class TextOrCode(NamedTuple):
    """A value that is put as text, or as a code if the PV holds a number."""

    text: str
    code: int | None = None


class Puts:
    """Puts results and follows settings until `close`.

    Parameters
    ----------
    processor
        Owner of the pulses.
    names
        Names of PVs, by key. The PVs ymin, ymax and axis are read. To the others is put what
        `put_values`, `put_averages` and `put_counts` return under the same key.
    averages
        Function that returns the averages over the last pulses; None: they are not put.

    Attributes
    ----------
    connected
        Names of the PVs that are connected now.
    counters
        Number of failed puts, by PV and cause. PVs that do not exist count only if the old service
        had them.
    """

    def __init__(
        self,
        processor: Processor,
        names: Mapping[str, str],
        averages: Callable[[], Averages] | None = None,
    ) -> None:
        self.processor = processor
        self.names = dict(names)
        self._averages = averages
        self._counts_put: dict[str, Any] = {}
        """Values of `put_counts` that were put last; empty after a change of a connection."""
        self._absence_logged = False
        self.connected: set[str] = set()
        self.counters = Counters()
        self._edges: dict[str, float] = {}
        self._taking = threading.Lock()
        """Held while a value is used: the ROI is of the last values of both its PVs."""
        self._over = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="psss-puts", daemon=True)
        self._thread.start()

    def status(self) -> dict[str, Any]:
        """Return the state of the PVs for /health."""
        absent = sorted(set(self.names.values()) - self.connected)
        not_put = self.counters.as_dict()
        return {"connected": sorted(self.connected), "absent": absent, "not_put": not_put}

    def close(self) -> None:
        """End the puts."""
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(CLOSE_LIMIT_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._work())
        except Exception:  # the pulses go on without PVs
            logger.exception("psss: no more PVs are put")
            self.processor.note("pvs", "PVs are not put any more; see the log, and start again")
        finally:
            left = asyncio.all_tasks(self._loop)  # of the client library
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.close()

    async def _work(self) -> None:
        async with Context() as context:
            made = await context.get_pvs(
                *self.names.values(), connection_state_callback=self._state, timeout=None
            )
            pvs = dict(zip(self.names, made, strict=True))
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._follow(key, pvs[key])) for key in INPUTS]
                tasks += [group.create_task(self._put_newest(pvs))]
                await self._over.wait()
                for task in tasks:
                    task.cancel()

    def _state(self, pv: Any, state: str) -> None:
        self._counts_put = {}
        if state == "connected":
            self.connected.add(pv.name)
            logger.info("psss: PV %s is there", pv.name)
        else:
            self.connected.discard(pv.name)
            logger.warning("psss: PV %s is %s", pv.name, state)

    # ---- settings from PVs

    async def _follow(self, key: str, pv: Any) -> None:
        """Use each value of a PV; the last value stays in use while the PV is disconnected."""
        await pv.wait_for_connection(timeout=None)
        async for event in pv.subscribe(data_type=ChannelType.DOUBLE):
            await asyncio.to_thread(self._take, key, np.array(event.data))

    def _take(self, key: str, value: Any) -> None:
        try:
            with self._taking:
                if key == "axis":
                    self.processor.change(axis=value if len(value) > 1 else None)
                else:
                    self._edges[key] = float(value[0])
                    if len(self._edges) == 2:
                        self.processor.change(roi=(self._edges["ymin"], self._edges["ymax"]))
        except (ConfigError, ValueError, TypeError, IndexError) as error:  # IndexError: no element
            subject = "axis" if key == "axis" else "roi"
            self.processor.note(subject, f"{self.names[key]}: {error}; the last good one stays")

    # ---- results to PVs

    async def _put_newest(self, pvs: Mapping[str, Any]) -> None:
        last: Result | None = None
        begun = self._loop.time()
        while True:
            await asyncio.sleep(PUT_PERIOD_S)
            self._report_absent(late=self._loop.time() - begun > SEARCH_S)
            state = self.processor.state()
            put_before = self._counts_put
            counts = put_counts(state, self.processor.statistics)
            values = {key: each for key, each in counts.items() if put_before.get(key) != each}
            if state.newest is not None and state.newest is not last:
                last = state.newest
                if self._averages is not None:
                    values |= put_averages(self._averages())
                values |= put_values(last)
            for key, value in values.items():
                if key in pvs and await self._put(key, pvs[key], value) and key in counts:
                    put_before[key] = value

    def _report_absent(self, *, late: bool) -> None:
        """Report absent PVs: of `OLD_PUT_NAMES` in the message, the others once in the log."""
        absent = set(self.names.values()) - self.connected
        expected = sorted(absent & {self.names[key] for key in OLD_PUT_NAMES})
        if not expected or late:
            self.processor.note("pvs", f"PVs not there: {', '.join(expected)}" if expected else "")
        if late and not self._absence_logged:
            self._absence_logged = True
            if others := sorted(absent - set(expected)):
                logger.warning("psss: PVs not there, and not put: %s", ", ".join(others))

    async def _put(self, key: str, pv: Any, value: Any) -> bool:
        """Put a value; return whether it was put."""
        if pv.name not in self.connected:
            if key in OLD_PUT_NAMES:
                self.counters.add(f"{pv.name} is not there")
            return False
        try:
            if AccessRights.WRITE not in pv.channel.access_rights:  # its IOC would drop the value
                self.counters.add(f"{pv.name} may not be written")
                return False
            data = _as_its_type(value, pv.channel.native_data_type, pv.channel.native_data_count)
            async with asyncio.timeout(PUT_LIMIT_S):
                await pv.write(data, wait=False)
        except Exception as error:  # whatever the other IOC does, the next value may get through
            is_known = isinstance(error, DataError)
            self.counters.add(f"{pv.name}: {error}" if is_known else f"{pv.name} failed")
            logger.debug("psss: %s is not put to %s: %s", value, pv.name, error)
            return False
        return True


def put_values(result: Result) -> dict[str, Any]:
    """Return the values of a result, by key; the pulse id is the last one to be put."""
    found = result.spectrum
    values: dict[str, Any] = {name: getattr(found, name) for name in FIGURE_COLUMNS}
    if len(found.spectrum):
        values["output"] = found.spectrum.astype(np.float64)
    values["fit_status"] = TextOrCode(found.status.name, int(found.status))
    values["fit_unit"] = TextOrCode(found.unit.name, int(found.unit))
    values["brightness"], values["pulse_energy"] = result.brightness, result.energy_uj
    values["pulse_id"] = float(result.pulse.pulse_id)
    return values


def put_averages(averages: Averages) -> dict[str, Any]:
    """Return the values of the averages over the last pulses, by key."""
    values: dict[str, Any] = {
        "average_center": averages.center,
        "average_fwhm": averages.fwhm,
        "average_pulses": averages.pulses,
    }
    if averages.spectrum is not None:
        values["average_y"] = averages.spectrum
    return values


def put_counts(state: ProcessorState, statistics: ServiceStatistics) -> dict[str, Any]:
    """Return the values of the owner's state, by key."""
    processed, sent = statistics.counts
    return {
        "state": TextOrCode(STATES[state.running], int(state.running)),
        "message": TextOrCode(state.message),
        "pulses": state.items,
        "processed": processed,
        "sent": sent,
        "unsent": state.unsent_results,
        "lost": sum(state.lost.values()),
        "failures": sum(state.failures.values()),
        "rate": round(statistics.rate_hz, 2),
    }


def _as_its_type(value: Any, kind: ChannelType, count: int) -> Any:
    """Return a value in the type of a PV of another IOC, which has `count` elements.

    Raises
    ------
    DataError
        If the type does not hold it: of an array, if it does not hold one of its elements.
    """
    if not isinstance(value, TextOrCode):
        # The old service put what fits too; an IOC refuses more.
        data = np.atleast_1d(value)[:count]
        if kind in INTEGERS:
            limits = np.iinfo(INTEGERS[kind])
            if not ((data >= limits.min) & (data <= limits.max)).all():
                raise DataError(f"a PV of {kind.name} does not hold such a number")
        return data
    letters = value.text.encode("latin-1", "replace")
    if kind is ChannelType.STRING:
        return [letters[:39]]
    if kind is ChannelType.CHAR and count > 1:
        return np.frombuffer(letters[: count - 1] + b"\0", np.uint8)
    if value.code is None:
        raise DataError(f"a PV of {kind.name} holds no text")
    return [value.code]
