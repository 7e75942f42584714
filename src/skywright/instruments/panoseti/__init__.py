"""PANOSETI: telescopes that look for nanosecond flashes with pulse-height and movie images."""

from skywright.instruments import Instrument, Ioc, NamedAnalysis

_PIXELS = "skywright.instruments.panoseti.pixel_analysis"

INSTRUMENT = Instrument(
    name="panoseti",
    title="PANOSETI telescope modules",
    summary="PANOSETI: live images over gRPC, PFF files.",
    extra="panoseti",
    iocs={"panoseti": Ioc("iocs.panoseti", "PANO1:", ("--source", "sim"), "--data-dir")},
    settings="skywright.instruments.panoseti.section:PanosetiSettings",
    analyses={
        "panoseti_flashes": NamedAnalysis(
            "skywright.instruments.panoseti.flash_analysis:FlashCandidates",
            configured="skywright.instruments.panoseti.telescopes:flash_parameters",
            live=True,
            settings="flashes",
        ),
        "panoseti_ph256": NamedAnalysis(f"{_PIXELS}:PulseHeights"),
        "panoseti_ph1024": NamedAnalysis(f"{_PIXELS}:GroupedPulseHeights"),
        "panoseti_gain": NamedAnalysis(
            "skywright.instruments.panoseti.gain_analysis:PixelGain",
        ),
        "panoseti_img16": NamedAnalysis(f"{_PIXELS}:MovieStatistics"),
        "panoseti_img8": NamedAnalysis(f"{_PIXELS}:ShortMovieStatistics"),
    },
    devices="devices.panoseti.session:make_devices",
    plans=(
        "plans.panoseti.calibration:calibrate_gain",
        "plans.panoseti.calibration:dark_run",
        "plans.panoseti.calibration:tune_threshold",
        "plans.panoseti.runs:observe",
        "plans.panoseti.runs:track_run",
    ),
    demos={"panoseti": "skywright.instruments.panoseti.demos.night"},
    views=("dashboard.panoseti.view:VIEW",),
    commands="skywright.instruments.panoseti.cli.app:app",
    readers={"application/x-pff": "skywright.instruments.panoseti.reader:PffReader"},
    kernels=("skywright.instruments.panoseti.warm:warm_up",),
)
