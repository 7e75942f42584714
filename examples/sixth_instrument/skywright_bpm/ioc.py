"""IOC of the beam position monitor: ``python -m skywright_bpm.ioc --prefix BPM1:``.

Samples go to a file; the PVs say how many are in it, and show the newest one.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caproto import AlarmSeverity, ChannelType
from caproto.server import PVGroup, pvproperty
from skywright.iocs.areadetector import choice, long_text, readback
from skywright.iocs.common import argument_parser, post, run
from skywright.iocs.owner import OwnerGroup

from skywright.acquire.columns_layout import Rows
from skywright.acquire.owner import Owner
from skywright.acquire.recorder import Recorder
from skywright_bpm.source import CURRENTS, LAYOUT, SimulatedMonitor

POST_PERIOD_S = 0.05
RECORD = ["Done", "Record"]


async def _put_record(obj: Any, instance: Any, value: int) -> int:
    """Start or stop a recording; ``Record_RBV`` shows it when the counts are posted too."""
    ioc = obj.parent
    await (ioc.begin() if value else ioc.end())
    await ioc.wait_until_posted()
    await obj.readback.write(RECORD[value])
    return value


async def _put_file(obj: Any, instance: Any, path: str) -> None:
    await obj.parent.in_thread(lambda: Path(path).parent.mkdir(parents=True, exist_ok=True))
    await obj.readback.write(path)


class BpmIOC(OwnerGroup):
    """All PVs, over one owner."""

    record = choice(RECORD, put=_put_record, name="Record")
    file = long_text(put=_put_file, name="FullFileName")
    samples = readback(0, name="Samples_RBV")
    lost = readback(0, name="Lost_RBV")
    intensity = readback(0.0, precision=3, units="uA", name="Intensity_RBV")
    message = readback("", ChannelType.CHAR, max_length=1024, name="StatusMessage_RBV")
    true_x = readback(0.0, precision=3, units="mm", name="SIM:X_RBV")
    true_y = readback(0.0, precision=3, units="mm", name="SIM:Y_RBV")
    silent = pvproperty(value=0, name="SIM:Silent", doc="1: samples stop, as with a pulled cable")

    def __init__(self, prefix: str, source: SimulatedMonitor) -> None:
        super().__init__(prefix)
        self.recorder = Recorder(LAYOUT, changed=self.wake_posting)
        self.monitor: Owner[Rows, Rows] = Owner(
            source,
            self._unless_silent,
            recorders=[self.recorder],
            changed=self.wake_posting,
            name="bpm",
            item_name="sample",
        )

    def _unless_silent(self, rows: Rows) -> Rows:
        return rows.select(slice(0, 0)) if self.silent.value else rows

    async def begin(self) -> None:
        """Record into the file that was named."""
        error = await self.in_thread(self.recorder.start, Path(self.file.readback.value))
        if error:
            raise ValueError(error)
        await self.in_thread(self.monitor.acquire)

    async def end(self) -> None:
        """Stop; all samples that were taken are in the file then."""
        acquisition = self.monitor.stop_acquisition()
        if acquisition is not None:
            await self.wait_until_done(acquisition.done)
        await self.in_thread(self.recorder.stop)

    async def serving(self) -> None:
        """Post what has changed, as long as the IOC lives."""
        source = self.monitor.source
        assert isinstance(source, SimulatedMonitor)
        await post(self.true_x, source.x_mm)
        await post(self.true_y, source.y_mm)
        await self._post_forever(POST_PERIOD_S, 1.0)

    async def _post(self) -> None:
        state = self.monitor.state()
        if state.newest is not None and len(state.newest):
            await post(self.intensity, float(state.newest.columns[CURRENTS.path][-1].sum()))
        await post(self.samples, self.recorder.rows_readable)
        await post(
            self.lost, sum(state.lost.values()), AlarmSeverity.MINOR_ALARM * bool(state.lost)
        )
        await self.post_message(self.recorder.error or state.message, 2 * int(state.alarm))

    def close(self) -> None:
        """Close source and file; nothing that was taken is lost."""
        self.monitor.close()
        self.recorder.close()


def build(args: argparse.Namespace) -> tuple[PVGroup, Mapping[str, Any]]:
    """Make the IOC of the arguments, and what its ready line says."""
    source = SimulatedMonitor(args.x, args.y, args.seed, args.speed)
    return BpmIOC(args.prefix, source), {"source": source.name}


def main() -> None:
    """Run the IOC."""
    parser = argument_parser(__doc__ or "", "SKY:BPM1:")
    parser.add_argument("--x", type=float, default=0.0, help="simulated position, mm")
    parser.add_argument("--y", type=float, default=0.0, help="simulated position, mm")
    run(build, parser)


if __name__ == "__main__":
    main()
