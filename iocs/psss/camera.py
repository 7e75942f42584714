"""The part of areaDetector's PVs that runs acquisitions of pulses, and the recordings."""

from caproto import ChannelType

from iocs.areadetector import Cam, choice, long_text, readback
from iocs.recording import DATA_TYPES, RecorderPlugin
from skywright.acquire.acquisition import Acquisition
from skywright.instruments.psss.processor import Processor


class PulseCamera:
    """The `iocs.areadetector.AcquisitionControl` of the spectrometer: its items are pulses.

    Parameters
    ----------
    processor
        Owner of the pulses.
    """

    def __init__(self, processor: Processor) -> None:
        self.processor, self.source = processor, processor.source

    def set_color(self, color: bool) -> bool:
        """Return False: pictures are grey."""
        return False

    def acquire(self, requested: int) -> Acquisition:
        """Start an acquisition of pulses, or return the one in progress."""
        return self.processor.acquire(requested, may_join=True)

    def stop(self) -> Acquisition | None:
        """End the acquisition in progress."""
        return self.processor.stop_acquisition()


class PsssCam(Cam):
    """The camera; NumImages counts pulses."""

    manufacturer = readback("skywright", ChannelType.STRING, name="Manufacturer_RBV")
    data_type = choice(
        DATA_TYPES,
        DATA_TYPES.index("UInt16"),
        setpoint_kw={"record": "mbbo"},
        readback_kw={"record": "mbbi"},
        name="DataType",
    )


class SpectrumPlugin(RecorderPlugin):
    """The file plugin of every pulse's spectrum and fit."""

    file_name = long_text("psss", name="FileName")


class PicturePlugin(RecorderPlugin):
    """The file plugin of pictures. Its files are not named as those of spectra."""

    file_name = long_text("pictures", name="FileName")
