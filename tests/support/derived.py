"""Read derived runs from their journals and files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h5py
import numpy as np
from event_model import DocumentNames, schema_validators
from numpy.typing import NDArray

COUNTERS = {"n_dropped", "n_missing", "n_late", "update_number", "pictures"}


@dataclass
class Derived:
    """The documents of one derived run."""

    docs: list[tuple[str, dict[str, Any]]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [doc for name, doc in self.docs if name == kind]

    @property
    def start(self) -> dict[str, Any]:
        return self.of("start")[0]

    @property
    def stop(self) -> dict[str, Any] | None:
        return next(iter(self.of("stop")), None)

    @property
    def result(self) -> dict[str, Any]:
        return self.of("event")[-1]["data"]

    @property
    def numbers(self) -> dict[str, Any]:
        """The last result without what tells how it came about."""
        return {k: v for k, v in self.result.items() if k not in COUNTERS}

    def rows(self, key: str) -> NDArray[Any]:
        """The rows of a column, as far as the documents tell of them."""
        resource = next(each for each in self.of("stream_resource") if each["data_key"] == key)
        datums = self.of("stream_datum")
        stops = [d["indices"]["stop"] for d in datums if d["stream_resource"] == resource["uid"]]
        with h5py.File(urlsplit(resource["uri"]).path, "r", locking=False) as file:
            return np.asarray(file[resource["parameters"]["dataset"]][: max(stops)])

    def columns(self) -> dict[str, bytes]:
        """Bytes of each column of the members, and of the last array results."""
        keys = {each["data_key"] for each in self.of("stream_resource")} - COUNTERS
        rows = {key: self.rows(key) for key in keys}
        return {k: (v[-1:] if k == "histogram" else v).tobytes() for k, v in rows.items()}


def read_runs(journal: Path) -> list[Derived]:
    """Return all runs in a directory of journals, oldest first; check their schema.

    An ingester may move a journal meanwhile, so that it is met twice, or is in ``done`` now.
    """
    runs = []
    for path in {path.name: path for path in journal.rglob("*.jsonl")}.values():
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = (path.parent / "done" / path.name).read_bytes()
        whole = data[: data.rfind(b"\n") + 1]  # the rest is being written
        docs = [json.loads(line) for line in whole.splitlines()]
        for name, doc in docs:
            schema_validators[DocumentNames[name]].validate(doc)
        runs.append(Derived([(name, doc) for name, doc in docs]))
    return sorted(runs, key=lambda run: run.start["time"])


def read_derived(journal: Path) -> list[Derived]:
    """Return the derived runs in a directory of journals, oldest first; check their schema."""
    return [run for run in read_runs(journal) if run.start.get("purpose") == "analysis"]
