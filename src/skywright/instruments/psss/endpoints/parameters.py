"""The parameters of the REST API: settings of the processing, and other values of clients."""

import threading
from collections.abc import Mapping
from typing import Any

import orjson

from skywright.arguments import TEXT_MAX
from skywright.errors import ConfigError
from skywright.instruments.psss.background import Background, History
from skywright.instruments.psss.processor import Processor

BACKGROUND = "background"
SETTINGS = (
    *("roi", "background_mode", "smoothing", "fit", "weighting", "axis", "signal_per_row"),
    "saturation",
)
"""Parameters that are settings of the processing; all others are only stored and returned."""
KEPT_BYTES_MAX = 10_000_000
"""Limit, bytes of JSON, of all other parameters together. The old service stored any JSON object;
what clients stored there was small."""


class Parameters:
    """The parameters that clients of the REST API have set. Thread-safe.

    Parameters
    ----------
    processor
        Owner of the pulses, which has the settings.
    history
        Backgrounds that can be selected by name.
    """

    def __init__(self, processor: Processor, history: History) -> None:
        self.processor = processor
        self.history = history
        self._lock = threading.Lock()
        self._kept: dict[str, Any] = {}
        self._given: set[str] = set()

    def as_json(self) -> dict[str, Any]:
        """Return the background's name, and all parameters that `merge` has ever set.

        A setting that only a PV has changed is not among them.
        """
        settings = self.processor.settings
        with self._lock:
            values = {name: getattr(settings, name) for name in SETTINGS if name in self._given}
            kept = dict(self._kept)
        axis = values.get("axis")
        if axis is not None:
            values["axis"] = axis.tolist()
        return {BACKGROUND: settings.background_name, **values, **kept}

    def merge(self, wanted: Mapping[str, Any]) -> None:
        """Set parameters, all or none of them.

        Raises
        ------
        ConfigError
            If a value is not allowed, or the other values exceed `KEPT_BYTES_MAX`.
        """
        changes = {name: wanted[name] for name in SETTINGS if name in wanted}
        if changes.get("axis") == []:
            changes["axis"] = None
        changes |= self._background(wanted)
        others = {k: v for k, v in wanted.items() if k not in SETTINGS and k != BACKGROUND}
        for name, value in others.items():
            _check_depth(name, value)
        with self._lock:
            kept = self._kept | others
            if others and len(orjson.dumps(kept)) > KEPT_BYTES_MAX:
                raise ConfigError(
                    f"{', '.join(others):.{TEXT_MAX}}: all values that are only stored may have "
                    f"{KEPT_BYTES_MAX} bytes together; set those of no use to null"
                )
            if changes:
                self.processor.change(**changes)
            self._given |= changes.keys() & set(SETTINGS)
            self._kept = kept

    def _background(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return the change of settings to the wanted background; {} if it stays the same."""
        if BACKGROUND not in wanted:
            return {}
        name = wanted[BACKGROUND]
        if not isinstance(name, str):
            raise ConfigError(f"background: {name!r} is not a name; send pixels to /background")
        if name and name == self.processor.settings.background_name:
            return {}
        return _with(self.history.load(name) if name else None)

    def use(self, background: Background | None) -> None:
        """Use a background from the next pulse on; None: no background."""
        self.processor.change(**_with(background))


def _with(background: Background | None) -> dict[str, Any]:
    """Return the change of settings to a background; None: no background."""
    if background is None:
        return {"background": None, "background_name": ""}
    return {"background": background.pixels, "background_name": background.info.name}


def _check_depth(name: str, value: Any) -> None:
    """Raise `ConfigError` for a value that no answer can hold: JSON is read deeper than written."""
    try:
        orjson.dumps({"parameters": {name: value}})
    except orjson.JSONEncodeError as error:
        raise ConfigError(f"{name}: its lists and objects are nested too deep") from error
