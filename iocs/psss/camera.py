"""The areaDetector PVs of the spectrometer: its camera and its file plugins."""

from caproto import ChannelType

from iocs.areadetector import Cam, choice, long_text, readback
from iocs.recording import DATA_TYPES, RecorderPlugin


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
    """The file plugin of pictures. Its files have a default name of their own."""

    file_name = long_text("pictures", name="FileName")
