"""IOC of the single-shot spectrometer: the PVs of the owner of the pulses.

Results, ROI and axis have the names of PVs at SwissFEL (`SPECTRUM_Y`, `SPC_ROI_YMIN` ...). `cam1:`
runs acquisitions of pulses. `SPEC1:` records every pulse's spectrum and fit. `HDF1:` records the
first picture of each acquisition and every `RAW_EVERY`-th after it, so a step scan records one at
every point. `SIM:` has the true values of the simulator, for scores only, and its two switches.
`--list-pvs` prints all names. The bsread output and the REST API are served beside the PVs.
`skywright psss serve` starts the same service with the ports of the old one.

    python -m iocs.psss --source sim --seed 3 --auto-start
    python -m iocs.psss --source bsread --input tcp://camera7:9000
    python -m iocs.psss --source replay --path pictures.h5 --rate 10
"""

import argparse
import asyncio
from collections.abc import Mapping
from typing import Any

from caproto import AlarmSeverity, AlarmStatus, ChannelData
from caproto.server import PVGroup, SubGroup

from iocs.areadetector import YES_NO, ArrayCounters, choice, on_source, readback
from iocs.common import alarm_if, argument_parser, post, run
from iocs.owner import OwnerGroup
from iocs.psss.camera import PicturePlugin, PsssCam, SpectrumPlugin
from iocs.psss.post import post_averages, post_counts, post_plugin, post_result, post_settings
from iocs.psss.pvs import COLUMNS_MAX, Spectra
from skywright.acquire.recorder import Recorder
from skywright.errors import ConfigError, HardwareError, SkywrightError
from skywright.instruments.psss.endpoints.options import add_service_arguments
from skywright.instruments.psss.endpoints.service import Service
from skywright.instruments.psss.layouts import PictureLayout, SpectraLayout
from skywright.instruments.psss.processor import Processor
from skywright.instruments.psss.results import Result
from skywright.processes.lifecycle import default_signal_handling

POST_PERIOD_S = 0.03
"""Least time between two posts of PVs, s; the newest pulse is posted well within 100 ms."""
AVERAGE_PERIOD_S = 0.2


class Sim(PVGroup):
    """The true values of the simulator, for scores only, and its switches Beam and Silent.

    A value is NaN where there is none. With another source the switches have no effect.
    """

    center = readback(float("nan"), units="eV", precision=4, name="Center_RBV")
    fwhm = readback(float("nan"), units="eV", precision=4, name="Fwhm_RBV")
    pulse_energy = readback(float("nan"), units="uJ", precision=3, name="PulseEnergy_RBV")
    pulse_id = readback(-1.0, precision=0, name="PulseId_RBV")
    beam = choice(["Off", "On"], 1, put=on_source("beam"), name="Beam")
    silent = choice(YES_NO, put=on_source("silent"), name="Silent")


class PsssIOC(OwnerGroup):
    """All PVs of the owner of the pulses.

    Parameters
    ----------
    prefix
        Prefix of the PVs, with its colon.
    service
        The service whose PVs these are; None: the PVs are only listed.
    auto_start
        True: start the processing when the PVs are served.
    """

    spectra = SubGroup(Spectra, prefix="")
    cam = SubGroup(PsssCam, prefix="cam1:")
    picture_recording = SubGroup(PicturePlugin, prefix="HDF1:")
    spectrum_recording = SubGroup(SpectrumPlugin, prefix="SPEC1:")
    sim = SubGroup(Sim, prefix="SIM:")

    def __init__(self, prefix: str, service: Service | None, auto_start: bool = False) -> None:
        super().__init__(prefix)
        self._auto_start = auto_start
        self._posted: tuple[Any, ...] = ()
        self._averages_due = 0.0
        self._averages_behind = False
        self._newest_posted: Result | None = None
        plugins = (self.cam, self.picture_recording, self.spectrum_recording)
        self.array_counters = ArrayCounters(*(each.array_counter for each in plugins))
        if service is not None:
            self._attach(service)

    def _attach(self, service: Service) -> None:
        self.service = service
        self.processor: Processor = service.processor
        self.processor.changed = self.wake_posting
        self.cam.control = self.processor
        every = self.spectra.raw_every.readback.value
        self.picture_recording.recorder = Recorder(
            PictureLayout(), every, self.wake_posting, essential=False
        )
        layout = SpectraLayout(lambda: self.processor.picture_width)
        self.spectrum_recording.recorder = Recorder(layout, 1, self.wake_posting)
        self.spectra.ioc = self
        self.processor.recorders += self._recorders

    @property
    def _recorders(self) -> list[Recorder[Any, Any]]:
        return [self.picture_recording.recorder, self.spectrum_recording.recorder]

    @property
    def message_channels(self) -> tuple[ChannelData, ...]:
        """PVs that show the message for the operator."""
        return self.spectra.message, self.cam.status_message

    def close(self) -> None:
        """Close endpoints, files and source."""
        self.service.close()
        for recorder in self._recorders:
            recorder.close()

    # ---- called by puts

    async def change(self, **changes: Any) -> None:
        """Change settings; `ConfigError` if a value is not allowed."""
        await self.in_thread(lambda: self.processor.change(**changes))

    async def set_roi(self, ymin: int, ymax: int) -> None:
        """Use the ROI if it is valid; else the last valid one stays, and the PVs say so."""
        pvs = self.spectra
        try:
            await self.change(roi=(ymin, ymax))
        except ConfigError as error:
            used = self.processor.settings.roi
            self.processor.note("roi", f"{error}; {list(used)} stays in use")
        else:
            # At once, so that `post_settings` does not overwrite this client's setpoint.
            await post(pvs.roi_ymin.readback, ymin)
            await post(pvs.roi_ymax.readback, ymax)

    async def _mark_roi(self) -> None:
        """Set the alarm of the edges that are not in use.

        It is set when PVs are posted and not in the put: a put that succeeds clears the alarm of
        its PV (`iocs.common`).
        """
        refused = "roi" in self.processor.notes
        severity = alarm_if(refused, AlarmSeverity.MAJOR_ALARM)
        edges = (self.spectra.roi_ymin, self.spectra.roi_ymax)
        for edge, used in zip(edges, self.processor.settings.roi, strict=True):
            alarm = edge.setpoint.alarm
            # That of a refused put stays until the next put.
            if alarm.severity == severity or (not refused and alarm.status == AlarmStatus.WRITE):
                continue
            await post(edge.setpoint, edge.setpoint.value if refused else used, severity)

    def average_over(self, pulses: int) -> None:
        """Average over the last N pulses; the averages begin again, and the PVs say so at once."""
        self.service.averages.set_pulses(pulses)
        self._averages_behind = True

    async def record_background(self, pulses: int) -> None:
        """Use the mean of the next pulses as background, and store it; 0 cancels a recording."""
        recorder = self.service.background_recorder
        if pulses == 0:
            await self.in_thread(recorder.cancel)
            return
        recorded = self.spectra.background_recorded
        try:
            found = await self.in_thread(recorder.record, pulses)
        except SkywrightError:
            await post(recorded, "")
            raise
        await post(recorded, found.info.name)
        try:
            await self.in_thread(self.service.history.keep, found)
        except HardwareError as error:  # the background is in use nevertheless
            await self.post_error(str(error))

    # ---- posting

    def served_on(self, port: int) -> None:
        """Add the port of the PVs to /health."""
        self.service.facts["ca_port"] = port

    async def serving(self) -> None:
        """Post what has changed, at most every `POST_PERIOD_S`, until the IOC ends."""
        await post(self.cam.model, type(self.processor.source).__name__)
        await self.cam.post_period()
        axis = self.processor.settings.axis
        if axis is not None and len(axis) <= COLUMNS_MAX:
            await self.spectra.spectrum_x.write(axis, verify_value=False)
        await self.in_thread(self.service.begin, self._auto_start)
        await self._post_forever(POST_PERIOD_S, POST_PERIOD_S)

    async def _post(self) -> None:
        await self._mark_roi()
        # The rate falls while no pulse comes.
        await post(self.spectra.rate, round(self.processor.statistics.rate_hz, 2))
        state = self.processor.state()
        alarm = alarm_if(state.alarm, AlarmSeverity.MAJOR_ALARM)
        await self.post_message(state.message, alarm)
        now = asyncio.get_running_loop().time()
        if self._averages_behind and now > self._averages_due:
            self._averages_behind, self._averages_due = False, now + AVERAGE_PERIOD_S
            await post_averages(self.spectra, self.service.averages.get())
        recorded = [
            (each.path, each.rows_readable, each.error, each.lost) for each in self._recorders
        ]
        known = (state, self.processor.statistics.counts, recorded)
        if known == self._posted and self.cam.has_posted(state.acquiring):
            return  # values put by clients, such as ArrayCounter, stay until the state changes
        self._posted = known
        newest = state.newest
        if newest is not None and newest is not self._newest_posted:
            await post_result(self.spectra, newest)
            await self._post_truth(newest)
            self._newest_posted = newest
            self._averages_behind = True
        await post_settings(self.spectra, state)
        await post_counts(self, state)
        for part in (self.picture_recording, self.spectrum_recording):
            await post_plugin(part, state)
        await self.cam.post_acquiring(state.acquiring)

    async def _post_truth(self, result: Result) -> None:
        truth = result.pulse.truth
        if truth is None:
            return
        await post(self.sim.center, truth.center_ev)
        await post(self.sim.fwhm, truth.fwhm_ev)
        await post(self.sim.pulse_energy, truth.pulse_energy_uj)
        await post(self.sim.pulse_id, float(result.pulse.pulse_id))


def build(args: argparse.Namespace) -> tuple[PVGroup, Mapping[str, Any]]:
    """Return the IOC for the arguments, and the facts in its ready line."""
    if getattr(args, "list_pvs", False):
        return PsssIOC(args.prefix, None), {}
    with default_signal_handling():
        service = Service(args)
        # PVs are served only when pulses can be processed; REST answers before
        service.processor.warm.wait()
    return PsssIOC(args.prefix, service, args.auto_start), service.facts


def main() -> None:
    """Run the IOC."""
    parser = argument_parser(__doc__ or "", "SKY:PSSS1:")
    add_service_arguments(parser, source="sim", output_port=0, rest_port=0)
    run(build, parser)
