"""The devices, each under its own name."""

if "axis" in settings.iocs:
    from devices.axis import AxisCamera

    axis = AxisCamera(
        settings.pv_prefix("axis"),
        name="axis",
        assets=settings.directory / "assets",
    )

if "goniometer" in settings.iocs:
    from devices.goniometer import Goniometer, MotorGoniometer
    from skywright.loop.stages import StageSetup

    _gonio = settings.goniometer
    gonio = (Goniometer if _gonio.oscillation == "controller" else MotorGoniometer)(
        settings.pv_prefix("goniometer"),
        name="gonio",
        assets=settings.directory / "assets",
        setup=StageSetup(_gonio.stage_matrix, _gonio.mounting, _gonio.phi_sign),
        phi=_gonio.phi,
        stages=_gonio.stages,
    )

if "psss" in settings.iocs:
    from devices.psss import Psss

    psss = Psss(
        settings.pv_prefix("psss"),
        name="psss",
        assets=settings.directory / "assets",
    )
