"""An analysis over a stored run, here or on a cluster; it adds a derived run and changes none."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiled.client.container import Container

from skywright.analysis import Analysis, Batch, IdentityOrder, whole_blocks
from skywright.analysis.blocks import analyze_part
from skywright.analysis.cluster import Submit
from skywright.analysis.frames import FrameReader, frames_to_draw
from skywright.analysis.inputs import dtype_name
from skywright.analysis.named import (
    analysis_class,
    first_stage_of,
    is_second_stage,
    make_analysis,
    make_second_stage,
    named_analyses,
)
from skywright.arguments import did_you_mean
from skywright.callbacks.derived import FRAME_TIME, IDENTITY, DerivedRun, failure_reason
from skywright.callbacks.drawing import Drawing, attempt, draw
from skywright.callbacks.journal import Journal
from skywright.callbacks.raw_run import RawRun, RawStream, RequiredKeys
from skywright.callbacks.second_analysis import SecondAnalysis
from skywright.callbacks.stream_analysis import begin_derived
from skywright.errors import ConfigError, DataError
from skywright.files.columns import ColumnReader
from skywright.store.client import RAW
from skywright.store.export.contents import read_contents
from skywright.store.stored_run import run_documents

IN_FLIGHT = 64
"""Maximum number of tasks that a cluster has at a time."""


@dataclass(frozen=True)
class Reprocessed:
    """What a reprocessing of a stream has added.

    Parameters
    ----------
    raw_uid, derived_uid
        The runs.
    analysis
        Name of the analysis.
    stream
        Stream of the raw run.
    result
        Counts and scalar results.
    columns
        File with a row for each member.
    pictures
        Annotated pictures.
    """

    raw_uid: str
    derived_uid: str
    analysis: str
    stream: str
    result: Mapping[str, Any]
    columns: Path
    pictures: tuple[Path, ...]


def reprocess_each(
    run: Container,
    name: str,
    parameters: dict[str, Any] | None = None,
    *,
    store: Path,
    keys: Mapping[str, str] | None = None,
    submit: Submit | None = None,
    first: dict[str, Any] | None = None,
) -> list[Reprocessed | DataError]:
    """Analyze again the streams of a stored run that have the inputs of the analysis.

    A second-stage analysis (`skywright.analysis.second`) takes the rows of a derived run of its
    first analysis. For a raw run the first analysis is done again, and then this one.

    Parameters
    ----------
    run
        tiled client of the raw run; for a second-stage analysis, of the raw run or of the derived
        run whose rows it takes.
    name, parameters
        The analysis (`skywright.analysis.named`). For a second-stage analysis, the parameters are
        those of its stage.
    store
        Root directory of the store, for its journals and assets.
    keys
        Full data keys of inputs, where more than one would fit.
    submit
        Gives whole blocks to workers that see the same files (`cluster`); by default they are
        analyzed here, one after the other.
    first
        Parameters of the first analysis, if it is done again for a second-stage analysis.

    Returns
    -------
    list of Reprocessed or DataError
        The result or the failure of each stream, in the order in which the run has them. A
        second-stage analysis works on the first stream that was analyzed; its result is the last
        item. A failure is in the derived run too.

    Raises
    ------
    ConfigError
        If there is no such analysis, it does not take its parameters, or `keys` has a name that is
        none of its inputs.
    DataError
        If the run does not have the analysis's inputs, or has not ended; if a second-stage
        analysis fails, or the first analysis that it needs fails for all streams.
    """
    if is_second_stage(name):
        do_first = partial(reprocess_each, parameters=first, store=store, keys=keys, submit=submit)
        return _reprocess_second(run, name, parameters, store, do_first)
    analysis = make_analysis(name, parameters)
    _check_inputs(analysis, keys or {})
    raw = _raw_run(run, store / "journal", analysis, keys or {})
    journal = Journal(store / "journal")
    results: list[Reprocessed | DataError] = []
    try:
        for stream in raw.streams.values():
            try:
                results.append(_reprocess(stream, name, parameters, journal, store, submit))
            except DataError as error:
                results.append(error)
    finally:
        journal.close()
    return results


def _reprocess(
    stream: RawStream,
    name: str,
    parameters: dict[str, Any] | None,
    journal: Journal,
    store: Path,
    submit: Submit | None,
) -> Reprocessed:
    uid = stream.run.uid
    derived = None
    try:
        derived, failure = begin_derived(
            stream, partial(make_analysis, name, parameters), journal, store / "assets"
        )
        if failure is not None:
            raise failure
        pictures = _analyze(derived, stream, name, submit)
    except Exception as error:  # whatever it is, the derived run says so
        if derived is not None:
            with suppress(Exception):  # e.g. disk full; the stop document is emitted all the same
                derived.fail(error)
        see = f", see {derived.uid}" if derived is not None else ""
        raise DataError(
            f"analysis {name} of run {uid}, stream {stream.name}, failed{see}: {error}"
        ) from error
    paths = tuple(derived.directory / picture for picture in pictures)
    scalars = derived.scalars()
    return Reprocessed(
        uid, derived.uid, derived.analysis.name, stream.name, scalars, derived.columns_path, paths
    )


def _reprocess_second(
    run: Container,
    name: str,
    parameters: dict[str, Any] | None,
    store: Path,
    do_first: Callable[[Container, str], list[Reprocessed | DataError]],
) -> list[Reprocessed | DataError]:
    """Do a second-stage analysis, over the rows of a derived run or after the first analysis.

    `do_first` does the first analysis: it takes the raw run and the name of that analysis.
    """
    stage = make_second_stage(name, parameters)
    first_rows = _stored_rows(run, name)
    raw = run if first_rows is None else _raw_of(run)
    start = raw.metadata["start"]
    journal, pictures = Journal(store / "journal"), dict[str, bytes]()

    def draw_here(drawing: Drawing) -> "Future[dict[str, bytes]]":
        pictures.update(draw(drawing))
        drawn: Future[dict[str, bytes]] = Future()
        drawn.set_result(pictures)
        return drawn

    try:
        second = SecondAnalysis(name, stage, start, journal, store / "assets", draw_here)
        for kind, doc in run_documents(raw, store / "journal"):
            if kind != "start":
                second.take(kind, doc)
        try:
            fits = second.second_run.fits
        except Exception as error:  # also why it could not begin
            reason = failure_reason(error)
            raise DataError(f"analysis {name} of run {start['uid']}: {reason}") from error
        if not fits:
            raise DataError(f"run {start['uid']} does not have what {name} needs")
        results: list[Reprocessed | DataError] = []
        if first_rows is None:
            results = do_first(raw, first_stage_of(name))
            done = next((each for each in results if isinstance(each, Reprocessed)), None)
            if done is None:
                raise DataError("; ".join(map(str, results)))
            first_rows = _new_rows(done)
        second.add(first_rows.rows)
        for _ in second.finish_steps(first_rows.stream, {first_rows.analysis: first_rows.uid}):
            pass
    finally:
        journal.close()
    facts = second.take_facts()
    if facts.get("error") or "derived_uid" not in facts:
        reason = facts.get("error") or f"{first_rows.analysis} has found no row"
        raise DataError(f"analysis {name} of run {start['uid']}: {reason}")
    columns_path = Path(facts["columns_path"])
    new = Reprocessed(
        raw_uid=start["uid"],
        derived_uid=facts["derived_uid"],
        analysis=stage.analysis.name,
        stream=first_rows.stream,
        result=facts["result"],
        columns=columns_path,
        pictures=tuple(columns_path.parent / picture for picture in pictures),
    )
    return [*results, new]


@dataclass(frozen=True)
class _DerivedRows:
    """Rows of the derived run of a first analysis."""

    uid: str
    analysis: str
    stream: str
    """Name of the raw run's stream."""
    rows: Batch


def _new_rows(done: Reprocessed) -> _DerivedRows:
    names = [column.name for column in analysis_class(done.analysis).columns]
    rows = _read_rows(done.columns, names)
    return _DerivedRows(done.derived_uid, done.analysis, done.stream, rows)


def _stored_rows(run: Container, name: str) -> _DerivedRows | None:
    """Return the rows of a stored derived run for the second-stage analysis `name`.

    Return None if `run` is a raw run.
    """
    if run.metadata["start"].get("purpose") != "analysis":
        return None
    contents = read_contents(run)
    uid, analysis = contents.start["uid"], contents.start.get("analysis")
    if not isinstance(analysis, Mapping) or "name" not in analysis:  # metadata that a person gave
        raise DataError(f"{uid} does not say which analysis has made it; name a raw run")
    first = first_stage_of(name, analysis["name"])
    if analysis["name"] != first:
        raise DataError(
            f"{uid} is a derived run of {analysis['name']}; {name} takes those of {first}"
        )
    if contents.stop is None:
        raise DataError(f"derived run {uid} has not ended; wait for it, or `skywright recover`")
    identity, frame_time = IDENTITY.name, FRAME_TIME.name
    for stream in contents.streams:
        column = stream.column(identity)
        if column is not None and column.asset is not None:
            break
    else:
        raise DataError(f"derived run {uid} has no rows for {name}")
    names = {each.name for each in stream.columns if each.external} - {identity, frame_time}
    lacking = (
        {c.name for c in analysis_class(first).columns} - names
        if first in named_analyses()
        else set()
    )
    if lacking:
        raise DataError(
            f"derived run {uid} of {first} {analysis.get('version', '')} lacks the columns "
            f"{', '.join(sorted(lacking))}; name its raw run, {contents.start.get('raw_uid')}"
        )
    raw_stream = str(analysis.get("stream") or "primary")  # older derived runs do not name it
    return _DerivedRows(uid, first, raw_stream, _read_rows(column.asset.file, names))


def _raw_of(derived: Container) -> Container:
    """Return the raw run of a derived run."""
    start, runs = derived.metadata["start"], derived.parent.parent[RAW]
    uid = start.get("raw_uid")
    if not isinstance(uid, str) or uid not in runs:
        raise DataError(f"the raw run {uid} of {start['uid']} is not stored")
    raw: Container = runs[uid]
    return raw


def _read_rows(columns: Path, names: Iterable[str]) -> Batch:
    """Read the rows of a derived run."""
    with ColumnReader(columns, IDENTITY.path) as reader:
        count = reader.count()
        identities = reader.read(IDENTITY.path, 0, count)
        times = reader.read(FRAME_TIME.path, 0, count)
        data = {name: reader.read(f"/entry/{name}", 0, count) for name in names}
    return Batch(identities, times, data)


def _raw_run(
    run: Container, journals: Path, analysis: Analysis[Any], keys: Mapping[str, str]
) -> RawRun:
    """Read the documents of a stored raw run; return it, with the places of its frames."""
    start = run.metadata["start"]
    if start.get("purpose") == "analysis":
        raise DataError(
            f"{start['uid']} is itself a derived run; name its raw run {start.get('raw_uid')}"
        )
    raw = RawRun(start, RequiredKeys.of(analysis, keys))
    data_keys: dict[str, Mapping[str, Any]] = {}
    for name, doc in run_documents(run, journals):
        raw(name, doc)
        if name == "descriptor":
            data_keys |= doc["data_keys"]
    for stream in raw.streams.values():
        for rows in stream.table.all_in_files if stream.table is not None else ():
            rows.drop_superseded()
    if not raw.streams:
        raise DataError(
            f"run {raw.uid} has no stream with the data keys that {analysis.name} needs: "
            f"{_describe_inputs(analysis, keys)}; "
            f"it has {_describe_arrays(data_keys) or 'no arrays'}"
        )
    if raw.stop is None:
        raise DataError(f"run {raw.uid} has not ended; wait for it, or `skywright recover`")
    return raw


def _check_inputs(analysis: Analysis[Any], keys: Mapping[str, str]) -> None:
    """Raise `ConfigError` if a data key is given for a name that is no input of the analysis."""
    known = (*analysis.inputs, *analysis.optional, analysis.identity, analysis.time)
    for name in keys:
        if name not in known:
            hint = did_you_mean(name, known) or f"expected one of {', '.join(known)}"
            raise ConfigError(f"analysis {analysis.name}: {name}: no such input; {hint}")


def _describe_inputs(analysis: Analysis[Any], keys: Mapping[str, str]) -> str:
    words = {name: f"{name} ({array.describe()})" for name, array in analysis.arrays.items()}
    words |= {name: f"{key} (as {name})" for name, key in keys.items()}
    return ", ".join(words.get(name, name) for name in analysis.inputs)


def _describe_arrays(data_keys: Mapping[str, Mapping[str, Any]]) -> str:
    words = []
    for name, key in data_keys.items():
        if shape := key.get("shape"):
            dtype = dtype_name(key) or "of unknown dtype"
            words.append(f"{name} ({' x '.join(map(str, shape))}, {dtype})")
    return ", ".join(words)


def _analyze(
    derived: DerivedRun, raw_stream: RawStream, name: str, submit: Submit | None
) -> Mapping[str, bytes]:
    """Analyze all frames of a stream, and close the derived run; return its pictures."""
    table, analysis = raw_stream.table, derived.analysis
    assert table is not None
    with FrameReader(table) as reader:
        announced = table.announced()
        readable = reader.readable(0, announced)
        identities = reader.identities(0, readable)
        column = reader.column(analysis.block_setting, readable)
        settings = analysis.settings_numbers({analysis.block_setting: column})
        slices = _slices(identities, settings, analysis.block_size)
        tasks = (
            (name, analysis.parameters, table.part(start, stop), stop - start, shift)
            for start, stop, shift in slices
        )
        analyzed = 0
        for (blocks, rows), (_, _, shift) in zip(_in_order(tasks, submit), slices, strict=True):
            derived.absorb(blocks, rows, shift)
            analyzed += len(rows)
        derived.missing = announced - analyzed
        frames = attempt(frames_to_draw, analysis, reader, readable)
        pictures = None if frames is None else attempt(analysis.draw, frames)
        derived.close(pictures=pictures)
        return pictures or {}


def _slices(
    identities: NDArray[np.int64], settings: NDArray[np.integer[Any]] | None, block_size: int
) -> list[tuple[int, int, int]]:
    """Cut the frames of a stream into the shortest slices of whole blocks, each of one shift.

    After a restart of the identities, a frame may have its place in a block before the restart; it
    is late in its slice, as in the live analysis.

    Parameters
    ----------
    identities, settings
        As for `IdentityOrder.place`.
    block_size
        Block size of the analysis.

    Returns
    -------
    list of (start, stop, shift)
        First position, the position after the last one, and place minus identity.
    """
    places = IdentityOrder(block_size).place(identities, settings)
    shifts = places - identities
    restarts = np.flatnonzero(np.diff(shifts)) + 1
    slices = []
    for begin, end in pairwise([0, *restarts.tolist(), len(places)]):
        for start, stop in whole_blocks(places[begin:end], block_size):
            slices.append((begin + start, begin + stop, int(shifts[begin])))
    return slices


def _in_order(
    tasks: Iterable[tuple[Any, ...]], submit: Submit | None
) -> Iterator[tuple[Analysis[Any], Batch]]:
    """Yield the results of `analyze_part`, in the order of the tasks."""
    if submit is None:
        yield from (analyze_part(*task) for task in tasks)
        return
    pending: deque[Any] = deque()
    for task in tasks:
        pending.append(submit(analyze_part, *task))
        if len(pending) >= IN_FLIGHT:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
