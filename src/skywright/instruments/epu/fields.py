"""Where each value is in EPU's files: one table for each kind of file.

Namespaces are matched, not prefixes, which vary from file to file. The letters are short for the
namespaces of `NAMESPACES`.
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from lxml import etree

_CONTRACT = "http://schemas.datacontract.org/2004/07/"
NAMESPACES = {
    "E": _CONTRACT + "Applications.Epu.Persistence",
    "C": _CONTRACT + "Fei.Applications.Common.Types",
    "S": _CONTRACT + "Fei.SharedObjects",
    "T": _CONTRACT + "Fei.Types",
    "D": _CONTRACT + "System.Drawing",
    "G": _CONTRACT + "System.Collections.Generic",
    "L": _CONTRACT + "Applications.SciencesAppsShared.GridAtlas.Persistence",
    "M": _CONTRACT + "Applications.SciencesAppsShared.GridAtlas.Datamodel",
    "A": "http://schemas.microsoft.com/2003/10/Serialization/Arrays",
    "i": "http://www.w3.org/2001/XMLSchema-instance",
}

LONGEST_SHOWN = 60
"""Characters of a wrong value that a message repeats; a hostile file may hold millions."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?", re.ASCII)


def quoted(text: str) -> str:
    """Return a text of a file as a message has it: whole, or its beginning if it is long."""
    return repr(text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}...")


def number(text: str) -> float | None:
    """Return a number; None for the texts by which .NET writes "no number" and infinity."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{quoted(text)} is not a number") from None
    if value - value == 0 and "_" not in text:
        return value
    if text in ("NaN", "INF", "-INF"):
        return None
    raise ValueError(f"{quoted(text)} is not a finite number")


def integer(text: str, bits: int = 32) -> int:
    """Return an integer of `bits` bits; a text such as ``2.0`` or ``5E+1`` counts."""
    if "_" in text:  # as Python alone writes numbers
        raise ValueError(f"{quoted(text)} is not an integer")
    try:
        value = int(text)
    except ValueError:
        real = number(text)
        if real is None or not real.is_integer():
            raise ValueError(f"{quoted(text)} is not an integer") from None
        value = int(real)
    if -1 << (bits - 1) <= value < 1 << (bits - 1):
        return value
    raise ValueError(f"{quoted(text)} is not an integer of {bits} bits")


def long_integer(text: str) -> int:
    """Return an integer of 64 bits, see `integer`."""
    return integer(text, 64)


def boolean(text: str) -> bool:
    """Return a truth value in either spelling of XML Schema."""
    if text in ("true", "1", "True"):
        return True
    if text in ("false", "0", "False"):
        return False
    raise ValueError(f"{quoted(text)} is neither true nor false")


def time(text: str) -> str | None:
    """Return an ISO 8601 time as it is written: 7 decimals are more than Python's type holds.

    None for the first and the last year that .NET has, by which it writes "no time".
    """
    if text.startswith(("0001-", "9999-")):
        return None
    try:
        if _TIME.fullmatch(text):
            datetime.fromisoformat(text)
            return text
    except ValueError:
        pass
    raise ValueError(f"{quoted(text)} is not a time")


class Field(NamedTuple):
    """One value of a file: its name, where it is, how its text becomes a value.

    `default` stands for a value that is nil, absent, or not of its type.
    """

    name: str
    path: str
    convert: Callable[[str], Any]
    default: Any = None
    required: bool = False


def xpath(path: str) -> etree.XPath:
    """Compile a path of the tables below."""
    return etree.XPath(path, namespaces=NAMESPACES, smart_strings=False)


def _custom(key: str) -> str:
    return f"S:CustomData/A:KeyValueOfstringanyType{_with_key(key)}/A:Value"


def _with_key(key: str) -> str:
    return f"[normalize-space(A:Key)='{key}']"


_P = "S:microscopeData/"
_CAMERA = _P + "S:acquisition/S:camera/"
_OPTICS = _P + "S:optics/"
_STAGE = _P + "S:stage/S:Position/"
_CENTER = _custom("FindFoilHoleCenterResults")
_FRACTIONS = f"*{_with_key('FractionationSettings')}/A:Value//*[local-name()='NumberOffractions']"

INSTRUMENT_FIELDS = (
    Field("instrument_model", _P + "S:instrument/S:InstrumentModel", str),
    Field("instrument_id", _P + "S:instrument/S:InstrumentID", str),
    Field("computer_name", _P + "S:instrument/S:ComputerName", str),
)

_ID = Field("id", "S:uniqueID", str, required=True)
_ACQUIRED = Field("acquisition_datetime", _P + "S:acquisition/S:acquisitionDateTime", time)
_DETECTOR = Field("detector_name", _custom("DetectorCommercialName"), str)
_OPTICAL = (
    Field("defocus", _OPTICS + "S:Defocus", number),
    Field("magnification", _OPTICS + "S:TemMagnification/S:NominalMagnification", number),
    Field("pixel_size", "S:SpatialScale/S:pixelSize/S:x/S:numericValue", number),
    Field("applied_defocus", _custom("AppliedDefocus"), number),
)

GRIDSQUARE_FIELDS = (_ACQUIRED, *_OPTICAL, _DETECTOR, *INSTRUMENT_FIELDS)

FOILHOLE_FIELDS = (
    Field("center_x", _CENTER + "/T:Center/D:x", number),
    Field("center_y", _CENTER + "/T:Center/D:y", number),
    Field("quality", _CENTER + "/T:Quality", number),
    Field("rotation", _CENTER + "/T:Rotation", number),
    Field("size_width", _CENTER + "/T:Size/D:width", number),
    Field("size_height", _CENTER + "/T:Size/D:height", number),
    *INSTRUMENT_FIELDS,
)

MICROGRAPH_FIELDS = (
    _ID,
    _ACQUIRED._replace(required=True),
    *_OPTICAL,
    _DETECTOR._replace(default="Unknown"),
    Field("energy_filter", _OPTICS + "S:EFTEMOn", boolean, False),
    Field("phase_plate", _custom("PhasePlateUsed"), boolean, False),
    Field("image_size_x", _CAMERA + "S:ReadoutArea/D:width", integer),
    Field("image_size_y", _CAMERA + "S:ReadoutArea/D:height", integer),
    Field("binning_x", _CAMERA + "S:Binning/D:x", integer, 1),
    Field("binning_y", _CAMERA + "S:Binning/D:y", integer, 1),
    Field("exposure_time", _CAMERA + "S:ExposureTime", number),
    Field("high_tension", _P + "S:gun/S:AccelerationVoltage", number),
    Field("stage_x", _STAGE + "S:X", number),
    Field("stage_y", _STAGE + "S:Y", number),
    Field("stage_z", _STAGE + "S:Z", number),
    Field("beam_shift_x", _OPTICS + "S:BeamShift/T:_x", number),
    Field("beam_shift_y", _OPTICS + "S:BeamShift/T:_y", number),
    Field("dose", _custom("Dose"), number),
    Field("fractions", _CAMERA + "S:CameraSpecificInput/" + _FRACTIONS, integer),
    *INSTRUMENT_FIELDS,
)

IMAGE_DETAIL_FIELDS = (
    Field("stage_a", _STAGE + "S:A", number),
    Field("stage_b", _STAGE + "S:B", number),
    Field("beam_tilt_x", _OPTICS + "S:BeamTilt/T:_x", number),
    Field("beam_tilt_y", _OPTICS + "S:BeamTilt/T:_y", number),
    Field("image_shift_x", _OPTICS + "S:ImageShift/T:_x", number),
    Field("image_shift_y", _OPTICS + "S:ImageShift/T:_y", number),
    Field("spot_index", _OPTICS + "S:SpotIndex", integer),
    Field("beam_diameter", _OPTICS + "S:BeamDiameter", number),
    Field("slit_width", _OPTICS + "S:EnergyFilter/S:EnergySelectionSlitWidth", number),
    Field("dose_rate", _custom("DoseRate"), number),
    Field("dose_on_camera", _custom("DoseOnCamera"), number),
    Field("software_version", _P + "S:core/S:ApplicationSoftwareVersion", str),
)
"""Further values of an image, printed for a single file only."""

_FIRST = "[not(@i:nil='true' or @i:nil='1')][1]"
"""The first of a list that is not nil, as of `is_nil`."""

SESSION_FIELDS = (
    Field("id", "C:Id", str, required=True),
    Field("name", "E:Name", str),
    Field("start_time", "E:StartDateTime", time),
    Field("storage_path", f"E:StorageFolders/E:_items/E:StorageFolderXml{_FIRST}/E:Path", str),
    Field("atlas_path", f"E:Samples/E:_items/E:SampleXml{_FIRST}/E:AtlasId", str),
    Field("clustering_mode", "E:ClusteringMode", str),
    Field("clustering_radius", "E:ClusteringRadius", number),
)
SESSION_DETAIL_FIELDS = (
    Field("autoloader_slot", "E:AutoloaderSlot", str),
    Field("tilt_angle", "E:TiltAngle", number),
    Field("image_file_format", "E:ImageFileFormat", str),
    Field("dose_fractions_output_format", "E:DoseFractionsOutputFormat", str),
    Field("microscope_name", "E:MicroscopeName", str),
)

ATLAS_FIELDS = (
    Field("id", "C:Id", str, required=True),
    Field("name", "L:Name", str),
    Field("acquisition_date", "L:Atlas/L:AcquisitionDateTime", time),
    Field("storage_folder", "L:StorageFolder", str),
    Field("description", "L:Description", str),
)
TILE_FIELDS = (
    Field("id", "C:Id", str),
    Field("x", "L:AtlasPixelPosition/D:x", number),
    Field("y", "L:AtlasPixelPosition/D:y", number),
    Field("width", "L:AtlasPixelPosition/D:width", number),
    Field("height", "L:AtlasPixelPosition/D:height", number),
    Field("file_format", "L:TileImageReference/C:FileFormat", str),
    Field("base_filename", "L:TileImageReference/C:BaseFileName", str),
)
_ON_ATLAS = "G:value/L:PositionOnTheAtlas/"
ATLAS_SQUARE_FIELDS = (
    Field("id", "G:key", str),
    Field("center_x", _ON_ATLAS + "M:Center/D:x", number),
    Field("center_y", _ON_ATLAS + "M:Center/D:y", number),
    Field("physical_x", _ON_ATLAS + "M:Physical/D:x", number),
    Field("physical_y", _ON_ATLAS + "M:Physical/D:y", number),
    Field("size_width", _ON_ATLAS + "M:Size/D:width", number),
    Field("size_height", _ON_ATLAS + "M:Size/D:height", number),
    Field("rotation", _ON_ATLAS + "M:Rotation", number),
)
TILE_SQUARE_FIELDS = (
    Field("tile_id", "L:TileId", str),
    Field("center_x", "L:NodePosition/M:Center/D:x", number),
    Field("center_y", "L:NodePosition/M:Center/D:y", number),
    Field("size_width", "L:NodePosition/M:Size/D:width", number),
    Field("size_height", "L:NodePosition/M:Size/D:height", number),
)

METADATA_FIELDS = (
    Field("atlas_node_id", "E:AtlasNodeId", long_integer),
    Field("stage_x", "E:Position/S:X", number),
    Field("stage_y", "E:Position/S:Y", number),
    Field("stage_z", "E:Position/S:Z", number),
    Field("state", "E:State", str),
    Field("rotation", "E:Rotation", number),
    Field("selected", "E:Selected", boolean, False),
    Field("unusable", "E:Unusable", boolean, False),
    Field("image_path", "E:GridSquareImagePath", str),
)
HOLE_FIELDS = (
    Field("id", "G:key", str),
    Field("x_location", "G:value/E:PixelCenter/D:x", number),
    Field("y_location", "G:value/E:PixelCenter/D:y", number),
    Field("x_stage_position", "G:value/E:StagePosition/S:X", number),
    Field("y_stage_position", "G:value/E:StagePosition/S:Y", number),
    Field("diameter", "G:value/E:PixelWidthHeight/D:width", number),
    Field("is_near_grid_bar", "G:value/E:IsNearGridBar", boolean, False),
)
