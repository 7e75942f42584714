"""The part of areaDetector's PVs that clients of a camera use: cam, image and HDF5 recording.

The groups expect a parent with the helpers of `iocs.owner.OwnerGroup`. `Cam` also needs its
``control``; a subclass of `HdfPlugin` starts and stops the recording.
"""

from functools import partial
from pathlib import Path
from typing import Any

from caproto import AlarmSeverity, ChannelType
from caproto.server import PVGroup, pvproperty

from iocs.common import (
    alarm_if,
    decode_char_array,
    in_order,
    post,
    post_pair,
    setting,
    write_pair,
)
from skywright.acquire.acquisition import Acquisition
from skywright.acquire.owner import Owner

IMAGE_BYTES_MAX = 2592 * 1944 * 3
YES_NO = ["No", "Yes"]
CAMERA_DATA_TYPES = ["Int8", "UInt8"]
"""Those of a video camera, the first ones of `iocs.recording.DATA_TYPES`."""
COLOR_MODES = ["Mono", "Bayer", "RGB1"]
SINGLE, MULTIPLE, CONTINUOUS = range(3)
WRITE_MODES = ["Single", "Capture", "Stream"]
WRITE_SINGLE, WRITE_CAPTURE, WRITE_STREAM = range(3)


def number(value: Any = 0, put: Any = None, **kw: Any) -> Any:
    """Return a setting that holds a number."""
    return setting(value=value, dtype=type(value), put=put, **kw)


def choice(strings: list[str], value: int = 0, put: Any = None, **kw: Any) -> Any:
    """Return a setting that holds one of `strings`; its putter gets, and may return, the index."""

    async def put_index(obj: Any, instance: Any, wanted: str | int) -> str:
        index: Any = strings.index(wanted) if wanted in strings else wanted
        if index not in range(len(strings)):
            raise ValueError(f"{wanted!r}; expected one of {', '.join(strings)}")
        if put is None:
            await obj.readback.write(strings[index])
            return strings[index]
        result = await put(obj, instance, index)
        return strings[index if result is None else result]

    return setting(
        value=strings[value],
        dtype=ChannelType.ENUM,
        enum_strings=strings,
        put=put_index,
        **kw,
    )


def long_text(value: str = "", put: Any = None, max_length: int = 1024, **kw: Any) -> Any:
    """Return a setting that holds a long text; its putter gets, and may return, the text."""

    async def put_text(obj: Any, instance: Any, given: str | bytes) -> str:
        # Clients cut a text to the length of the PV and say nothing; what is left may make sense.
        whole = given.decode("latin-1") if isinstance(given, bytes) else given
        if len(whole.split("\0")[0]) >= max_length:
            raise ValueError(f"expected less than {max_length} characters")
        text = decode_char_array(whole)
        if put is not None:
            changed: str | None = await put(obj, instance, text)
            return text if changed is None else changed
        await obj.readback.write(text)
        return text

    return setting(value=value, dtype=ChannelType.CHAR, max_length=max_length, put=put_text, **kw)


def readback(value: Any, dtype: Any = None, **kw: Any) -> Any:
    """Return a PV that clients cannot write."""
    dtype = type(value) if dtype is None else dtype
    return pvproperty(value=value, dtype=dtype, read_only=True, **kw)


def enum_readback(strings: list[str], value: int = 0, **kw: Any) -> Any:
    """Return one of `strings` that clients only read."""
    return readback(strings[value], ChannelType.ENUM, enum_strings=strings, **kw)


def checked(least: float, most: float) -> Any:
    """Return a putter that takes numbers from `least` to `most` and refuses others."""

    async def put(obj: Any, instance: Any, value: Any) -> None:
        if not least <= value <= most:
            raise ValueError(f"{value}, expected {least:.10g} to {most:.10g}")
        await obj.readback.write(value)

    return put


def only(*allowed: Any) -> Any:
    """Return a putter that accepts `allowed` only; of a `choice` these are indices."""

    async def put(obj: Any, instance: Any, value: Any) -> None:
        if value not in allowed:
            strings = getattr(instance, "enum_strings", None)
            wanted, *known = (strings[each] if strings else each for each in (value, *allowed))
            raise ValueError(f"{wanted}, expected {' or '.join(map(str, known))}")
        await obj.readback.write(value)

    return put


def on_source(name: str, put: Any = None) -> Any:
    """Return a putter that sets an attribute of the source of the IOC's `Cam`.

    It has no effect on a source without the attribute. `put`, if given, is a putter that may refuse
    the value.
    """

    async def put_on_source(obj: Any, instance: Any, value: Any) -> None:
        if put is None:
            await obj.readback.write(value)
        else:
            await put(obj, instance, value)
        source = obj.parent.parent.cam.control.source
        if hasattr(source, name):
            kind = type(getattr(source, name))  # a switch is a bool, and its PV has an index
            setattr(source, name, kind(value))

    return put_on_source


class ArrayCounters:
    """ArrayCounter PVs as in areaDetector: a client may set one, and it counts on from there."""

    def __init__(self, *pairs: Any) -> None:
        self._pairs = pairs
        self._total = 0

    async def count_to(self, total: int) -> None:
        """Add the items since the last call; `total` is their number since the process started."""
        new, self._total = total - self._total, total
        if new:
            for pair in self._pairs:
                # In Channel Access an integer has 32 bits; it begins at 0 again
                await post(pair.readback, (pair.readback.value + new) % 2**31)


async def fixed(obj: Any, instance: Any, value: Any) -> None:
    """Refuse another value: the pictures determine it."""
    if value != obj.readback.value:
        raise ValueError(f"{value}, expected {obj.readback.value}, the size of the pictures")


@in_order
async def _start_or_stop(obj: Any, instance: Any, value: Any) -> Acquisition | None:
    """Start or stop an acquisition; return it, None if there was none to stop."""
    cam = obj.parent
    if not value:
        stopped: Acquisition | None = cam.control.stop_acquisition()
        return stopped
    mode = cam.image_mode.readback.raw_value
    wanted = {SINGLE: 1, MULTIPLE: cam.num_images.readback.value, CONTINUOUS: 0}[mode]
    if mode == MULTIPLE and wanted < 1:
        raise ValueError("NumImages is 0; ask for at least 1 picture")
    acquire = partial(cam.control.acquire, wanted, may_join=True)
    acquisition: Acquisition = await cam.parent.in_thread(acquire)
    await post(instance, 1)
    await post(obj.readback, 1)
    return acquisition


async def _put_acquire(obj: Any, instance: Any, value: Any) -> int:
    """Busy record: completes when the acquisition is over and its pictures are in the file."""
    ioc = obj.parent.parent
    acquisition = await _start_or_stop(obj, instance, value)
    if acquisition is not None:
        await ioc.wait_until_done(acquisition.done)
    else:  # there is none; if it has just ended by itself, its last rows may not be posted yet
        await ioc.wait_until_posted()
    return 0


async def _put_period(obj: Any, instance: Any, value: float) -> None:
    if not 0.0 <= value <= 3600.0:
        raise ValueError(f"{value} s, expected 0 to 3600 s")
    if (period := obj.parent.control.source.set_period(value)) is None:
        raise ValueError(f"{value} s, but the sender's period cannot be changed")
    await obj.readback.write(period)


async def _put_color(obj: Any, instance: Any, value: Any) -> None:
    if COLOR_MODES[value] == "Bayer":
        raise ValueError("Bayer, expected Mono or RGB1")
    color = obj.parent.control.set_color(COLOR_MODES[value] == "RGB1")
    await obj.readback.write(COLOR_MODES.index("RGB1" if color else "Mono"))
    if color != (COLOR_MODES[value] == "RGB1"):
        raise ValueError("the color mode is fixed: by the camera, or by an open recording")


class Cam(PVGroup):
    """The camera, ADBase and NDArrayBase of areaDetector.

    Attributes
    ----------
    control
        The owner of the pictures, or of items that are no pictures; set before the IOC serves. It
        also has the method `set_color`: it requests pictures in color, or gray ones, and returns
        whether they are in color now.
    """

    control: Owner[Any, Any]

    acquire = choice(["Done", "Acquire"], put=_put_acquire, name="Acquire")
    image_mode = choice(["Single", "Multiple", "Continuous"], CONTINUOUS, name="ImageMode")
    num_images = number(1, checked(1, 10**9), name="NumImages")
    num_exposures = number(1, only(1), name="NumExposures")
    acquire_time = number(1 / 30, checked(0.0, 3600.0), name="AcquireTime")
    acquire_period = number(1 / 30, _put_period, name="AcquirePeriod")
    array_counter = number(0, name="ArrayCounter")
    array_callbacks = choice(["Disable", "Enable"], 1, name="ArrayCallbacks")
    color_mode = choice(COLOR_MODES, put=_put_color, name="ColorMode")
    data_type = choice(
        CAMERA_DATA_TYPES,
        1,
        put=only(1),
        setpoint_kw={"record": "mbbo"},
        readback_kw={"record": "mbbi"},
        name="DataType",
    )
    trigger_mode = choice(["Internal", "External"], name="TriggerMode")
    frame_type = choice(["Normal", "Background", "FlatField"], name="FrameType")
    gain = number(1.0, only(1.0), name="Gain")
    bin_x = number(1, only(1), name="BinX")
    bin_y = number(1, only(1), name="BinY")
    min_x = number(0, only(0), name="MinX")
    min_y = number(0, only(0), name="MinY")
    size_x = number(0, fixed, name="SizeX")
    size_y = number(0, fixed, name="SizeY")
    port_name = readback("CAM1", ChannelType.STRING, name="PortName_RBV")
    manufacturer = readback("", ChannelType.STRING, name="Manufacturer_RBV")
    model = readback("", ChannelType.STRING, name="Model_RBV")
    max_size_x = readback(0, name="MaxSizeX_RBV")
    max_size_y = readback(0, name="MaxSizeY_RBV")
    array_size_x = readback(0, name="ArraySizeX_RBV")
    array_size_y = readback(0, name="ArraySizeY_RBV")
    array_size_z = readback(0, name="ArraySizeZ_RBV")
    array_size = readback(0, name="ArraySize_RBV")
    num_images_counter = readback(0, name="NumImagesCounter_RBV")
    unique_id = readback(-1, name="UniqueId_RBV")
    time_stamp = readback(0.0, precision=3, units="s", name="TimeStamp_RBV")
    detector_state = enum_readback(["Idle", "Acquire"], 0, name="DetectorState_RBV")
    status_message = readback("", ChannelType.CHAR, max_length=1024, name="StatusMessage_RBV")

    async def post_period(self) -> None:
        """Post the time between the items of the source; call it once, when the IOC begins."""
        for pair in (self.acquire_period, self.acquire_time):
            await write_pair(pair, self.control.source.period_s)

    def has_posted(self, acquiring: bool) -> bool:
        """Return whether ``Acquire_RBV`` has this value.

        A put writes 1 after `acquire` has returned, when a short acquisition may be over and posted
        already; then 0 must be posted again.
        """
        return bool(self.acquire.readback.raw_value) == acquiring

    async def post_acquiring(self, acquiring: bool) -> None:
        """Post whether there is an acquisition.

        Call it after all other posts: a client that waits for the end of an acquisition must find
        everything else posted.

        Parameters
        ----------
        acquiring
            Whether there was one when the state was read. If a put has changed that since, its
            value stays.
        """
        for channel in (self.detector_state, self.acquire.readback):
            if (self.control.acquisition is not None) == acquiring:
                await post(channel, int(acquiring))


class Plugin(PVGroup):
    """What areaDetector's plugins have in common."""

    enable = choice(["Disable", "Enable"], 1, name="EnableCallbacks")
    blocking_callbacks = choice(YES_NO, name="BlockingCallbacks")
    array_callbacks = choice(["Disable", "Enable"], 1, name="ArrayCallbacks")
    nd_array_port = setting(
        value="CAM1", dtype=ChannelType.STRING, put=only("CAM1"), name="NDArrayPort"
    )
    nd_array_address = number(0, name="NDArrayAddress")
    array_counter = number(0, name="ArrayCounter")
    dropped_arrays = number(0, name="DroppedArrays")
    min_callback_time = number(0.0, name="MinCallbackTime")
    array_size_0 = readback(0, name="ArraySize0_RBV")
    array_size_1 = readback(0, name="ArraySize1_RBV")
    array_size_2 = readback(0, name="ArraySize2_RBV")
    n_dimensions = readback(0, name="NDimensions_RBV")
    color_mode = enum_readback(COLOR_MODES, 0, name="ColorMode_RBV")
    data_type = enum_readback(CAMERA_DATA_TYPES, 1, name="DataType_RBV")
    unique_id = readback(-1, name="UniqueId_RBV")
    time_stamp = readback(0.0, precision=3, units="s", name="TimeStamp_RBV")

    async def post_shape(self, shape: tuple[int, ...]) -> None:
        """Post the shape of its picture, (H, W) or (H, W, 3), or (W,); 0 while it is not known."""
        sizes = (*reversed(shape), 0, 0)[:3]
        for channel, size in zip(
            (self.array_size_0, self.array_size_1, self.array_size_2), sizes, strict=True
        ):
            await post(channel, size)
        await post(self.n_dimensions, len(shape) if all(shape) else 0)
        await post(self.color_mode, COLOR_MODES.index("RGB1" if len(shape) == 3 else "Mono"))


class Image(Plugin):
    """The newest picture, a few times a second during acquisitions, for display only."""

    port_name = readback("Image1", ChannelType.STRING, name="PortName_RBV")
    plugin_type = readback("NDPluginStdArrays", ChannelType.STRING, name="PluginType_RBV")
    array_data = pvproperty(
        value=b"",
        dtype=bytes,
        max_length=IMAGE_BYTES_MAX,
        strip_null_terminator=False,
        read_only=True,
        name="ArrayData",
    )


async def _put_file_path(obj: Any, instance: Any, path: str) -> str:
    if not path.startswith("/"):  # it would be a directory below the IOC's own
        raise ValueError(f"{path!r}, expected an absolute path such as /data/")
    path = path if path.endswith("/") else path + "/"
    await obj.readback.write(path)
    await obj.parent.check_path()
    return path


def fill_template(template: str, *values: str | int) -> str:
    """Fill path, name and number into a template; as in C, it may use the first of them only.

    Raises
    ------
    ValueError
        If it cannot be filled.
    """
    for used in range(len(values), -1, -1):
        try:
            return template % values[:used]
        except TypeError:
            continue
    raise ValueError(f"{template!r} cannot be filled; expected one like %s%s_%6.6d.h5")


async def _put_template(obj: Any, instance: Any, template: str) -> None:
    fill_template(template, "/path/", "name", 0)
    await obj.readback.write(template)


async def _put_file_number(obj: Any, instance: Any, value: int) -> None:
    if not 0 <= value <= 10**9:
        raise ValueError(f"{value}, expected 0 to 1000000000")
    obj.parent.next_number = int(value)
    await obj.readback.write(value)


async def _put_create(obj: Any, instance: Any, value: int) -> None:
    await obj.readback.write(value)
    await obj.parent.check_path()


@in_order
async def _open_or_close(obj: Any, instance: Any, value: Any) -> int:
    """Open or close the recording; return 1 if one was opened."""
    hdf = obj.parent
    if value:
        return int(await hdf.open_capture())
    await hdf.parent.in_thread(hdf.stop_capture)
    return 0


async def _put_capture(obj: Any, instance: Any, value: Any) -> int:
    """Complete when the counts of the recording are posted; the next put does not wait for that."""
    begun = await _open_or_close(obj, instance, value)
    await obj.parent.parent.wait_until_posted()
    return begun


class HdfPlugin(Plugin):
    """The recording, NDPluginFile and NDFileHDF5 of areaDetector.

    A subclass defines `start_capture`, `stop_capture` and `is_capturing`.

    Attributes
    ----------
    next_number
        Number of the next file, the value of ``FileNumber``.
    """

    next_number = 0

    # Capture alone says whether pictures are recorded.
    enable = choice(["Disable", "Enable"], 1, put=only(1), name="EnableCallbacks")
    port_name = readback("FileHDF1", ChannelType.STRING, name="PortName_RBV")
    plugin_type = readback("NDFileHDF5 ver1.10.1", ChannelType.STRING, name="PluginType_RBV")
    file_path = long_text(put=_put_file_path, name="FilePath")
    file_name = long_text("pictures", name="FileName")
    file_template = long_text("%s%s_%6.6d.h5", put=_put_template, name="FileTemplate")
    file_number = number(0, _put_file_number, name="FileNumber")
    full_file_name = readback("", ChannelType.CHAR, max_length=1024, name="FullFileName_RBV")
    file_path_exists = enum_readback(YES_NO, 0, name="FilePathExists_RBV")
    create_directory = number(0, _put_create, name="CreateDirectory")
    auto_increment = choice(YES_NO, 1, name="AutoIncrement")
    auto_save = choice(YES_NO, name="AutoSave")
    file_write_mode = choice(WRITE_MODES, WRITE_STREAM, only(WRITE_STREAM), name="FileWriteMode")
    num_capture = number(0, checked(0, 10**9), name="NumCapture")
    num_captured = readback(0, name="NumCaptured_RBV")
    capture = choice(["Done", "Capture"], put=_put_capture, name="Capture")
    lazy_open = choice(YES_NO, name="LazyOpen")
    swmr_mode = choice(["Off", "On"], 1, put=only(1), name="SWMRMode")
    swmr_active = enum_readback(["Off", "Active"], 0, name="SWMRActive_RBV")
    num_frames_flush = number(0, name="NumFramesFlush")
    compression = choice(["None"], name="Compression")
    write_status = enum_readback(["Write OK", "Write error"], 0, name="WriteStatus")
    write_message = readback("", ChannelType.CHAR, max_length=1024, name="WriteMessage")

    def start_capture(self, path: Path, count: int, lazy: bool) -> str:
        """Start a recording; return an error message, empty if it succeeded.

        Parameters
        ----------
        path
            Path of the new file.
        count
            Number of rows after which the recording ends by itself; 0: never.
        lazy
            True: create the file only when the first row comes.
        """
        raise NotImplementedError

    def stop_capture(self) -> None:
        """End the recording."""
        raise NotImplementedError

    @property
    def is_capturing(self) -> bool:
        """Whether a recording is open."""
        raise NotImplementedError

    @property
    def directory(self) -> Path:
        """Directory of the files; one that does not exist while ``FilePath`` is not set."""
        return Path(self.file_path.readback.value or "/nowhere")

    def next_path(self) -> Path:
        """Return the path that the template gives, below ``FilePath`` if it is not absolute."""
        name = fill_template(
            self.file_template.readback.value,
            self.file_path.readback.value,
            self.file_name.readback.value,
            self.next_number,
        )
        return self.directory / name

    async def check_path(self) -> bool:
        """Create the directory if ``CreateDirectory`` asks for it; return whether it exists."""
        directory = self.directory
        # On threads: a disk that hangs must not keep the PVs from being served
        exists: bool = await self.parent.in_thread(directory.is_dir)
        if self.create_directory.readback.value and not exists:
            try:
                await self.parent.in_thread(lambda: directory.mkdir(parents=True, exist_ok=True))
                exists = True
            except OSError as error:
                await post(self.write_message, f"{directory}: cannot be created: {error}")
        alarm = alarm_if(not exists, AlarmSeverity.MAJOR_ALARM)
        await post(self.file_path_exists, int(exists), alarm)
        return exists

    async def open_capture(self) -> bool:
        """Open the next recording; return whether that worked."""
        if self.file_write_mode.readback.raw_value != WRITE_STREAM:
            raise ValueError("FileWriteMode is not Stream; set it before Capture")
        if not await self.check_path():
            directory = self.file_path.readback.value
            await self.fail_to_write(f"directory {directory!r} does not exist; create it")
            return False
        path = self.next_path()
        await post(self.full_file_name, str(path))
        error = await self.parent.in_thread(
            self.start_capture,
            path,
            self.num_capture.readback.value,
            bool(self.lazy_open.readback.raw_value),
        )
        if error:
            await self.fail_to_write(error)
        elif self.auto_increment.readback.raw_value:
            self.next_number += 1
            await self.post_file_number()
        return not error

    async def post_file_number(self) -> None:
        """Post the number of the next file."""
        await post_pair(self.file_number, self.next_number)

    async def fail_to_write(self, message: str) -> None:
        """Post that a recording cannot be written."""
        await post(self.write_message, message, AlarmSeverity.MAJOR_ALARM)
        await post(self.write_status, 1, AlarmSeverity.MAJOR_ALARM)

    async def post_recording(self, rows: int, lost: int, capturing: bool, error: str) -> None:
        """Post the state of the recording.

        Parameters
        ----------
        rows
            Number of rows that readers of the file can see.
        lost
            Number of items lost since the start of the process.
        capturing
            Whether a recording was open when the state was read.
        error
            Error of a file; empty if there is none.
        """
        await post(self.num_captured, rows)
        await post(self.dropped_arrays.readback, lost)
        if error:
            await self.fail_to_write(error)
        elif capturing:
            await post(self.write_message, "", AlarmSeverity.NO_ALARM)
            await post(self.write_status, 0, AlarmSeverity.NO_ALARM)
        await post(self.swmr_active, int(capturing))
        for channel in (self.capture.readback, self.capture.setpoint):
            # A put may have opened or closed the file meanwhile; do not overwrite its value
            if self.is_capturing == capturing:
                await post(channel, int(capturing))
