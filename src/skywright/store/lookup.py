"""Find runs, raw and derived: by plan, time, scan_id, partial uid, sample, link or full text."""

import math
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count, islice
from pathlib import Path
from typing import Any

from tiled.client.container import Container
from tiled.client.utils import MSGPACK_MIME_TYPE, handle_error, retry_context
from tiled.queries import Comparison, Eq, FullText, Like

from skywright.callbacks.journal import SUFFIX, journal_path, uid_of
from skywright.errors import DataError
from skywright.store.client import ANALYSIS, RAW, analysis, catalog, container_name
from skywright.store.tail import is_locked, waiting_journals
from skywright.words import counted

_RUNS = {RAW: catalog, ANALYSIS: analysis}
"""Functions that return the runs of a container, by its name."""
UID_CHARACTERS_MIN = 4
PAGE, METADATA_PAGE = 100, 300
"""Maximum number of runs in one answer of the server, as nodes and as metadata alone."""
STREAMS_MAX = 4
"""Streams that `RunSummary.counts` names."""
SAMPLE_KEYS = ("sample", "sample.name", "sample_name")
"""Where start documents keep the sample's name: our plans, nested metadata, older plans."""

_UID = re.compile(
    rf"[0-9a-f]{{{UID_CHARACTERS_MIN},32}}|[0-9a-f]{{8}}-[0-9a-f-]{{0,27}}", re.IGNORECASE
)
_AGO = re.compile(
    r"(\d+(?:\.\d+)?)\s*([smhdw]|(?:sec|second|min|minute|hour|day|week)s?)(?:\s+ago)?"
)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
"""Arguments of `timedelta`, by the first letter of the unit."""

Query = Any
"""One of `tiled.queries`; they share no base class."""


@dataclass(frozen=True)
class RunFilter:
    """What a run must have to be found; None admits every run."""

    plan: str | None = None
    since_s: float | None = None
    """Earliest start, unix seconds."""
    until_s: float | None = None
    """Start before this, unix seconds."""
    scan_id: int | None = None
    sample: str | None = None
    raw_uid: str | None = None
    """Derived runs of this raw run (full uid)."""
    purpose: str | None = None
    analysis: str | None = None
    """Name of the analysis that made a derived run."""
    text: str | None = None
    """A scan_id or the first characters of a uid; if no run matches, words in the metadata."""


@dataclass(frozen=True)
class RunSummary:
    """One line of `skywright runs`."""

    uid: str
    container: str
    scan_id: int | None
    plan: str | None
    sample: str | None
    purpose: str | None
    analysis: str | None
    """Name and version, of a derived run."""
    raw_uid: str | None
    raw_scan_id: int | None
    time_s: float
    """Start, unix s; -inf if its document has none."""
    duration_s: float | None
    status: str
    """With a stop document success, fail, abort or interrupted; without one running, storing or
    incomplete (`JournalListing.status`)."""
    events: Mapping[str, int]
    """Number of events of each stream, from the stop document; empty before it."""

    @property
    def counts(self) -> str:
        """A few streams that have events, primary among them, each with the number of them."""
        names = sorted(
            filter(self.events.get, self.events), key=lambda name: (name != "primary", name)
        )
        counts = [f"{name} {self.events[name]}" for name in sorted(names[:STREAMS_MAX])]
        more = len(names) - STREAMS_MAX
        return ", ".join([*counts, *([counted(more, "more stream")] if more > 0 else [])])


def find_runs(
    client: Container,
    run_filter: RunFilter,
    limit: int | None = None,
    journals: Path | None = None,
    containers: Collection[str] | None = None,
) -> list[RunSummary]:
    """Search runs.

    Parameters
    ----------
    client
        tiled client of the root.
    run_filter
        The conditions; its fields are joined by "and".
    limit
        Maximum number of runs; the newest are kept.
    journals
        Directory of the journals: a run with a locked journal is in progress, not incomplete.
    containers
        ``raw`` or ``analysis``, or both; by default both.

    Returns
    -------
    list of RunSummary
        Sorted by start time, newest last.
    """
    listing = JournalListing(journals)
    # With a text, some of the runs that the server finds are not accepted below
    wanted = None if run_filter.text else limit
    for alternatives, accepts in _interpretations(run_filter.text):
        found: dict[str, RunSummary] = {}
        searches = [
            [*queries, *of_text]
            for queries in tiled_queries(run_filter)
            for of_text in alternatives
        ]
        for container in containers or _RUNS:
            for queries in searches:
                runs = _search_metadata(_RUNS[container](client), queries, wanted)
                for run in islice(filter(accepts, runs), limit):
                    start, stop = run["start"], run.get("stop")
                    found[start["uid"]] = summarize(start, stop, listing.status(run))
        if found:
            ordered = sorted(found.values(), key=lambda run: run.time_s)
            return ordered if limit is None else ordered[max(len(ordered) - limit, 0) :]
    return []


def find_run(client: Container, name: str) -> Container:
    """Return the one run that `name` names.

    Parameters
    ----------
    client
        tiled client of the root.
    name
        ``-n``: the n-th newest raw run; a number: the newest raw run (else derived run) with this
        scan_id; else a uid, which is hexadecimal, or the first 4 or more characters of one.

    Raises
    ------
    DataError
        If no run, or more than one, matches.
    """
    if re.fullmatch(r"-\d{1,18}", name):
        return _nth_newest(catalog(client), -int(name))
    if _is_whole_number(name):
        for runs_of in _RUNS.values():
            for run in _search(runs_of(client), [Eq("start.scan_id", int(name))], 1):
                return run
    if not _UID.fullmatch(name):
        raise DataError(
            f"no run {name!r}: expected a uid, {UID_CHARACTERS_MIN} or more characters of its "
            "start, a scan_id, or -1 for the newest; `skywright runs` lists them"
        )
    query = Like("start.uid", f"{name.lower()}%")
    runs = [run for each in _RUNS.values() for run in islice(_search(each(client), [query], 3), 3)]
    if len(runs) > 1:
        uids = ", ".join(run.metadata["start"]["uid"][:13] for run in runs)
        raise DataError(f"{name!r} names several runs ({uids}): give more characters")
    if not runs:
        raise DataError(f"no run whose uid starts with {name!r}; `skywright runs` lists them")
    return runs[0]


def derived_runs(client: Container, raw_uid: str) -> list[Container]:
    """Return the derived runs of the raw run `raw_uid` (full uid), newest last."""
    return list(_search(analysis(client), [Eq("start.raw_uid", raw_uid)]))[::-1]


def tiled_queries(run_filter: RunFilter) -> list[list[Query]]:
    """Return lists of tiled queries for all fields except `text`.

    A run matches if it matches every query of one list. tiled has no "or", so each list is one
    search.
    """
    wanted = {
        "plan_name": run_filter.plan,
        "scan_id": run_filter.scan_id,
        "raw_uid": run_filter.raw_uid,
        "purpose": run_filter.purpose,
        "analysis.name": run_filter.analysis,
    }
    times = {"ge": run_filter.since_s, "lt": run_filter.until_s}
    queries: list[Query] = [
        *(Eq(f"start.{key}", value) for key, value in wanted.items() if value is not None),
        *(Comparison(op, "start.time", float(at)) for op, at in times.items() if at is not None),
    ]
    if run_filter.sample is None:
        return [queries]
    names: list[str | int] = [run_filter.sample]
    if _is_whole_number(run_filter.sample):  # a person may have given a number
        names.append(int(run_filter.sample))
    return [[*queries, Eq(f"start.{key}", name)] for key in SAMPLE_KEYS for name in names]


def summarize(start: Mapping[str, Any], stop: Mapping[str, Any] | None, status: str) -> RunSummary:
    """Return the line that `skywright runs` prints for a run.

    Parameters
    ----------
    start, stop
        Its documents.
    status
        See `JournalListing.status`.
    """
    duration_s = time_of(stop or {}) - time_of(start)
    return RunSummary(
        uid=start["uid"],
        container=container_name(start),
        scan_id=start.get("scan_id"),
        plan=_text(start.get("plan_name")),
        sample=sample_name(start),
        purpose=_text(start.get("purpose")),
        analysis=_analysis_name(start),
        raw_uid=raw_uid if isinstance(raw_uid := start.get("raw_uid"), str) else None,
        raw_scan_id=start.get("raw_scan_id"),
        time_s=time_of(start),
        duration_s=duration_s if math.isfinite(duration_s) else None,
        status=status,
        events=dict(as_mapping((stop or {}).get("num_events"))),
    )


def time_of(document: Mapping[str, Any]) -> float:
    """Return the time of a start or stop document, unix s; -inf if another program gave none."""
    time = document.get("time")
    return time if isinstance(time, int | float) else -math.inf


def as_mapping(value: object) -> Mapping[str, Any]:
    """Return a part of a document; it is empty if another program gave no mapping."""
    return value if isinstance(value, Mapping) else {}


def hinted_fields(hint: object) -> list[str]:
    """Return the data keys that the hint of a device names; none if it is of another form."""
    fields = as_mapping(hint).get("fields")
    return [field for field in fields if isinstance(field, str)] if isinstance(fields, list) else []


def sample_name(start: Mapping[str, Any]) -> str | None:
    """Return the name of the sample in a start document, None if it has none."""
    sample = start.get("sample", start.get("sample_name"))
    if isinstance(sample, Mapping):
        sample = sample.get("name")
    return _text(sample)


def _text(value: object) -> str | None:
    """Return a value of the metadata as text: a person may have given a number or a list."""
    return None if value is None else str(value)


def _analysis_name(start: Mapping[str, Any]) -> str | None:
    about = as_mapping(start.get("analysis"))
    return " ".join(str(about[key]) for key in ("name", "version") if about.get(key)) or None


class JournalListing:
    """The journals that a store has now; they show whether a run is being recorded or stored.

    Make it before the run is looked up: the ingester may store the run meanwhile.

    Parameters
    ----------
    directory
        Directory of the journals; None: they are not on this machine.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._uids = uids_of_journals(directory)

    def status(self, metadata: Mapping[str, Any]) -> str:
        """Return how a run ended, or whether it is being recorded or stored.

        A run is "running" only when a process holds the lock of its journal. One that has ended is
        "storing" until the ingester is done with its journal. Without a journal here, a run that
        has no stop document is "incomplete".

        Parameters
        ----------
        metadata
            Of the run in tiled.
        """
        stop = metadata.get("stop")
        if stop:
            interrupted = str(stop.get("reason", "")).startswith("interrupted")
            return "interrupted" if interrupted else str(stop.get("exit_status", "unknown"))
        if self._directory is None:
            return "incomplete"
        uid = metadata["start"]["uid"]
        path = journal_path(self._directory, uid)
        if is_locked(path):
            return "running"
        return "storing" if uid in self._uids or path.exists() else "incomplete"


def uids_of_journals(directory: Path | None) -> frozenset[str]:
    """Return the uids of the runs whose journals are in a directory now."""
    return frozenset(map(uid_of, directory.glob(f"*{SUFFIX}"))) if directory else frozenset()


def waiting_runs(journals: Path) -> list[str]:
    """Return the uids of the runs that have ended and are not in the catalog yet, oldest first.

    There are none if this user may not list the journals.
    """
    try:
        paths = waiting_journals(journals)
    except PermissionError:
        return []
    return [uid_of(path) for path in paths]


def parse_time(text: str, now: datetime | None = None, *, end: bool = False) -> float:
    """Read a time as people write it.

    Parameters
    ----------
    text
        ISO 8601 date or date and time (local unless it has an offset), ``2 days ago``, ``90 min``,
        ``3h``, ``today``, ``yesterday`` or ``now``.
    now
        Present time, local with offset; by default read from the clock.
    end
        Read a day (``2026-05-01``, ``today``) as its end instead of its beginning.

    Returns
    -------
    float
        Unix seconds.

    Raises
    ------
    DataError
        If `text` is none of these.
    """
    now = now or datetime.now().astimezone()
    words = text.strip().lower()
    days = {"today": now.date(), "yesterday": now.date() - timedelta(days=1)}
    if words == "now":
        return now.timestamp()
    is_day = words in days or not re.search(r"[t ]", words)
    try:
        if match := _AGO.fullmatch(words):
            return (now - timedelta(**{_UNITS[match[2][0]]: float(match[1])})).timestamp()
        moment = datetime.fromisoformat(str(days.get(words, words.upper())))
        return (moment + timedelta(days=1 if end and is_day else 0)).timestamp()
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"{text!r} is no time: expected e.g. 2026-05-01, 2026-05-01T14:30, "
            "'2 days ago', 3h, today or yesterday"
        ) from error


def _interpretations(
    text: str | None,
) -> Iterator[tuple[list[list[Query]], Callable[[Mapping[str, Any]], bool]]]:
    """Yield the interpretations of a free text, the most exact one first.

    Each item is a list of alternative query lists, and a function that accepts or rejects a run
    found.

    The check of words is ours because the servers differ: SQLite's index holds the keys of the
    metadata too, so that `scan_id` would find every run, and PostgreSQL's does not.
    """
    if not text or not text.strip():
        yield [[]], lambda metadata: True
        return
    text = text.strip()
    numbers = [[Eq("start.scan_id", int(text))]] if _is_whole_number(text) else []
    uids = [[Like("start.uid", f"{text.lower()}%")]] if _UID.fullmatch(text) else []
    yield [*numbers, *uids], lambda metadata: True
    if words := _words(text):
        plain_words = _words(_without_accents(text))
        yield (
            [[FullText(word) for word in sorted(words)]],
            lambda metadata: plain_words <= _words(_without_accents("\n".join(_texts(metadata)))),
        )


def _is_whole_number(text: str) -> bool:
    """Return whether a text is a number that servers take: one of 64 bits."""
    return text.isdecimal() and len(text) < 20 and int(text) < 2**63


def _words(text: str) -> set[str]:
    """Return the words of `text`, in lower case: AND, OR, NOT are operators of the index."""
    return set(re.findall(r"[^\W_]+", text.lower()))


def _without_accents(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def _texts(value: object) -> Iterator[str]:
    """Yield every text and number in nested metadata, keys left out."""
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value)


def _search(
    container: Container, queries: Iterable[Query], wanted: int | None = None
) -> Iterator[Container]:
    """Yield the runs that match all `queries`, newest first, a page at a time.

    Most of the server's time goes into the runs of a page, not into the search. Therefore a page
    holds at most `wanted` runs.
    """
    yield from _newest_first(container, queries).values().page_size(_page_size(wanted, PAGE))


def _search_metadata(
    container: Container, queries: Iterable[Query], wanted: int | None = None
) -> Iterator[Mapping[str, Any]]:
    """Yield the metadata of the runs that `_search` yields.

    For a run as a node the server also counts its streams, which takes up to ten times as long.
    """
    container = _newest_first(container, queries)
    page = _page_size(wanted, METADATA_PAGE)
    seen = set()
    params = {
        "fields": "metadata",
        "page[limit]": page,
        **container._queries_as_params,  # noqa: SLF001  as `Container.values`
        **container._sorting_params,  # noqa: SLF001
    }
    # Without the counts, the server's links to the next page end after about 100 runs
    for offset in count(0, page):
        for attempt in retry_context():
            with attempt:
                answer = container.context.http_client.get(
                    container.item["links"]["search"],
                    headers={"Accept": MSGPACK_MIME_TYPE},
                    params={**params, "page[offset]": offset},
                )
                runs = handle_error(answer).json()["data"]
        for run in runs:  # one that starts meanwhile moves the others to the next page
            if run["id"] not in seen:
                yield run["attributes"]["metadata"]
        seen |= {run["id"] for run in runs}
        if len(runs) < page:
            return


def _newest_first(container: Container, queries: Iterable[Query]) -> Container:
    """Return the runs that match all `queries`, newest first."""
    for query in queries:
        container = container.search(query)
    return container.sort(("start.time", -1))


def _page_size(wanted: int | None, most: int) -> int:
    return most if wanted is None else max(1, min(wanted, most))


def _nth_newest(container: Container, n: int) -> Container:
    with suppress(IndexError):
        if n > 0:
            return container.sort(("start.time", -1)).values()[n - 1]
    raise DataError(f"no run -{n}: the catalog has {len(container)} raw runs, -1 is the newest")
