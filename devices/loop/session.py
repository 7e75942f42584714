"""The devices of the loop instrument in a session."""

from typing import Any

from skywright.session.context import SessionContext


def make_devices(context: SessionContext) -> dict[str, Any]:
    """Return camera, goniometer, and the result of a rotation, as far as they are configured.

    Returns
    -------
    dict
        ``axis`` and ``gonio`` if their IOCs are configured; with the live analysis also
        ``axis_calibration`` and ``rotation``.
    """
    found: dict[str, Any] = {}
    if "axis" in context.settings.iocs:
        from devices.loop.axis import AxisCamera

        found["axis"] = AxisCamera(
            context.settings.pv_prefix("axis"), name="axis", assets=context.assets
        )
    if "goniometer" in context.settings.iocs:
        found["gonio"] = _goniometer(context)
    if "loop_rotation" in context.live:
        found |= _results(context)
    return found


def _goniometer(context: SessionContext) -> Any:
    from devices.loop.goniometer import Goniometer, MotorGoniometer
    from skywright.instruments.loop.stages import StageSetup

    settings = context.settings.loop.goniometer
    kind = Goniometer if settings.oscillation == "controller" else MotorGoniometer
    return kind(
        context.settings.pv_prefix("goniometer"),
        name="gonio",
        assets=context.assets,
        setup=StageSetup(settings.stage_matrix, settings.mounting, settings.phi_sign),
        phi=settings.phi,
        stages=settings.stages,
    )


def _results(context: SessionContext) -> dict[str, Any]:
    from devices.loop.rotation import CameraCalibration, RotationResult
    from skywright.instruments.loop.calibration import session_calibrations

    calibration = CameraCalibration(session_calibrations(context.settings), "axis_calibration")
    return {
        "axis_calibration": calibration,
        "rotation": RotationResult(context.live["loop_rotation"], calibration),
    }
