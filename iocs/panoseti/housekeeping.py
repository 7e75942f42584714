"""PVs of the housekeeping of a board."""

from typing import Any

from caproto import ChannelType
from caproto.server import PVGroup, SubGroup

from iocs.areadetector import readback
from iocs.common import post
from skywright.instruments.panoseti.housekeeping import VALUES, BoardState
from skywright.instruments.panoseti.products import QUABOS

NAN = float("nan")


class _Board(PVGroup):
    async def show(self, state: BoardState) -> None:
        """Post a state; its time last."""
        for name, value in state.values.items():
            await post(getattr(self, name.lower()), value)
        await post(self.uid, state.uid)
        await post(self.firmware, state.firmware)
        await post(self.seconds, state.seconds)


def _board_class() -> type[_Board]:
    parts: dict[str, Any] = {
        name.lower(): readback(NAN, precision=6, units=unit, name=f"{name}_RBV")
        for name, unit in VALUES.items()
    }
    parts["__doc__"] = "One board: its supplies, temperatures and states."
    parts["uid"] = readback("", ChannelType.CHAR, max_length=64, name="UID_RBV")
    parts["firmware"] = readback("", ChannelType.CHAR, max_length=64, name="FWVER_RBV")
    parts["seconds"] = readback(0.0, precision=6, units="s", name="HkTime_RBV")
    return type("BoardPVs", (_Board,), parts)


BoardPVs = _board_class()


def board_groups() -> dict[str, Any]:
    """Return the groups of the boards of a module: ``Q0:`` to ``Q3:``."""
    return {f"board{quabo}": SubGroup(BoardPVs, prefix=f"Q{quabo}:") for quabo in range(QUABOS)}
