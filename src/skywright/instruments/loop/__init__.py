"""Sample loop on a goniometer, seen by a video camera: sources, owner, detection, fits."""

from skywright.instruments import Instrument, Ioc, NamedAnalysis, ServiceOffer

INSTRUMENT = Instrument(
    name="loop",
    title="Sample loop on a goniometer, seen by a video camera",
    summary="Sample loop: detection, fits, and endpoints for other systems.",
    extra="loop",
    iocs={
        # The simulated camera looks at a loop in back light on the simulated goniometer.
        "axis": Ioc(
            "iocs.axis",
            "AXIS1:",
            ("--goniometer", "{goniometer}", "--kind", "nylon", "--seed", "141"),
        ),
        "goniometer": Ioc("iocs.goniometer", "GONIO1:"),
    },
    services={
        "loop-dhs": ServiceOffer(
            ("skywright", "loop", "dhs"), "hardware server of DCSS (args: --config FILE)"
        ),
    },
    settings="skywright.instruments.loop.section:LoopSettings",
    analyses={
        "loop_detection": NamedAnalysis(
            "skywright.instruments.loop.analysis:LoopDetection", live=True, settings="detection"
        ),
        "loop_rotation": NamedAnalysis(
            "skywright.instruments.loop.rotation:LoopRotation",
            live=True,
            after="loop_detection",
            stage="skywright.instruments.loop.rotation_stage:RotationStage",
            prepared="skywright.instruments.loop.calibration:rotation_parameters",
        ),
    },
    devices="devices.loop.session:make_devices",
    plans=(
        "plans.loop.calibration:calibrate_camera",
        "plans.loop.centering:center_loop",
        "plans.loop.centering:collect_oscillation",
        "plans.loop.centering:collect_steps",
        "plans.loop.face:loop_raster_box",
        "plans.loop.face:rotate_to_face_on",
    ),
    commands="skywright.instruments.loop.cli.app:app",
    demos={
        "axis": "skywright.instruments.loop.demos.axis",
        "centering": "skywright.instruments.loop.demos.centering",
    },
    views=("dashboard.loop.view:VIEW",),
    kernels=(
        "skywright.instruments.loop.centering:warm_up",
        "skywright.instruments.loop.twin.render:warm_up",
    ),
)
