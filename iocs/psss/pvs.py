"""PVs of the spectrometer: results, ROI and axis with their names at SwissFEL, settings, counts."""

from collections.abc import Sequence
from typing import Any, get_args

from caproto import AlarmSeverity, ChannelType
from caproto.server import PVGroup, pvproperty

from iocs.areadetector import (
    YES_NO,
    checked,
    choice,
    enum_readback,
    long_text,
    number,
    readback,
)
from iocs.common import alarm_if, in_order, setting
from skywright.instruments.psss.averages import PULSES
from skywright.instruments.psss.processing import AxisUnit, FitStatus
from skywright.instruments.psss.settings import CHOICES

COLUMNS_MAX = 16_384
AVERAGE_MAX = 10_000
STATES = ["stopped", "processing"]


def figure(name: str, units: str = "eV") -> Any:
    """Return the PV of a figure; its unit is pixels instead of eV if FIT_UNIT says so."""
    return readback(float("nan"), precision=4, units=units, name=name)


def counts(name: str) -> Any:
    """Return the PV of a spectrum."""
    return readback([0.0], float, max_length=COLUMNS_MAX, units="counts", name=name)


@in_order
async def _put_edge(obj: Any, instance: Any, value: int) -> int:
    """Set one edge of the ROI; while the pair is not valid, the last valid pair stays in use.

    Edges are put one after the other, so the pair may not be valid in between. The PV then keeps
    the value that was put, with an alarm until the other edge fits; `_RBV` has the edge in use.
    """
    pvs = obj.parent
    edges = {edge: edge.setpoint.value for edge in (pvs.roi_ymin, pvs.roi_ymax)}
    edges[obj] = value
    await pvs.ioc.set_roi(int(edges[pvs.roi_ymin]), int(edges[pvs.roi_ymax]))
    return value


@in_order
async def _put_axis(pvs: Any, instance: Any, value: Any) -> Any:
    axis = None if len(value) < 2 else value
    await pvs.ioc.change(axis=axis)
    return value


@in_order
async def _put_start(obj: Any, instance: Any, value: int) -> None:
    processor = obj.parent.ioc.processor
    await obj.parent.ioc.in_thread(processor.start if value else processor.stop)
    await obj.readback.write(value)


@in_order
async def _put_background(obj: Any, instance: Any, name: str) -> None:
    ioc = obj.parent.ioc
    await ioc.in_thread(ioc.service.parameters.merge, {"background": name})


async def _put_record(pvs: Any, instance: Any, value: int) -> int:
    """Record the mean of the next N pulses as background; complete at its end; 0 cancels it."""
    await pvs.ioc.record_background(value)
    return 0


def _setting(field: str, words: Sequence[str] = ()) -> Any:
    """Return the putter of a setting; with `words` it gets the index of one of them."""

    @in_order
    async def put(obj: Any, instance: Any, value: Any) -> None:
        value = words[value] if words else value
        await obj.parent.ioc.change(**{field: value})
        await obj.readback.write(value)

    return put


def _choice(field: str, name: str) -> Any:
    words = list(get_args(CHOICES[field]))
    return choice(words, put=_setting(field, words), name=name)


async def _put_every(obj: Any, instance: Any, value: int) -> None:
    await checked(1, 10**6)(obj, instance, value)
    obj.parent.ioc.picture_recording.recorder.every = value


async def _put_average(obj: Any, instance: Any, value: int) -> None:
    await checked(1, AVERAGE_MAX)(obj, instance, value)
    obj.parent.ioc.average_over(value)


class Spectra(PVGroup):
    """The result of the newest pulse, and the settings of the processing.

    ``SPECTRUM_X`` takes the energy axis: eV, one value for each column; a single value clears it.
    It shows the axis in use, which is the numbers of the columns if there is no axis with the
    picture's width. The figures of a fit are NaN, with an alarm, if ``FIT_STATUS`` says that there
    are none.
    """

    ioc: Any

    spectrum_x = pvproperty(
        value=[0.0],
        max_length=COLUMNS_MAX,
        put=_put_axis,
        name="SPECTRUM_X",
        units="eV",
        precision=4,
    )
    spectrum_y = counts("SPECTRUM_Y")
    center = figure("SPECTRUM_CENTER")
    fwhm = figure("SPECTRUM_FWHM")
    com = figure("SPECTRUM_COM")
    std = figure("SPECTRUM_STD")
    center_error = figure("SPECTRUM_CENTER_ERR")
    fwhm_error = figure("SPECTRUM_FWHM_ERR")
    quantile_width = figure("SPECTRUM_QWIDTH")
    relative_width = figure("SPECTRUM_RES", "permille")
    brightness = readback(float("nan"), precision=3, units="uJ/eV", name="SPECTRUM_BRT")
    pulse_energy = readback(float("nan"), precision=3, units="uJ", name="PULSE_ENERGY")
    offset = figure("SPECTRUM_OFFSET", "counts")
    amplitude = figure("SPECTRUM_AMPLITUDE", "counts")
    intensity = figure("SPECTRUM_INTENSITY", "counts")
    chi2 = figure("SPECTRUM_CHI2", "")
    quality = figure("SPECTRUM_QUALITY", "")
    fit_status = enum_readback([code.name for code in FitStatus], 1, name="FIT_STATUS")
    fit_unit = enum_readback([code.name for code in AxisUnit], 1, name="FIT_UNIT")
    pulse_id = readback(-1.0, precision=0, name="PULSE_ID")
    pulse_time = readback(0.0, precision=6, units="s", name="PULSE_TIME")
    average_y = counts("AVG_SPECTRUM_Y")
    average_center = figure("AVG_CENTER")
    average_fwhm = figure("AVG_FWHM")
    average_n = number(PULSES, _put_average, name="AVG_N")
    average_pulses = readback(0, name="AVG_PULSES")
    block_y = counts("BLOCK_SPECTRUM_Y")
    block_pulse_id = readback(-1.0, precision=0, name="BLOCK_PULSE_ID")

    roi_ymin = number(0, _put_edge, units="px", name="SPC_ROI_YMIN")
    roi_ymax = number(0, _put_edge, units="px", name="SPC_ROI_YMAX")
    background_mode = _choice("background_mode", "BACKGROUND_MODE")
    smoothing = _choice("smoothing", "SMOOTHING")
    fit = _choice("fit", "FIT")
    weighting = _choice("weighting", "WEIGHTING")
    signal_per_row = number(1.5, _setting("signal_per_row"), precision=3, name="SIGNAL_PER_ROW")
    saturation = number(0.0, _setting("saturation"), precision=0, name="SATURATION")
    background = long_text(put=_put_background, name="BACKGROUND")
    background_applied = enum_readback(YES_NO, name="BACKGROUND_APPLIED")
    background_record = pvproperty(value=0, put=_put_record, name="BACKGROUND_RECORD")
    background_recorded = readback(
        "", ChannelType.CHAR, max_length=1024, name="BACKGROUND_RECORDED"
    )
    settings_number = readback(0, name="SETTINGS_NUMBER")
    settings_used = readback(0, name="SETTINGS_USED")
    raw_every = number(100, _put_every, name="RAW_EVERY")

    processing = setting(
        value=0, dtype=int, put=_put_start, name="PROCESSING", doc="1 starts, 0 stops"
    )
    state = enum_readback(STATES, name="STATE")
    message = readback("", ChannelType.CHAR, max_length=1024, name="MESSAGE")
    pulses = readback(0.0, precision=0, name="N_PULSES")
    """Pulses processed since the start of the process."""
    processed = readback(0.0, precision=0, name="N_PROCESSED")
    """Pulses processed since the last start of the processing."""
    sent = readback(0.0, precision=0, name="N_SENT")
    unsent = readback(0.0, precision=0, name="N_UNSENT")
    unsent_images = readback(0.0, precision=0, name="N_UNSENT_IMAGES")
    lost = readback(0, name="N_LOST")
    lost_causes = readback("{}", ChannelType.CHAR, max_length=2048, name="LOST_CAUSES")
    failures = readback(0, name="N_FAILURES")
    failure_causes = readback("{}", ChannelType.CHAR, max_length=2048, name="FAILURE_CAUSES")
    rate = readback(0.0, precision=2, units="Hz", name="RATE")
    duration = readback(0.0, precision=3, units="ms", name="DURATION")


def severity_of(status: FitStatus) -> AlarmSeverity:
    """Return the severity of a fit's figures: invalid, minor (check the fit), or none (good)."""
    if not status.has_values or status is FitStatus.NOT_CONVERGED:
        return AlarmSeverity.INVALID_ALARM
    return alarm_if(not status.is_good)
