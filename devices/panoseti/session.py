"""The device of the telescopes in a session."""

from typing import Any

from skywright.session.context import SessionContext


def make_devices(context: SessionContext) -> dict[str, Any]:
    """Return the modules as ``panoseti`` if their IOC is configured."""
    if "panoseti" not in context.settings.iocs:
        return {}
    from devices.panoseti.array import Panoseti
    from skywright.instruments.panoseti.slots import configured_slots

    prefix, slots = context.settings.pv_prefix("panoseti"), configured_slots(context.settings)
    return {"panoseti": Panoseti(prefix, name="panoseti", assets=context.assets, slots=slots)}
