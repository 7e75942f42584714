"""Everything that is known of one run: how it went, what it holds, what was derived from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tiled.client.container import Container

from skywright.callbacks.derived import PICTURES, RESULT
from skywright.errors import DataError
from skywright.store.client import RAW
from skywright.store.export.contents import Column, RunContents, Stream, read_contents
from skywright.store.lookup import (
    JournalListing,
    RunSummary,
    as_mapping,
    derived_runs,
    find_run,
    summarize,
)

TEXT = "text"
"""`ColumnView.dtype` of a column of text."""


@dataclass(frozen=True)
class ColumnView:
    """One data key of a stream."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    units: str | None
    file: str | None
    """HDF5 file of an external column."""
    about: str = ""
    """What it is, in words."""

    @property
    def is_number(self) -> bool:
        """Whether it holds integers or floats."""
        return self.dtype != TEXT and np.dtype(self.dtype).kind in "iuf"


@dataclass(frozen=True)
class StreamView:
    """One event stream; `events` is 0 where all columns are in files."""

    name: str
    events: int
    rows: int
    """Number of rows of its longest column, in events or in files."""
    columns: tuple[ColumnView, ...]
    hinted: tuple[str, ...] = ()
    """Columns that the devices say are of interest."""


@dataclass(frozen=True)
class DerivedView:
    """One analysis of the run."""

    summary: RunSummary
    stream: str
    """Name of the raw run's stream that was analyzed."""
    parameters: Mapping[str, Any]
    results: Mapping[str, Any]
    """The last value of each scalar result."""
    about: Mapping[str, str]
    """What a result is, in words, with its unit."""
    pictures: tuple[Path, ...]


@dataclass(frozen=True)
class RunView:
    """What `skywright show` shows."""

    summary: RunSummary
    start: Mapping[str, Any]
    stop: Mapping[str, Any] | None
    streams: tuple[StreamView, ...]
    raw: RunSummary | None
    """Raw run of a derived run; None for a raw run, or if it is not in this catalog."""
    analysis: DerivedView | None
    """Analysis of a derived run; None for a raw run."""
    derived: tuple[DerivedView, ...]
    """Derived runs of a raw run, newest last."""
    notes: tuple[str, ...]

    @property
    def analyses(self) -> tuple[DerivedView, ...]:
        """The analyses of a raw run, or the one that made a derived run."""
        return self.derived if self.analysis is None else (self.analysis,)

    @property
    def pictures(self) -> tuple[Path, ...]:
        """Annotated pictures and contact sheets of this run and its derived runs."""
        return tuple(path for view in self.analyses for path in view.pictures)


def view_run(client: Container, run: Container, listing: JournalListing | None = None) -> RunView:
    """Read what there is to show of `run`.

    Parameters
    ----------
    client
        tiled client of the root.
    run
        tiled client of the run.
    listing
        The journals, for the status of the runs.
    """
    listing = listing or JournalListing()
    contents = read_contents(run, listing)
    summary = _summarize(contents)
    is_raw = summary.container == RAW
    derived = derived_runs(client, summary.uid) if is_raw else []
    return RunView(
        summary=summary,
        start=contents.start,
        stop=contents.stop,
        streams=tuple(_view_stream(stream) for stream in contents.streams),
        raw=_raw_summary(client, summary.raw_uid, listing) if summary.raw_uid else None,
        analysis=None if is_raw else _view_derived(contents),
        derived=tuple(
            _view_derived(read_contents(each, listing, only=(RESULT,))) for each in derived
        ),
        notes=contents.notes,
    )


def final_results(contents: RunContents) -> dict[str, Any]:
    """Return the last value of each scalar of the stream ``result``; empty before the first."""
    stream = contents.stream(RESULT)
    if stream is None:
        return {}
    return {
        column.name: column.read(slice(column.shape[0] - 1, None))[0].item()
        for column in stream.columns
        if len(column.shape) == 1 and column.shape[0] and not column.external
        if column.name not in ("seq_num", "time")
    }


def _about_results(contents: RunContents) -> dict[str, str]:
    stream = contents.stream(RESULT)
    columns = stream.columns if stream is not None else ()
    about = {}
    for column in columns:
        words = (column.data_key.get(key) for key in ("description", "units"))
        about[column.name] = ", ".join(str(word) for word in words if word)
    return {name: text for name, text in about.items() if text}


def _summarize(contents: RunContents) -> RunSummary:
    return summarize(contents.start, contents.stop, contents.status)


def _raw_summary(client: Container, raw_uid: str, listing: JournalListing) -> RunSummary | None:
    try:
        raw = find_run(client, raw_uid).item["attributes"]["metadata"]
    except DataError:
        return None
    return summarize(raw["start"], raw.get("stop"), listing.status(raw))


def _view_derived(contents: RunContents) -> DerivedView:
    results = final_results(contents)
    pictures = str(results.pop(PICTURES, "")).splitlines()
    analysis = as_mapping(contents.start.get("analysis"))
    return DerivedView(
        summary=_summarize(contents),
        stream=str(analysis.get("stream") or "primary"),  # older derived runs do not name it
        parameters=as_mapping(analysis.get("parameters")),
        results=results,
        about=_about_results(contents),
        pictures=tuple(Path(path) for path in pictures if path),
    )


def _view_stream(stream: Stream) -> StreamView:
    events = stream.column("seq_num")
    return StreamView(
        name=stream.name,
        events=events.shape[0] if events else 0,
        rows=max((each.shape[0] for each in stream.columns if each.shape), default=0),
        columns=tuple(
            _view_column(each) for each in stream.columns if each.name not in ("seq_num", "time")
        ),
        hinted=stream.hinted,
    )


def _view_column(column: Column) -> ColumnView:
    return ColumnView(
        name=column.name,
        shape=column.shape,
        dtype=TEXT if column.dtype.kind == "U" else str(column.dtype),
        units=column.data_key.get("units"),
        file=str(column.asset.file) if column.asset and column.external else None,
        about=str(column.data_key.get("description") or ""),
    )
