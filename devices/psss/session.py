"""The device of the spectrometer in a session."""

from typing import Any

from skywright.session.context import SessionContext


def make_devices(context: SessionContext) -> dict[str, Any]:
    """Return the spectrometer as ``psss`` if its IOC is configured."""
    if "psss" not in context.settings.iocs:
        return {}
    from devices.psss.spectrometer import Psss

    return {"psss": Psss(context.settings.pv_prefix("psss"), name="psss", assets=context.assets)}
