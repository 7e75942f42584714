"""The device of a watched EPU directory in a session."""

from typing import Any

from skywright.session.context import SessionContext


def make_devices(context: SessionContext) -> dict[str, Any]:
    """Return the watcher as ``epu`` if its IOC is configured."""
    if "epu" not in context.settings.iocs:
        return {}
    from devices.epu.watcher import EpuWatcher

    return {"epu": EpuWatcher(context.settings.pv_prefix("epu"), name="epu", assets=context.assets)}
