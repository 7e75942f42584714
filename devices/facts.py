"""Reads PVs into a dataclass, for a page that shows them; puts nothing."""

import json
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from ophyd import EpicsSignalRO

from devices.guarded import is_ioc_lost

Facts = TypeVar("Facts")


class FactsView(Generic[Facts]):
    """Reads the state of an IOC as a dataclass.

    Parameters
    ----------
    prefix
        Prefix of the PVs, with its colon.
    kind
        Dataclass of the facts. A field ``name: Annotated[type, pv]`` is read from a PV, named
        without prefix; a dict is JSON.
    timeout_s
        Timeout of each PV, s.
    """

    def __init__(self, prefix: str, kind: Any, timeout_s: float = 2.0) -> None:
        self.prefix, self._kind, self._timeout_s = prefix, kind, timeout_s
        hints = get_type_hints(kind, include_extras=True).items()
        named = {name: get_args(hint) for name, hint in hints if get_origin(hint) is Annotated}
        self._fields = [
            (name, wanted, self.signal(pv, string=wanted not in (int, float)))
            for name, (wanted, pv) in named.items()
        ]

    def signal(self, pv: str, *, string: bool = False) -> EpicsSignalRO:
        """Return the signal of a PV, named without prefix."""
        return EpicsSignalRO(self.prefix + pv, name=pv, string=string)

    def get(self, signal: EpicsSignalRO) -> Any:
        """Ask the IOC for a value; raise TimeoutError if it does not answer, or is lost."""
        try:
            return signal.get(timeout=self._timeout_s, connection_timeout=self._timeout_s)
        except Exception as error:
            if not is_ioc_lost(error):
                raise
            raise TimeoutError(f"{signal.pvname}: {error}") from error

    def facts(self, **more: Any) -> Facts:
        """Return the dataclass; `more` are fields that are not the value of one PV.

        Raises
        ------
        TimeoutError
            If the IOC does not answer.
        """
        values = {name: as_fact(kind, self.get(signal)) for name, kind, signal in self._fields}
        found: Facts = self._kind(**values, **more)
        return found


def as_fact(kind: Any, value: Any) -> Any:
    """Return the value of a PV as a number, a boolean or text; of another kind it is JSON."""
    if kind in (bool, int, float):
        return kind(value)
    text = text_of(value)
    return text if kind is str else json.loads(text or "{}")


def text_of(value: Any) -> str:
    """Return the text of a CHAR array, which control layers give as text, bytes or numbers."""
    if isinstance(value, str):
        return value
    data = value if isinstance(value, bytes) else np.asarray(value).astype(np.uint8).tobytes()
    return data.split(b"\0")[0].decode(errors="replace")
