"""Shots of a free-electron laser (SACLA): point detectors and MPCCD images, joined by tag."""

from skywright.instruments import Instrument, Ioc, NamedAnalysis

__all__ = ["INSTRUMENT"]

INSTRUMENT = Instrument(
    name="sacla",
    title="Shots of a free-electron laser, joined by tag",
    summary="SACLA online analysis: shots joined by tag, regions of interest, delay curves.",
    extra="sacla",
    iocs={"sacla": Ioc("iocs.sacla", "SACLA1:", ("--source", "sim"))},
    settings="skywright.instruments.sacla.section:SaclaSettings",
    analyses={
        "sacla_curves": NamedAnalysis(
            "skywright.instruments.sacla.shot_curves:ShotCurves",
            configured="skywright.instruments.sacla.configured:curve_parameters",
            live=True,
            settings="curves",
        ),
        "sacla_values": NamedAnalysis(
            "skywright.instruments.sacla.shot_values:ShotValues",
            configured="skywright.instruments.sacla.configured:value_parameters",
            live=True,
            settings="values",
        ),
        "sacla_images": NamedAnalysis(
            "skywright.instruments.sacla.run_images:RunningImages",
            configured="skywright.instruments.sacla.configured:image_parameters",
            live=True,
        ),
        "sacla_frame_images": NamedAnalysis(
            "skywright.instruments.sacla.run_images:FrameImages",
            configured="skywright.instruments.sacla.configured:image_parameters",
        ),
        "sacla_bin_images": NamedAnalysis(
            "skywright.instruments.sacla.bin_images:BinImages",
            configured="skywright.instruments.sacla.configured:bin_image_parameters",
        ),
    },
    devices="devices.sacla.session:make_devices",
    plans=(
        "plans.sacla.shots:acquire_shots",
        "plans.sacla.shots:delay_scan",
        "plans.sacla.shots:find_time_zero",
    ),
    views=("dashboard.sacla.view:VIEW",),
    demos={"sacla": "skywright.instruments.sacla.demos.delay_scan"},
    commands="skywright.instruments.sacla.cli:app",
    kernels=("skywright.instruments.sacla.warm:warm_up",),
)
