"""Posts the state and the results of the owner of the pulses to the PVs."""

import time
from typing import Any

import numpy as np
import orjson
from caproto import AlarmSeverity

from iocs.common import alarm_if, post, post_pair
from iocs.psss.pvs import COLUMNS_MAX, Spectra, severity_of
from iocs.recording import DATA_TYPES, RecorderPlugin
from skywright.files.areadetector import EPICS_EPOCH_S, EPICS_SECONDS_MAX
from skywright.instruments.psss.averages import Averages
from skywright.instruments.psss.layouts import FIGURE_COLUMNS
from skywright.instruments.psss.processing import AxisUnit
from skywright.instruments.psss.results import ProcessorState, Result
from skywright.instruments.psss.settings import CHOICES, Settings

DTYPES = {name.lower(): index for index, name in enumerate(DATA_TYPES)}


async def post_result(pvs: Spectra, result: Result) -> None:
    """Post the result of a pulse; the figures have the pulse's time, if EPICS can hold it."""
    found, time_s = result.spectrum, result.time_ns / 1e9
    # A clock that is not set begins in 1970; EPICS begins in 1990, and 1970 would become 2106.
    is_epics_time = 0 <= time_s - EPICS_EPOCH_S <= EPICS_SECONDS_MAX
    stamp = time_s if is_epics_time else time.time()
    severity = severity_of(found.status)
    columns = len(found.spectrum)
    too_wide = columns > COLUMNS_MAX
    why = f"{columns} columns are more than the PVs of a spectrum hold, {COLUMNS_MAX}"
    pvs.ioc.processor.note("columns", why if too_wide else "")
    if too_wide:
        if not pvs.spectrum_y.alarm.severity:
            await post(pvs.spectrum_y, pvs.spectrum_y.value, AlarmSeverity.INVALID_ALARM, stamp)
    elif columns:
        spectrum = found.spectrum.astype(np.float64)
        await post(pvs.spectrum_y, spectrum, AlarmSeverity.NO_ALARM, stamp)
        if not np.array_equal(pvs.spectrum_x.value, found.axis):
            alarm = alarm_if(found.unit is AxisUnit.PIXEL)
            await post(pvs.spectrum_x, found.axis, alarm, stamp)
    for name in FIGURE_COLUMNS:
        await post(getattr(pvs, name), getattr(found, name), severity, stamp)
    await post(pvs.brightness, result.brightness, severity, stamp)
    await post(pvs.pulse_energy, result.energy_uj, time_s=stamp)
    await post(pvs.fit_status, found.status, severity, stamp)
    await post(pvs.fit_unit, found.unit, time_s=stamp)
    await post(pvs.background_applied, int(found.background_applied))
    await post(pvs.settings_used, result.settings_number)
    await post(pvs.duration, result.duration_ms)
    await post(pvs.pulse_time, time_s, time_s=stamp)
    await post(pvs.pulse_id, float(result.pulse.pulse_id), time_s=stamp)  # last of all


async def post_averages(pvs: Spectra, averages: Averages) -> None:
    """Post the averages over the last pulses."""
    if averages.spectrum is not None and len(averages.spectrum) <= COLUMNS_MAX:
        await pvs.average_y.write(averages.spectrum, verify_value=False)
    severity = alarm_if(not averages.fits, AlarmSeverity.INVALID_ALARM)
    await post(pvs.average_center, averages.center, severity)
    await post(pvs.average_fwhm, averages.fwhm, severity)
    await post(pvs.average_pulses, averages.pulses)
    block = averages.block
    is_new = pvs.block_pulse_id.value != averages.block_pulse_id
    if block is not None and len(block) <= COLUMNS_MAX and is_new:
        await pvs.block_y.write(block, verify_value=False)
        await post(pvs.block_pulse_id, float(averages.block_pulse_id))


async def post_settings(pvs: Spectra, state: ProcessorState) -> None:
    """Post the settings of the next pulse; any endpoint may have set them."""
    # The first settings have the number 0, with which the PV begins: they are posted each time
    if pvs.settings_number.value == state.settings_number and pvs.settings_number.value:
        return
    settings: Settings = state.settings
    await _post_axis(pvs, state)
    for edge, value in zip((pvs.roi_ymin, pvs.roi_ymax), settings.roi, strict=True):
        if edge.readback.value != value:  # set by another client: the setpoint follows
            await post(edge.readback, value)
            await edge.setpoint.write(value, verify_value=False)
    for name in CHOICES:
        pair = getattr(pvs, name)
        await post_pair(pair, pair.readback.enum_strings.index(getattr(settings, name)))
    await post_pair(pvs.signal_per_row, settings.signal_per_row)
    await post_pair(pvs.saturation, settings.saturation or 0.0)
    await post_pair(pvs.background, settings.background_name)
    await post(pvs.settings_number, state.settings_number)


async def _post_axis(pvs: Spectra, state: ProcessorState) -> None:
    """Post the axis of the settings before a pulse uses it, if it fits the pictures and the PV.

    `post_result` posts the axis that was used, which is the numbers of the columns without an axis.
    """
    shown, axis = pvs.spectrum_x.value, state.settings.axis
    width = 0 if state.newest is None else len(state.newest.spectrum.spectrum)
    if axis is not None and (width not in (0, len(axis)) or len(axis) > COLUMNS_MAX):
        return
    wanted = np.arange(float(len(shown))) if axis is None else axis
    if not np.array_equal(shown, wanted):
        await post(pvs.spectrum_x, wanted, alarm_if(axis is None), time.time())


async def post_counts(ioc: Any, state: ProcessorState) -> None:
    """Post state and counts."""
    pvs, cam = ioc.spectra, ioc.cam
    await post(pvs.state, int(state.running))
    await post_pair(pvs.processing, int(state.running))
    statistics = ioc.processor.statistics
    processed, sent = statistics.counts
    await post(pvs.pulses, float(state.items))  # a year at 100 Hz is more than 2^31
    await post(pvs.processed, float(processed))
    await post(pvs.sent, float(sent))
    await post(pvs.unsent, float(state.unsent_results))
    await post(pvs.unsent_images, float(state.unsent_images))
    for total, causes, counts in (
        (pvs.lost, pvs.lost_causes, state.lost),
        (pvs.failures, pvs.failure_causes, state.failures),
    ):
        number = sum(counts.values())
        await post(total, number, alarm_if(number))
        await post(causes, orjson.dumps(counts).decode())
    newest = state.newest
    await ioc.array_counters.count_to(state.acquired)
    await post(cam.num_images_counter, state.acquisition_items)
    if newest is None:
        return
    await post(cam.unique_id, newest.pulse.pulse_id & 0x7FFFFFFF)
    await post(cam.time_stamp, newest.time_ns / 1e9)
    # The size is that of the last picture: some pulses may have none
    height, width = state.shape
    for channel in (cam.array_size_x, cam.max_size_x, cam.size_x.readback):
        await post(channel, width)
    for channel in (cam.array_size_y, cam.max_size_y, cam.size_y.readback):
        await post(channel, height)
    item_bytes = np.dtype(state.dtype).itemsize if state.dtype else 0
    await post(cam.array_size, height * width * item_bytes)
    if (kind := DTYPES.get(state.dtype)) is not None:
        await post_pair(cam.data_type, kind)
        await post(ioc.picture_recording.data_type, kind)
    await post(ioc.spectrum_recording.data_type, DTYPES["float64"])


async def post_plugin(hdf: RecorderPlugin, state: ProcessorState) -> None:
    """Post the state of a recording."""
    newest = state.newest
    if newest is not None:
        is_picture = hdf.recorder.layout.name == "pictures"
        await hdf.post_shape(state.shape if is_picture else state.shape[1:])
        await post(hdf.unique_id, newest.pulse.pulse_id & 0x7FFFFFFF)
        await post(hdf.time_stamp, newest.time_ns / 1e9)
    await hdf.post_state()
