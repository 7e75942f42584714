"""The device of the shots in a session."""

from typing import Any

from skywright.session.context import SessionContext

ANALYSIS = "sacla_curves"


def make_devices(context: SessionContext) -> dict[str, Any]:
    """Return ``sacla``, the simulated stage ``sacla_delay``, and the live curves, if configured."""
    if "sacla" not in context.settings.iocs:
        return {}
    from devices.motion import Motor
    from devices.sacla.shots import Shots

    prefix = context.settings.pv_prefix("sacla")
    return {
        "sacla": Shots(prefix, name="sacla", assets=context.assets),
        "sacla_delay": Motor(f"{prefix}delay", name="sacla_delay"),
        **_live(context),
    }


def _live(context: SessionContext) -> dict[str, Any]:
    if ANALYSIS not in context.live:
        return {}
    from devices.live_result import LiveResult

    return {"sacla_curves_now": LiveResult(context.live[ANALYSIS], "sacla_curves_now")}
