"""PVs of a board: its housekeeping, and the state of its clock."""

from typing import Any

from caproto import ChannelData, ChannelType
from caproto.server import PVGroup, SubGroup

from iocs.areadetector import enum_readback, readback
from iocs.common import alarm_if, post
from skywright.instruments.panoseti.housekeeping import VALUES, BoardState
from skywright.instruments.panoseti.products import QUABOS

NAN = float("nan")
CLOCKS = ["Unknown", "Locked", "Unlocked"]


class _Board(PVGroup):
    async def show(self, state: BoardState | None) -> None:
        """Post a state, its time last; None: it is not known."""
        values = {} if state is None else state.values
        for name in VALUES:
            await post(getattr(self, name.lower()), values.get(name, NAN))
        await post(self.uid, "" if state is None else state.uid)
        await post(self.firmware, "" if state is None else state.firmware)
        await post(self.seconds, 0.0 if state is None else state.seconds)


def _board_class() -> type[_Board]:
    parts: dict[str, Any] = {
        name.lower(): readback(NAN, precision=6, units=unit, name=f"{name}_RBV")
        for name, unit in VALUES.items()
    }
    parts["__doc__"] = "One board: its supplies, temperatures and states."
    parts["uid"] = readback("", ChannelType.CHAR, max_length=64, name="UID_RBV")
    parts["firmware"] = readback("", ChannelType.CHAR, max_length=64, name="FWVER_RBV")
    parts["clock"] = enum_readback(CLOCKS, name="Clock_RBV")
    parts["seconds"] = readback(0.0, precision=6, units="s", name="HkTime_RBV")
    return type("BoardPVs", (_Board,), parts)


BoardPVs = _board_class()


async def post_clock(channel: ChannelData, is_in_step: bool | None) -> None:
    """Post whether a clock is in step with UTC, None if that is not known; unlocked is an alarm."""
    is_unlocked = is_in_step is False
    code = 0 if is_in_step is None else 1 + is_unlocked
    await post(channel, code, alarm_if(is_unlocked))


def board_groups() -> dict[str, Any]:
    """Return the groups of the boards of a module: ``Q0:`` to ``Q3:``."""
    return {f"board{quabo}": SubGroup(BoardPVs, prefix=f"Q{quabo}:") for quabo in range(QUABOS)}
