"""The XML of EPU's files, one line each as EPU writes them, from plain values.

The structure is that of files of EPU 3.9. It shares no code with the parser, which it tests.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

_CONTRACT = "http://schemas.datacontract.org/2004/07/"
_EPU = _CONTRACT + "Applications.Epu.Persistence"
_COMMON = _CONTRACT + "Fei.Applications.Common.Types"
_SHARED = _CONTRACT + "Fei.SharedObjects"
_TYPES = _CONTRACT + "Fei.Types"
_DRAWING = _CONTRACT + "System.Drawing"
_GENERIC = _CONTRACT + "System.Collections.Generic"
_UNITS = _CONTRACT + "Fei.Common.Types"
_ATLAS = _CONTRACT + "Applications.SciencesAppsShared.GridAtlas.Persistence"
_MODEL = _CONTRACT + "Applications.SciencesAppsShared.GridAtlas.Datamodel"
_ARRAYS = "http://schemas.microsoft.com/2003/10/Serialization/Arrays"
_SERIAL = "http://schemas.microsoft.com/2003/10/Serialization/"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_XSD = "http://www.w3.org/2001/XMLSchema"
_DECLARATION = '<?xml version="1.0" encoding="utf-8"?>\r\n'


class ImageValues(NamedTuple):
    """What an image's XML tells; SI units, angles in rad, times as .NET writes them."""

    unique_id: str
    acquired: str
    defocus: float
    applied_defocus: float
    magnification: float
    pixel_size: float
    exposure: float
    dose: float
    stage: tuple[float, float, float, float, float]
    beam_shift: tuple[float, float]
    width: int = 2880
    height: int = 2046
    fractions: int | None = 50
    center: tuple[float, float, float, float, float] | None = None
    """Hole found in the image: x, y (pixels), quality, rotation, size (pixels)."""


class HoleValues(NamedTuple):
    """A hole in a square's ``.dm``."""

    id: int
    x: float
    y: float
    stage_x: float
    stage_y: float
    diameter: float
    near_grid_bar: bool
    state: str


class AtlasSquareValues(NamedTuple):
    """A square in an ``Atlas.dm``; its tile has the same centre, scaled."""

    id: int
    x: float
    y: float
    physical_x: float
    physical_y: float
    size: float
    rotation: float


def _number(value: float) -> str:
    """Write a number as .NET does: ``1.2E-05``."""
    text = repr(float(value)).upper()
    return text.removesuffix(".0")


def _typed(key: str, kind: str, value: object) -> str:
    return (
        f'<a:KeyValueOfstringanyType><a:Key>{key}</a:Key><a:Value i:type="b:{kind}" '
        f'xmlns:b="{_XSD}">{value}</a:Value></a:KeyValueOfstringanyType>'
    )


def _center(found: tuple[float, float, float, float, float] | None) -> str:
    if found is None:
        return ""
    x, y, quality, rotation, size = map(_number, found)
    return (
        "<a:KeyValueOfstringanyType><a:Key>FindFoilHoleCenterResults</a:Key>"
        f'<a:Value i:type="b:Shape2D" xmlns:b="{_TYPES}">'
        f'<b:Center xmlns:c="{_DRAWING}"><c:x>{x}</c:x><c:y>{y}</c:y></b:Center>'
        f"<b:Quality>{quality}</b:Quality><b:Rotation>{rotation}</b:Rotation><b:Shear>0</b:Shear>"
        f'<b:Size xmlns:c="{_DRAWING}"><c:height>{size}</c:height><c:width>{size}</c:width>'
        "</b:Size></a:Value></a:KeyValueOfstringanyType>"
    )


def _custom_data(image: ImageValues) -> str:
    pairs = [
        _typed("DoseOnCamera", "double", _number(image.dose * image.pixel_size**2)),
        *[
            _typed(f"Aperture[{name}].Name", "string", value)
            for name, value in (("C1", 2000), ("C2", 50), ("C3", "None"), ("OBJ", 100))
        ],
        _typed("Aperture[SA].Name", "string", "None"),
        _typed("StemMagnification", "boolean", "false"),
        _typed("Detectors[EF-CCD].CommercialName", "string", "BioQuantum K3"),
        _typed("Detectors[EF-CCD].ElectronCounted", "boolean", "true"),
        _typed("DoseRate", "double", "1.1175125875698700"),
        _typed("IlluminationIntensity", "double", "0"),
        _typed("Dose", "double", _number(image.dose)),
        _typed("PhasePlateUsed", "boolean", "false"),
        _typed("BinaryResult.Detector", "string", "EF-CCD"),
        _typed("DetectorCommercialName", "string", "BioQuantum K3"),
        _center(image.center),
        _typed("AppliedDefocus", "double", _number(image.applied_defocus)),
    ]
    return f'<CustomData xmlns:a="{_ARRAYS}">{"".join(pairs)}</CustomData>'


_UNIT = (
    f'<unit xmlns:a="{_UNITS}"><a:_x003C_PrefixExponent_x003E_k__BackingField>1'
    "</a:_x003C_PrefixExponent_x003E_k__BackingField><a:_x003C_Symbol_x003E_k__BackingField>m"
    "</a:_x003C_Symbol_x003E_k__BackingField></unit>"
)


def _scale(name: str, value: str) -> str:
    axes = [f"<{axis}><numericValue>{value}</numericValue>{_UNIT}</{axis}>" for axis in ("x", "y")]
    return f"<{name}>{''.join(axes)}</{name}>"


def _camera(image: ImageValues) -> str:
    fractions = ""
    if image.fractions is not None:
        fractions = (
            "<a:KeyValueOfstringanyType><a:Key>FractionationSettings</a:Key>"
            f'<a:Value i:type="b:EquidistantFractionation" '
            f'xmlns:b="{_CONTRACT}Fei.Applications.Common.Omp.Interface">'
            f"<b:NumberOffractions>{image.fractions}</b:NumberOffractions></a:Value>"
            "</a:KeyValueOfstringanyType>"
        )
    pairs = [
        _typed("AlignIntegratedImageEnabled", "boolean", "false"),
        _typed("SuperResolutionFactor", "long", 2),
        fractions,
        _typed("ElectronCountingEnabled", "boolean", "true"),
        _typed("ApplyDefinedShutter", "boolean", "true"),
        _typed("CetaFramesSummed", "long", 1),
        _typed("CetaNoiseReductionEnabled", "boolean", "false"),
        _typed("FixedReadoutArea", "string", "Full"),
    ]
    return (
        f'<camera><Binning xmlns:a="{_DRAWING}"><a:x>2</a:x><a:y>2</a:y></Binning>'
        "<CameraLocation>EnergyFilter</CameraLocation>"
        f'<CameraSpecificInput xmlns:a="{_ARRAYS}">{"".join(pairs)}</CameraSpecificInput>'
        "<DarkGainCorrection>None</DarkGainCorrection>"
        f"<ExposureTime>{_number(image.exposure)}</ExposureTime>"
        "<FixedReadoutArea>Full</FixedReadoutArea><Inserted>true</Inserted><Name>EF-CCD</Name>"
        "<PreExposurePauseTime>0</PreExposurePauseTime>"
        f'<ReadoutArea xmlns:a="{_DRAWING}"><a:height>{image.height}</a:height>'
        f"<a:width>{image.width}</a:width><a:x>0</a:x><a:y>0</a:y></ReadoutArea>"
        "<Shutter>PreSpecimen</Shutter></camera>"
    )


def _vector(name: str, x: float, y: float) -> str:
    return f'<{name} xmlns:a="{_TYPES}"><a:_x>{_number(x)}</a:_x><a:_y>{_number(y)}</a:_y></{name}>'


def _optics(image: ImageValues) -> str:
    return (
        '<optics><Apertures i:nil="true"/><BeamConvergence i:nil="true"/>'
        "<BeamDiameter>8.2999999999999989E-07</BeamDiameter>"
        + _vector("BeamShift", *image.beam_shift)
        + _vector("BeamTilt", 0.011411165818572044, -0.014905801042914391)
        + "<Cameralength>0</Cameralength><ColumnOperatingMode>TEM</ColumnOperatingMode>"
        "<ColumnOperatingTemSubMode>BrightField</ColumnOperatingTemSubMode>"
        + _vector("CondenserStigmator", 0, 0)
        + f"<Defocus>{_number(image.defocus)}</Defocus><DiffractionFocus>0</DiffractionFocus>"
        + _vector("DiffractionShift", 0, 0)
        + _vector("DiffractionStigmator", 0, 0)
        + "<EFTEMOn>true</EFTEMOn><EnergyFilter>"
        "<AccelerationVoltageOffset>0</AccelerationVoltageOffset>"
        "<DriftTubeVoltage>0</DriftTubeVoltage>"
        "<EnergySelectionSlitInserted>true</EnergySelectionSlitInserted>"
        "<EnergySelectionSlitWidth>20</EnergySelectionSlitWidth><EnergyShift>-0</EnergyShift>"
        '<EntranceApertureDiameter i:nil="true"/></EnergyFilter>'
        "<Focus>-8.1116132300279456E-05</Focus>"
        "<IlluminationMode>Parallel</IlluminationMode>"
        + _vector("ImageShift", 0, 0)
        + "<Intensity>0</Intensity><ObjectiveLensMode>HM</ObjectiveLensMode>"
        + _vector("ObjectiveStigmator", 0, 0)
        + "<ProbeMode>NanoProbe</ProbeMode><ProjectorMode>Imaging</ProjectorMode>"
        "<SpotIndex>5</SpotIndex><StemDefocus>0</StemDefocus>"
        '<StemFieldOfView i:nil="true"/><StemMagnification i:nil="true"/>'
        f"<TemMagnification><NominalMagnification>{_number(image.magnification)}"
        "</NominalMagnification></TemMagnification><XLModeOn>false</XLModeOn></optics>"
    )


def _stage(image: ImageValues) -> str:
    x, y, z, a, b = map(_number, image.stage)
    return (
        f"<stage><Holder>Unspecified</Holder><Position><A>{a}</A><B>{b}</B><X>{x}</X><Y>{y}</Y>"
        f"<Z>{z}</Z></Position><SampleLoader>None</SampleLoader></stage>"
    )


def image_xml(image: ImageValues, instrument: Mapping[str, str]) -> bytes:
    """Return a manifest: of a grid square, a foil hole or a micrograph.

    Parameters
    ----------
    image
        The values.
    instrument
        ``model``, ``id`` and ``computer``.
    """
    text = (
        f'{_DECLARATION}<MicroscopeImage xmlns="{_SHARED}" xmlns:i="{_XSI}"><name>Empty</name>'
        f"<uniqueID>{image.unique_id}</uniqueID>{_custom_data(image)}"
        '<IntensityScale i:nil="true"/><ReferenceTransformation>'
        f'<matrix xmlns:a="{_CONTRACT}System.Windows.Media"><a:_m11>-5.27E-11</a:_m11>'
        "<a:_m12>-3.02E-12</a:_m12><a:_m21>-3.02E-12</a:_m21><a:_m22>5.27E-11</a:_m22>"
        "<a:_offsetX>0</a:_offsetX><a:_offsetY>0</a:_offsetY><a:_padding>0</a:_padding>"
        f"<a:_type>TRANSFORM_IS_UNKNOWN</a:_type></matrix>{_UNIT}</ReferenceTransformation>"
        f"<SpatialScale>{_scale('offset', '0')}"
        f"{_scale('pixelSize', _number(image.pixel_size))}</SpatialScale>"
        "<microscopeData><acquisition>"
        f"<acquisitionDateTime>{image.acquired}</acquisitionDateTime><analyticalDetectors/>"
        f"{_camera(image)}<plateCamera><ExposureTime>0</ExposureTime><Use>false</Use></plateCamera>"
        "<scanSettings><DwellTime>0</DwellTime>"
        f'<ReducedArea i:nil="true" xmlns:a="{_DRAWING}"/>'
        "<ScanRotation>0</ScanRotation></scanSettings></acquisition><core>"
        "<ApplicationSoftware>EPU</ApplicationSoftware>"
        "<ApplicationSoftwareVersion>3.9.1.8206</ApplicationSoftwareVersion>"
        "<Guid>854ff3a4-9a9c-4c49-a30b-432666f3fc77</Guid></core><gun>"
        "<AccelerationVoltage>300000</AccelerationVoltage>"
        '<ExtractorVoltage>4250</ExtractorVoltage><Filament i:nil="true"/><GunLens>4</GunLens>'
        "</gun><instrument>"
        '<AcquisitionSoftware i:nil="true"/>'
        f"<ComputerName>{instrument['computer']}</ComputerName>"
        f"<InstrumentID>{instrument['id']}</InstrumentID>"
        f"<InstrumentModel>{instrument['model']}</InstrumentModel></instrument>"
        f'{_optics(image)}<sample><Description i:nil="true"/><ID i:nil="true"/></sample>'
        f"{_stage(image)}<vacuum><ProjectionChamberPressure>0</ProjectionChamberPressure>"
        "<SamplePressure>0</SamplePressure><VacuumMode>Ready</VacuumMode></vacuum>"
        "</microscopeData></MicroscopeImage>"
    )
    return text.encode()


def session_xml(identity: int, name: str, started: str, storage: str, atlas: str) -> bytes:
    """Return an ``EpuSession.dm`` without clustering: the stage goes to each hole."""
    nil = '<{0} i:nil="true"/>' * 3
    text = (
        f'<EpuSessionXml z:Id="1" z:Type="Applications.Epu.Persistence.EpuSessionXml" '
        f'xmlns="{_EPU}" xmlns:i="{_XSI}" xmlns:z="{_SERIAL}">'
        f'<Id xmlns="{_COMMON}">{identity}</Id><AutoFocusEnabled>false</AutoFocusEnabled>'
        "<AutoloaderSlot>1</AutoloaderSlot><ClusteringMode>NoClustering</ClusteringMode>"
        "<ClusteringRadius>0</ClusteringRadius>"
        '<DoseFractionsOutputFormat z:Id="2">Tiff Lzw Non-Gain normalized'
        "</DoseFractionsOutputFormat><ImageFileFormat>Mrc</ImageFileFormat>"
        f'<MicroscopeName i:nil="true"/><Name z:Id="3">{name}</Name><Samples z:Id="4">'
        f'<_items z:Id="5" z:Size="4"><SampleXml z:Id="6">'
        f'<Id xmlns="{_COMMON}">{identity + 2}</Id><AtlasId z:Id="7">{atlas}</AtlasId>'
        '<EndDateTime i:nil="true"/>'
        f"<GridType>HoleyCarbon</GridType><StartDateTime>{started}</StartDateTime></SampleXml>"
        f"{nil.format('SampleXml')}</_items><_size>1</_size></Samples>"
        f'<StartDateTime>{started}</StartDateTime><StorageFolders z:Id="8">'
        f'<_items z:Id="9" z:Size="4"><StorageFolderXml z:Id="10">'
        f'<Id xmlns="{_COMMON}">{identity + 1}</Id><DiscId>1</DiscId>'
        f'<Path z:Id="11">{storage}</Path><SessionName i:nil="true"/></StorageFolderXml>'
        f"{nil.format('StorageFolderXml')}</_items><_size>1</_size></StorageFolders>"
        "<TiltAngle>0</TiltAngle></EpuSessionXml>"
    )
    return text.encode()


def _hole(square: int, hole: HoleValues) -> str:
    return (
        f"<b:KeyValuePairOfintTargetLocationXmlBpEWF4JT><b:key>{hole.id}</b:key><b:value>"
        f'<Id xmlns="{_COMMON}">{hole.id}</Id><BeamShiftId i:nil="true"/>'
        f'<CorrectedStagePosition xmlns:c="{_SHARED}"><c:X>0</c:X><c:Y>0</c:Y>'
        '</CorrectedStagePosition><FoilHoleImagePath i:nil="true"/>'
        f"<GridSquareId>{square}</GridSquareId>"
        f"<IsNearGridBar>{str(hole.near_grid_bar).lower()}</IsNearGridBar>"
        f"<IsPositionCorrected>false</IsPositionCorrected>"
        f'<PixelCenter xmlns:c="{_DRAWING}"><c:x>{_number(hole.x)}</c:x>'
        f"<c:y>{_number(hole.y)}</c:y></PixelCenter>"
        f'<PixelWidthHeight xmlns:c="{_DRAWING}"><c:height>{_number(hole.diameter)}</c:height>'
        f"<c:width>{_number(hole.diameter)}</c:width></PixelWidthHeight>"
        "<Quality>1</Quality><Rotation>0</Rotation><Selected>true</Selected>"
        f'<StagePosition xmlns:c="{_SHARED}"><c:A>0</c:A><c:B>0</c:B>'
        f"<c:X>{_number(hole.stage_x)}</c:X><c:Y>{_number(hole.stage_y)}</c:Y>"
        f"<c:Z>9.3E-05</c:Z></StagePosition><State>{hole.state}</State></b:value>"
        "</b:KeyValuePairOfintTargetLocationXmlBpEWF4JT>"
    )


def metadata_xml(
    square: int,
    stage: tuple[float, float, float],
    state: str,
    selected: bool,
    image_path: str | None,
    holes: Iterable[HoleValues],
) -> bytes:
    """Return a ``GridSquare_<square>.dm``; `stage` is x, y, z in metres."""
    x, y, z = map(_number, stage)
    path = (
        f'<GridSquareImagePath z:Id="2">{image_path}</GridSquareImagePath>'
        if image_path
        else '<GridSquareImagePath i:nil="true"/>'
    )
    pairs = "".join(_hole(square, hole) for hole in holes)
    text = (
        f'<GridSquareXml z:Id="1" z:Type="Applications.Epu.Persistence.GridSquareXml" '
        f'xmlns="{_EPU}" xmlns:i="{_XSI}" xmlns:z="{_SERIAL}"><Id xmlns="{_COMMON}">{square}</Id>'
        f"<AtlasNodeId>{square}</AtlasNodeId><AutoEucentricPerformed>false"
        f'</AutoEucentricPerformed><BalancedRank i:nil="true"/>{path}'
        "<HoleSpacing>4.1E-06</HoleSpacing><Order>0</Order>"
        f'<Position xmlns:a="{_SHARED}"><a:A>0</a:A><a:B>0</a:B><a:X>{x}</a:X><a:Y>{y}</a:Y>'
        f"<a:Z>{z}</a:Z></Position><Rotation>0.1</Rotation>"
        f'<Selected>{str(selected).lower()}</Selected><StartDateTime i:nil="true"/>'
        f'<State>{state}</State><TargetLocations z:Id="8"><Id xmlns="{_COMMON}">{square + 1}</Id>'
        f'<GridSquareId>{square}</GridSquareId><TargetLocations i:nil="true" xmlns:a="{_ARRAYS}"/>'
        f'<TargetLocationsEfficient z:Id="9" xmlns:a="{_ARRAYS}"><a:m_keyRehashCount>0'
        f'</a:m_keyRehashCount><a:m_serializationArray z:Id="11" xmlns:b="{_GENERIC}">{pairs}'
        "</a:m_serializationArray></TargetLocationsEfficient></TargetLocations>"
        "<Unusable>false</Unusable></GridSquareXml>"
    )
    return text.encode()


def _shape(square: AtlasSquareValues, scale: float, x0: float, y0: float) -> str:
    x, y = (square.x - x0) * scale, (square.y - y0) * scale
    size = _number(square.size * scale)
    return (
        f'<c:Center xmlns:d="{_DRAWING}"><d:x>{_number(x)}</d:x><d:y>{_number(y)}</d:y></c:Center>'
        f'<c:Physical xmlns:d="{_DRAWING}"><d:height>4.57E-05</d:height>'
        f"<d:width>4.88E-05</d:width><d:x>{_number(square.physical_x)}</d:x>"
        f"<d:y>{_number(square.physical_y)}</d:y></c:Physical><c:Quality>1.2</c:Quality>"
        f"<c:Rotation>{_number(square.rotation)}</c:Rotation><c:Shear>0</c:Shear>"
        f'<c:Size xmlns:d="{_DRAWING}"><d:height>{size}</d:height><d:width>{size}</d:width>'
        "</c:Size>"
    )


def _node(square: AtlasSquareValues, tile: int, x0: float, y0: float) -> str:
    return (
        f'<KeyValuePairOfintNodeXml30oatNZW xmlns="{_GENERIC}"><key>{square.id}</key>'
        f'<value xmlns:b="{_ATLAS}"><Id xmlns="{_COMMON}">{square.id}</Id>'
        f"<b:Category>1</b:Category>"
        f'<b:PositionOnTheAtlas xmlns:c="{_MODEL}">{_shape(square, 1, 0, 0)}</b:PositionOnTheAtlas>'
        f'<b:TilePositions><b:_items><b:TilePositionXml><Id xmlns="{_COMMON}">{square.id + 7}</Id>'
        f'<b:NodePosition xmlns:c="{_MODEL}">{_shape(square, 3.4, x0, y0)}</b:NodePosition>'
        f'<b:TileId>{tile}</b:TileId></b:TilePositionXml><b:TilePositionXml i:nil="true"/>'
        "</b:_items><b:_size>1</b:_size></b:TilePositions></value>"
        "</KeyValuePairOfintNodeXml30oatNZW>"
    )


def atlas_xml(
    identity: int,
    acquired: str,
    storage: str,
    slot: int,
    tiles: Mapping[tuple[int, int, int, int], Iterable[AtlasSquareValues]],
) -> bytes:
    """Return an ``Atlas.dm``; `tiles` maps (x, y, width, height) in pixels to a tile's squares."""
    parts = []
    for number, ((x, y, width, height), squares) in enumerate(tiles.items()):
        tile = identity + 100 + number
        nodes = "".join(_node(square, tile, x, y) for square in squares)
        parts.append(
            f'<TileXml><Id xmlns="{_COMMON}">{tile}</Id><AtlasPixelPosition xmlns:a="{_DRAWING}">'
            f"<a:height>{height}</a:height><a:width>{width}</a:width><a:x>{x}</a:x><a:y>{y}</a:y>"
            f'</AtlasPixelPosition><Nodes><Version xmlns="">11</Version><HashSize xmlns="">17'
            f'</HashSize><KeyValuePairs xmlns="">{nodes}</KeyValuePairs></Nodes>'
            f'<TileImageReference xmlns:a="{_COMMON}"><a:BaseFileName>Tile_{tile}_0_{identity}'
            "</a:BaseFileName><a:FileFormat>Mrc</a:FileFormat></TileImageReference></TileXml>"
        )
    text = (
        f'<AtlasSessionXml z:Id="1" xmlns="{_ATLAS}" xmlns:i="{_XSI}" xmlns:z="{_SERIAL}">'
        f'<Id xmlns="{_COMMON}">{identity}</Id><Atlas z:Id="2"><Id xmlns="{_COMMON}">{identity}'
        f"</Id><AcquisitionDateTime>{acquired}</AcquisitionDateTime><IsStem>false</IsStem>"
        f'<TilesEfficient z:Id="3"><_items z:Id="4" z:Size="64">{"".join(parts)}'
        '<TileXml i:nil="true"/><TileXml i:nil="true"/></_items></TilesEfficient></Atlas>'
        f"<Description>Atlas for autoloader slot {slot}</Description><Name>Atlas</Name>"
        f"<StorageFolder>{storage}</StorageFolder></AtlasSessionXml>"
    )
    return text.encode()
