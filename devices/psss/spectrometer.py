"""The single-shot spectrometer as an ophyd device: every pulse a row of a file, step and fly."""

import threading
import uuid
from pathlib import Path
from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO, Kind, Signal
from ophyd.signal import InternalSignal
from ophyd.status import DeviceStatus

from devices.file_stream import FileStream, FlyerStream
from devices.guarded import PUT_S, Setting
from devices.psss.columns import picture_columns, settings_columns, spectra_columns, summarize_point
from devices.psss.settings import BackgroundRecorder, EnergyAxis, Roi
from devices.psss.stream import PsssFile, SettingsStream
from devices.recording import CONTINUOUS, MULTIPLE, RecordingDevice
from skywright.errors import DataError, HardwareError

NAN = float("nan")
CHOICE: dict[str, Any] = {"kind": Kind.config, "string": True}


class Psss(RecordingDevice):
    """A single-shot spectrometer behind the PVs of `iocs.psss`.

    One trigger takes `pulses_per_point` pulses. An event has ``mean_`` and ``_scatter`` of center,
    fwhm and intensity over the pulses that have a good fit, NaN if too few have one.
    Every pulse is a row of one HDF5 file, opened at stage. `pulses` is the stream of these rows,
    and the flyer. `pulse_settings` is the stream of the settings that pulses were processed with, a
    row for each ``NAME_settings_number``. `pictures` is the stream of raw pictures: the first one
    of each acquisition and every `raw_every`-th after it. So a step scan records one at every
    point.

    Data keys of `pulses`, all external (``STREAM:``): ``NAME_spectrum`` (columns,) float64;
    ``NAME_pulse_id``; ``NAME_time``, unix s; ``NAME_center``, ``_fwhm``, their ``_error``,
    ``_com``, ``_std`` ...; ``NAME_status``, a code of
    `skywright.instruments.psss.processing.FitStatus`.

    Parameters
    ----------
    prefix
        Prefix of the PVs, with its colon.
    assets
        Directory below which the IOC writes; a dated directory in it is made for each day.
    name
        Name of the device.
    """

    row_name = "pulse"

    num_images = Cpt(Setting, "cam1:NumImages", kind=Kind.omitted)
    manufacturer = Cpt(EpicsSignalRO, "cam1:Manufacturer_RBV", **CHOICE)
    model = Cpt(EpicsSignalRO, "cam1:Model_RBV", **CHOICE)
    message = Cpt(EpicsSignalRO, "MESSAGE", kind=Kind.omitted, string=True)
    lost = Cpt(EpicsSignalRO, "N_LOST", kind=Kind.normal, auto_monitor=True)
    processing = Cpt(Setting, "PROCESSING", kind=Kind.omitted)

    # `skywright.instruments.psss.configured` reads the configuration of a run by the names of these
    # signals: `roi_ymin`, `roi_ymax`, `smoothing`, `fit`, `weighting`, `signal_per_row`,
    # `saturation`, `axis`, `settings_file`, `width`, `height`. `signal_per_row` marks the device
    roi_ymin = Cpt(Setting, "SPC_ROI_YMIN", kind=Kind.config)
    roi_ymax = Cpt(Setting, "SPC_ROI_YMAX", kind=Kind.config)
    background = Cpt(Setting, "BACKGROUND", **CHOICE)
    background_mode = Cpt(Setting, "BACKGROUND_MODE", **CHOICE)
    smoothing = Cpt(Setting, "SMOOTHING", **CHOICE)
    fit = Cpt(Setting, "FIT", **CHOICE)
    weighting = Cpt(Setting, "WEIGHTING", **CHOICE)
    signal_per_row = Cpt(Setting, "SIGNAL_PER_ROW", kind=Kind.config)
    saturation = Cpt(Setting, "SATURATION", kind=Kind.config)
    raw_every = Cpt(Setting, "RAW_EVERY", kind=Kind.config)
    settings_number = Cpt(EpicsSignalRO, "SETTINGS_NUMBER", kind=Kind.omitted)
    spectrum_x = Cpt(EpicsSignal, "SPECTRUM_X", kind=Kind.omitted, put_complete=True)
    background_record = Cpt(EpicsSignal, "BACKGROUND_RECORD", kind=Kind.omitted, put_complete=True)
    background_recorded = Cpt(EpicsSignalRO, "BACKGROUND_RECORDED", kind=Kind.omitted, string=True)
    spectra_file = Cpt(PsssFile, "SPEC1:", kind=Kind.omitted)
    pictures_file = Cpt(PsssFile, "HDF1:", kind=Kind.omitted)

    pulses_per_point = Cpt(Signal, value=1, kind=Kind.config)
    record_pictures = Cpt(Signal, value=1, kind=Kind.config)
    """0: no raw pictures are recorded."""
    axis = Cpt(InternalSignal, value=[], kind=Kind.config, metadata={"units": "eV"})
    """The energy axis at stage, as a polynomial of the column number; empty: pixels. `energy_axis`
    sets it."""

    settings_file = Cpt(InternalSignal, value="", kind=Kind.config)
    """Path of the file of settings: analyses read there what each pulse was processed with."""

    mean_center = Cpt(Signal, value=NAN, kind=Kind.hinted)
    center_scatter = Cpt(Signal, value=NAN, kind=Kind.normal)
    mean_fwhm = Cpt(Signal, value=NAN, kind=Kind.hinted)
    fwhm_scatter = Cpt(Signal, value=NAN, kind=Kind.normal)
    mean_intensity = Cpt(Signal, value=NAN, kind=Kind.hinted)
    intensity_scatter = Cpt(Signal, value=NAN, kind=Kind.normal)
    n_pulses = Cpt(Signal, value=0, kind=Kind.normal)
    n_good = Cpt(Signal, value=0, kind=Kind.normal)
    first_row = Cpt(Signal, value=0, kind=Kind.normal)
    first_pulse_id = Cpt(Signal, value=-1, kind=Kind.normal)
    last_pulse_id = Cpt(Signal, value=-1, kind=Kind.normal)

    def __init__(self, prefix: str, *, assets: Path, name: str = "psss", **kwargs: Any) -> None:
        super().__init__(prefix, assets=assets, name=name, **kwargs)
        self.roi = Roi(self, "roi")
        self.energy_axis = EnergyAxis(self, "energy_axis")
        self.background_recorder = BackgroundRecorder(self, "background_recorder")
        columns = lambda: spectra_columns(self._picture_size()[1])  # noqa: E731
        hinted = ("pulse_id", "center", "fwhm")
        self.pulses = FlyerStream(self, f"{name}_pulses", self.spectra_file, columns, hinted)
        self.pictures = FileStream(
            self, f"{name}_pictures", self.pictures_file, self._picture_columns, ("pulse_id",)
        )
        self.pulse_settings = SettingsStream(
            self,
            f"{name}_pulse_settings",
            self.spectra_file,
            lambda: settings_columns(self._picture_size()[1]),
            ("settings_number",),
        )
        self._wanted = self._until_row = 0
        self._point = 0
        """Number of the newest trigger."""
        self._size, self._size_checked = (0, 0), False
        self._follow(self.pulses, self.spectra_file.captured)
        self._follow(self.pictures, self.pictures_file.captured)

    # ---- for its parts

    def fetch(self, signal: Any) -> Any:
        """Ask the IOC for a value, all elements of it.

        Raises
        ------
        HardwareError
            If the IOC does not answer.
        """
        return self._read_now(signal)

    def put_setpoint(self, signal: Any, value: Any, limit_s: float = PUT_S) -> None:
        """Put a value, and wait until the IOC has completed the put.

        Raises
        ------
        HardwareError
            If the put fails or is not complete within `limit_s`.
        """
        done = threading.Event()
        with self._hardware_errors(f"{signal.setpoint_pvname} cannot be put"):
            signal.put(value, use_complete=True, callback=lambda **_: done.set(), timeout=limit_s)
        if not done.wait(limit_s):
            raise HardwareError(
                f"{self.name}: {signal.setpoint_pvname} not done within {limit_s:g} s; "
                f"{self.reason()}"
            )

    def reason(self) -> str:
        """Return the message of the IOC about its error."""
        return self._reason()

    def check_size(self) -> None:
        """Check, once after each `stage`, that pictures have the size in the documents.

        Raises
        ------
        HardwareError
            If the size of the pictures has changed since `stage`.
        """
        if self._size_checked:
            return
        size, self._size_checked = self._picture_size(), True
        if size != self._size:
            raise HardwareError(
                f"{self.name}: pictures were {self._size[1]} x {self._size[0]} when it was staged "
                f"and are {size[1]} x {size[0]} now; repeat the plan"
            )

    def _message_signals(self) -> tuple[EpicsSignalRO, ...]:
        return self.spectra_file.write_message, self.message

    # ---- staging

    def _open(self) -> None:
        if not self.fetch(self.height):
            self._take_until_size_is_known(lambda: bool(self.fetch(self.height)))
        self._size, self._size_checked = self._picture_size(), False
        self.axis.put(self.energy_axis.get(), internal=True)
        stem = f"{self.name}-{uuid.uuid4()}"
        self._record(self.pulses, self.spectra_file.captured, stem)
        self.pulse_settings.begin(self.pulses.file)
        self.settings_file.put(self.pulse_settings.file, internal=True)
        if self.record_pictures.get():
            self._record(self.pictures, self.pictures_file.captured, f"{stem}-pictures")

    def unstage(self) -> list[Any]:
        """Stop, and close the files; does not fail when the IOC is gone."""
        self._wanted = 0
        self.pulse_settings.end()
        return super().unstage()

    # ---- step

    def trigger(self) -> DeviceStatus:
        """Take `pulses_per_point` pulses; done when they are in the file and summed up.

        Called again before the first has ended, as after resume, it takes further pulses; then only
        these are summed up.
        """
        self._point += 1
        number = self._point

        def take_point() -> None:
            self._take_point(number)

        return self.in_background(take_point)

    def _take_point(self, number: int) -> None:
        self._check_staged()
        self._put(self.acquire, 0)  # an acquisition that a pause has cut off may still run
        pulses, recording = int(self.pulses_per_point.get()), self.pulses.file
        first = int(self.fetch(self.spectra_file.captured))
        self._start(pulses)
        self._wait(lambda: self.pulses.rows >= first + pulses or self.pulses.file != recording)
        if self.pulses.file != recording:  # the plan was aborted
            return
        try:
            point = summarize_point(recording, first, first + pulses)
        except DataError as error:
            text = f"{self.name}: the file of the IOC cannot be read here: {error}"
            raise HardwareError(text) from error
        if number != self._point:  # a trigger after a pause sums up its own pulses
            return
        for name, value in point.items():
            getattr(self, name).put(value)

    # ---- fly, for `pulses`

    def prepare_rows(self, pulses: int) -> None:
        """Set the number of pulses of each flight from now on, until `unstage`.

        Parameters
        ----------
        pulses
            Number of pulses that `complete` waits for; 0: pulses come until `complete`.
        """
        self._wanted = int(pulses)

    def start_flying(self) -> None:
        """Start to take pulses; return when the IOC does."""
        self._check_staged()
        self._put(self.acquire, 0)
        first = int(self.fetch(self.spectra_file.captured))
        self._until_row = first + self._wanted
        self._start(self._wanted)
        self._wait(lambda: self._acquiring or self.pulses.rows >= first + max(self._wanted, 1))
        self._flying = True

    def finish_flying(self) -> None:
        """Stop, or wait for the pulses that were prepared; return when all are visible."""
        self._check_fault()
        if self._wanted:
            self._wait(lambda: self.pulses.rows >= self._until_row)
        super().finish_flying()

    def _expects_rows(self) -> bool:
        # After a long pause, all pulses that were asked for may be there already.
        complete = bool(self._wanted) and self.pulses.rows >= self._until_row
        return self._flying and not complete

    def _start(self, pulses: int) -> None:
        self._put(self.image_mode, MULTIPLE if pulses else CONTINUOUS)
        if pulses:
            self._put(self.num_images, pulses)
        self._start_acquiring()

    def _picture_size(self) -> tuple[int, int]:
        """Return rows and columns of the newest picture."""
        return int(self.fetch(self.height)), int(self.fetch(self.width))

    def _picture_columns(self) -> Any:
        return picture_columns(
            *self._picture_size(), self._read_signal(self.pictures_file.data_type)
        )
