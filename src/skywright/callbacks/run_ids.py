"""Which run a document belongs to."""

from collections.abc import Mapping
from typing import Any


class RunIds:
    """Finds the run of each document, also when the documents of several runs are mixed.

    Nothing is kept of a run whose start document did not come, or whose stop document has come.
    """

    def __init__(self) -> None:
        self._runs: dict[str, str] = {}
        """Uid of the run, by the uid of each document that others refer to."""

    def of(self, name: str, doc: Mapping[str, Any]) -> str | None:
        """Return the uid of the run of a document; None if the run is unknown."""
        if name == "start":
            run = self._runs[doc["uid"]] = str(doc["uid"])
            return run
        if name not in ("stop", "descriptor", "resource", "stream_resource"):
            parent = doc.get("descriptor") or doc.get("resource") or doc.get("stream_resource")
            return self._runs.get(parent or "")
        if uid := doc.get("run_start"):
            found = self._runs.get(uid)
        else:  # as in resources of old versions of bluesky: take the run of the uid noted last
            found = next(reversed(self._runs.values()), None)
        if name == "stop":
            self._runs = {each: run for each, run in self._runs.items() if run != found}
        elif found is not None:
            self._runs[doc["uid"]] = found
        return found
