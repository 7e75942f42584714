"""An analysis over a stored run, here or on a cluster; it adds a derived run and changes none."""

import json
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiled.client.container import Container

from skywright.analysis import Analysis, Batch, whole_blocks
from skywright.analysis.blocks import analyze_part
from skywright.analysis.cluster import Submit, cluster
from skywright.analysis.named import make_analysis
from skywright.callbacks.derived import DerivedRun
from skywright.callbacks.follow import Document, RawRun, RawStream, Wanted
from skywright.callbacks.journal import Journal, journal_path
from skywright.errors import DataError, SkywrightError
from skywright.files.frames import FrameReader, draw_pictures
from skywright.store.client import ANALYSIS
from skywright.store.export.contents import Stream, read_contents

__all__ = ["Reprocessed", "Submit", "cluster", "reprocess", "wait_until_stored"]

IN_FLIGHT = 64
"""Tasks given to a cluster ahead of the one whose result is taken."""


@dataclass(frozen=True)
class Reprocessed:
    """What a reprocessing of a stream has added.

    Parameters
    ----------
    raw_uid, derived_uid
        The runs.
    stream
        Stream of the raw run.
    result
        Counts and scalar results.
    pictures
        Annotated pictures.
    """

    raw_uid: str
    derived_uid: str
    stream: str
    result: Mapping[str, Any]
    pictures: tuple[Path, ...]


def reprocess(
    run: Container,
    name: str,
    parameters: dict[str, Any] | None = None,
    *,
    store: Path,
    keys: Mapping[str, str] | None = None,
    submit: Submit | None = None,
) -> list[Reprocessed]:
    """Analyze the streams of a stored run again that have the analysis's inputs.

    Parameters
    ----------
    run
        tiled client of the raw run.
    name, parameters
        The analysis (`skywright.analysis.named`).
    store
        Root directory of the store, for its journals and assets.
    keys
        Full data keys of inputs, where more than one would fit.
    submit
        Gives whole blocks to workers that see the same files (`cluster`); by default they are
        analyzed here, one after the other.

    Returns
    -------
    list of Reprocessed
        One for each stream, in the order in which the run has them.

    Raises
    ------
    ConfigError
        If there is no such analysis.
    DataError
        If the run has not the analysis's inputs, has not ended, or the analysis fails; a failure
        is in the derived run too, and the other streams are analyzed before it is raised.
    """
    analysis = make_analysis(name, parameters)
    raw = _raw_run(run, store / "journal", analysis, keys or {})
    journal = Journal(store / "journal")
    done, failed = [], []
    try:
        for stream in raw.streams.values():
            try:
                analysis = make_analysis(name, parameters, stream.configuration)
                done.append(_reprocess(stream, analysis, name, journal, store, submit))
            except DataError as error:
                failed.append(error)
    finally:
        journal.close()
    if failed:
        raise failed[0]
    return done


def _reprocess(
    stream: RawStream,
    analysis: Analysis[Any],
    name: str,
    journal: Journal,
    store: Path,
    submit: Submit | None,
) -> Reprocessed:
    uid = stream.run.uid
    if stream.trouble:
        raise DataError(f"run {uid}, stream {stream.name}: {stream.trouble}")
    derived = DerivedRun(
        analysis, stream.run.start, journal, store / "assets", stream.keys, stream=stream.name
    )
    try:
        pictures = _analyze(derived, stream, name, submit)
    except Exception as error:  # whatever it is, the derived run says so
        derived.close("fail", f"{type(error).__name__}: {error}")
        raise DataError(
            f"analysis {name} of run {uid}, stream {stream.name}, failed, see {derived.uid}: "
            f"{error}"
        ) from error
    paths = tuple(derived.directory / picture for picture in pictures)
    return Reprocessed(uid, derived.uid, stream.name, derived.scalars(), paths)


def wait_until_stored(client: Container, uid: str, timeout_s: float = 60.0) -> Container:
    """Wait until the ingester has brought a derived run into the catalog.

    Parameters
    ----------
    client
        tiled client of the root.
    uid
        Uid of the derived run.
    timeout_s
        Limit.

    Returns
    -------
    Container
        The run.

    Raises
    ------
    SkywrightError
        If it is not there in time. It is safe in its journal.
    """
    end, pause = time.monotonic() + timeout_s, threading.Event()
    while time.monotonic() < end:
        container = client[ANALYSIS]
        if uid in container and container[uid].metadata.get("stop"):
            return container[uid]
        pause.wait(0.1)
    raise SkywrightError(
        f"derived run {uid} is in its journal, but not in the catalog after {timeout_s} s; does "
        "the ingester run? `skywright recover` brings it in"
    )


def _raw_run(
    run: Container, journals: Path, analysis: Analysis[Any], keys: Mapping[str, str]
) -> RawRun:
    """Follow a stored run's documents to its frames."""
    start = run.metadata["start"]
    if start.get("purpose") == "analysis":
        raise DataError(
            f"{start['uid']} is itself a derived run; name its raw run {start.get('raw_uid')}"
        )
    raw = RawRun(start, Wanted.of(analysis, keys))
    path = journal_path(journals / "done", start["uid"])
    for name, doc in journal_documents(path) if path.is_file() else catalog_documents(run):
        raw(name, doc)
    if not raw.streams:
        raise DataError(
            f"run {raw.uid} has no stream with the data keys that {analysis.name} needs: "
            f"{', '.join(analysis.inputs)}"
        )
    if raw.stop is None:
        raise DataError(f"run {raw.uid} has not ended; wait for it, or `skywright recover`")
    return raw


def journal_documents(path: Path) -> Iterator[tuple[str, Document]]:
    """Yield the documents of a finished journal: every frame, just as it was told live."""
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                name, doc = json.loads(line)
                yield name, doc


def catalog_documents(run: Container) -> Iterator[tuple[str, Document]]:
    """Yield documents made of what the catalog holds, for a run whose journal is not here.

    Frames that a resumed scan has taken again are in the catalog once, so that they count once.

    Raises
    ------
    DataError
        If the server cannot give what its catalog names.
    """
    contents = read_contents(run)
    yield "start", contents.start
    for stream in contents.streams:
        yield from _stream_documents(stream)
    if contents.stop is not None:
        yield "stop", contents.stop


def _stream_documents(stream: Stream) -> Iterator[tuple[str, Document]]:
    uid = stream.descriptor["uid"]
    yield "descriptor", {**stream.descriptor, "name": stream.name}
    in_files = [column for column in stream.columns if column.asset is not None]
    for column in in_files:
        assert column.asset is not None
        resource = f"{uid}/{column.name}"
        yield (
            "stream_resource",
            {
                "uid": resource,
                "data_key": column.name,
                "mimetype": column.asset.mimetype,
                "uri": column.asset.file.as_uri(),
                "parameters": {"dataset": column.asset.dataset},
            },
        )
        rows = {"start": 0, "stop": column.shape[0]}
        yield (
            "stream_datum",
            {
                "stream_resource": resource,
                "descriptor": uid,
                "indices": rows,
                "seq_nums": {"start": 1, "stop": column.shape[0] + 1},
            },
        )
    numbers = stream.column("seq_num")
    others = [c for c in stream.columns if c.asset is None and c.name not in ("seq_num", "time")]
    if numbers is not None and others:
        values = {column.name: column.read(slice(None)).tolist() for column in others}
        for row, number in enumerate(numbers.read(slice(None)).tolist()):
            data = {key: column[row] for key, column in values.items()}
            yield "event", {"descriptor": uid, "seq_num": number, "data": data}


def _analyze(
    derived: DerivedRun, raw: RawStream, name: str, submit: Submit | None
) -> Mapping[str, bytes]:
    assert raw.table is not None
    table, analysis = raw.table, derived.analysis
    with FrameReader(table) as reader:
        announced = table.announced()
        whole = reader.readable(0, announced)
        slices = whole_blocks(reader.identities(whole), analysis.block_size)
        tasks = (
            (name, analysis.parameters, table.part(*each), each[1] - each[0]) for each in slices
        )
        in_files = 0
        for blocks, rows in _in_order(tasks, submit):
            derived.absorb(blocks, rows)
            in_files += len(rows)
        derived.missing = announced - in_files
        pictures = draw_pictures(analysis, reader, whole)
        derived.close(pictures=pictures)
        return pictures


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
