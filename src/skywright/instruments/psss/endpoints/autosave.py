"""Stores the settings for the next start: ROI, axis, modes and the name of the background."""

import threading
from pathlib import Path
from typing import Any

import orjson

from skywright.errors import SkywrightError
from skywright.files.replacing import replacing
from skywright.instruments.psss.endpoints.parameters import BACKGROUND, SETTINGS, Parameters
from skywright.instruments.psss.endpoints.pixels import read_object
from skywright.instruments.psss.processor import Processor

CHECK_PERIOD_S = 0.5
DIGEST = "background_digest"


class Autosave:
    """Restores the settings from a file, and writes them to it after each change.

    Parameters
    ----------
    path
        JSON file. If it cannot be read, or a value in it is refused, the message of the owner says
        so.
    processor
        Owner of the pulses, which has the settings.
    parameters
        Parameters that set the restored values.
    """

    def __init__(self, path: Path, processor: Processor, parameters: Parameters) -> None:
        self._path = path
        self._processor = processor
        self._unrestored: dict[str, str] = {}
        """Name and digest of a background that is not restored. They are written again until a
        client sets or clears the background, so that a later start can still restore it."""
        self._restore(parameters)
        self._saved = processor.applied[0]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="psss-autosave", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write the last change, and end."""
        self._over.set()
        self._thread.join(2.0)

    def _restore(self, parameters: Parameters) -> None:
        try:
            kept = read_object(self._path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, SkywrightError) as error:
            text = f"{self._path}: settings are not restored ({error})"
            self._processor.note("autosave", text)
            return
        for name in (*SETTINGS, BACKGROUND):
            if name not in kept:
                continue
            try:
                if name == BACKGROUND and kept[name]:  # these pixels, no others of the same name
                    digest = str(kept.get(DIGEST, ""))
                    parameters.use(parameters.history.load(kept[name], digest))
                else:
                    parameters.merge({name: kept[name]})
            except SkywrightError as error:
                self._processor.note(name, f"{name} is not restored: {error}")
                if name == BACKGROUND:
                    self._unrestored = {key: kept[key] for key in (name, DIGEST) if key in kept}

    def _work(self) -> None:
        over = False
        while not over:
            over = self._over.wait(CHECK_PERIOD_S)
            is_changed = BACKGROUND not in self._processor.notes  # a change removes the message
            number, settings = self._processor.applied
            if self._unrestored and is_changed:
                self._unrestored, self._saved = {}, -1  # written until that succeeds
            if number == self._saved:
                continue
            values: dict[str, Any] = {name: getattr(settings, name) for name in SETTINGS}
            values[BACKGROUND] = settings.background_name
            values[DIGEST] = settings.background_digest
            values |= self._unrestored
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(self._path) as new:
                    new.write_bytes(orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY))
            except OSError as error:  # retried until it succeeds, reported once
                text = f"{self._path}: settings are not saved ({error})"
                self._processor.note("autosave", text)
            else:
                self._saved = number
                self._processor.note("autosave")
