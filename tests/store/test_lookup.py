"""Look-ups over both containers of a real tiled server."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store.test_file_tables import counted
from support.sample_runs import (
    DAY_S,
    DEAD,
    DERIVED_V1,
    DERIVED_V2,
    FLY,
    INTERRUPTED,
    SCAN,
    T0,
    SampleStore,
    shared_sample_store,
)
from tiled.client.container import Container

from skywright.callbacks.journal import Journal
from skywright.errors import DataError
from skywright.store import lookup, tail
from skywright.store.lookup import (
    JournalListing,
    RunFilter,
    derived_runs,
    find_run,
    find_runs,
    parse_time,
    summarize,
    tiled_queries,
    waiting_runs,
)

ALL = [SCAN, DERIVED_V1, FLY, DERIVED_V2, DEAD, INTERRUPTED]
NOON = datetime(2026, 5, 3, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def store(pytestconfig: pytest.Config) -> SampleStore:
    return shared_sample_store(pytestconfig)


@pytest.mark.parametrize(
    ("wanted", "uids"),
    [
        (RunFilter(), ALL),
        (RunFilter(plan="count"), [DEAD, INTERRUPTED]),
        (RunFilter(plan="coun"), []),
        (RunFilter(scan_id=7), [SCAN, INTERRUPTED]),
        (RunFilter(scan_id=7, plan="scan"), [SCAN]),
        (RunFilter(since_s=T0 + 1, until_s=T0 + 2 * DAY_S), [DERIVED_V1, FLY, DERIVED_V2]),
        (RunFilter(since_s=T0, until_s=T0), []),
        (RunFilter(since_s=T0, until_s=T0 + 1), [SCAN]),
        (RunFilter(sample="lysozyme A-1"), [SCAN, DERIVED_V1, DERIVED_V2]),
        (RunFilter(sample="thaumatin"), [FLY]),
        (RunFilter(sample="insulin"), [INTERRUPTED]),
        (RunFilter(raw_uid=SCAN), [DERIVED_V1, DERIVED_V2]),
        (RunFilter(purpose="analysis"), [DERIVED_V1, DERIVED_V2]),
        (RunFilter(purpose="alignment"), [SCAN]),
        (RunFilter(analysis="loop"), [DERIVED_V1, DERIVED_V2]),
        (RunFilter(analysis="loo"), []),
        (RunFilter(text="4f0c1"), [SCAN]),
        (RunFilter(text="4F0C1D2E-52a1"), [SCAN]),
        (RunFilter(text="d1a5e0"), [DERIVED_V1, DERIVED_V2]),
        (RunFilter(text=DERIVED_V1), [DERIVED_V1]),
        (RunFilter(text="7"), [SCAN, INTERRUPTED]),
        (RunFilter(text="lysozyme"), [SCAN, DERIVED_V1, DERIVED_V2]),
        (RunFilter(text="A-1 Lysozyme"), [SCAN, DERIVED_V1, DERIVED_V2]),
        (RunFilter(text="müller"), [SCAN]),
        (RunFilter(text="Muller"), [SCAN]),
        (RunFilter(text="watch_camera"), [FLY]),
        (RunFilter(text="thaumatin 0.25"), [FLY]),  # a number of its metadata
        (RunFilter(text="interrupted process"), [INTERRUPTED]),  # in the stop document
        (RunFilter(text="AND"), [INTERRUPTED]),
        (RunFilter(text="lysozyme", plan="scan"), [SCAN]),
        (RunFilter(text="lysozyme insulin"), []),
        (RunFilter(text="scan_id"), []),  # a key of every start document, and text of none
        (RunFilter(text="  "), ALL),
        (RunFilter(text="-"), []),
        *((RunFilter(text=number), []) for number in (str(2**63 - 1), str(2**63), "9" * 5000)),
    ],
)
def test_find_runs(store: SampleStore, wanted: RunFilter, uids: list[str]) -> None:
    assert [run.uid for run in find_runs(store.client, wanted)] == uids


def test_a_sample_whose_name_is_a_number_is_found_as_number_and_as_text() -> None:
    wanted = [query for (query,) in tiled_queries(RunFilter(sample="17"))]
    assert {query.value for query in wanted if query.key == "start.sample_name"} == {"17", 17}


def test_a_number_is_a_scan_id_and_the_start_of_a_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = [
        {"uid": "4f0c1d2e", "scan_id": 1234, "time": 2.0},
        {"uid": "1234abcd", "scan_id": 7, "time": 1.0},
    ]

    def search(container: Any, queries: list[Any], wanted: int | None) -> Any:
        (query,) = queries
        field, value = query.key.removeprefix("start."), getattr(query, "value", None)
        matches = (lambda v: v == value) if value else re.compile(query.pattern[:-1]).match
        found = (start for start in starts if matches(start[field]))
        return iter([{"start": start} for start in found])

    monkeypatch.setattr(lookup, "_search_metadata", search)
    monkeypatch.setattr(lookup, "_RUNS", {"raw": lambda client: None})
    found = find_runs(cast(Container, None), RunFilter(text="1234"))
    assert [run.uid for run in found] == ["1234abcd", "4f0c1d2e"]


def test_limit_keeps_the_newest(store: SampleStore) -> None:
    assert [run.uid for run in find_runs(store.client, RunFilter(), 2)] == ALL[-2:]
    assert len(find_runs(store.client, RunFilter(), 100)) == len(ALL)
    for container in ("raw", "analysis"):
        of_it = [run for run in find_runs(store.client, RunFilter()) if run.container == container]
        newest = find_runs(store.client, RunFilter(), 1, containers=(container,))
        assert newest == of_it[-1:] != []


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(max_size=12))
def test_any_text_is_a_query_that_the_server_takes(store: SampleStore, text: str) -> None:
    assert {run.uid for run in find_runs(store.client, RunFilter(text=text))} <= set(ALL)


def test_summary(store: SampleStore) -> None:
    runs = {run.uid: run for run in find_runs(store.client, RunFilter())}
    scan, derived, dead = runs[SCAN], runs[DERIVED_V2], runs[DEAD]
    assert (scan.container, scan.scan_id, scan.plan, scan.status) == ("raw", 7, "scan", "success")
    assert (scan.time_s, scan.duration_s) == (T0, 6.5)
    assert scan.events == {"primary": 5, "baseline": 2}
    assert (derived.container, derived.analysis) == ("analysis", "loop 2.0")
    assert (derived.raw_uid, derived.raw_scan_id) == (SCAN, 7)
    assert (dead.status, dead.duration_s, dead.events) == ("incomplete", None, {})
    assert runs[INTERRUPTED].status == "interrupted"
    assert runs[FLY].sample == "thaumatin"
    assert runs[INTERRUPTED].sample == "insulin"


def test_documents_of_another_program_may_lack_times_status_and_counts() -> None:
    start, stop = {"uid": DEAD}, {"num_events": "many", "time": "today"}
    run = summarize(start, stop, JournalListing().status({"start": start, "stop": stop}))
    assert (run.status, run.duration_s, run.events) == ("unknown", None, {})
    known = replace(run, time_s=T0)
    assert sorted([known, run], key=lambda each: each.time_s) == [run, known]


def test_metadata_that_a_person_gave_are_text_in_a_summary() -> None:
    start = {"uid": DEAD, "time": T0, "plan_name": 5, "purpose": ["a"], "raw_uid": 12}
    stop = {"time": T0, "exit_status": "success", "reason": None, "num_events": None}
    start |= {"sample": {"name": 3}, "analysis": {}}
    run = summarize(start, stop, JournalListing().status({"start": start, "stop": stop}))
    assert (run.plan, run.purpose, run.sample) == ("5", "['a']", "3")
    assert run.raw_uid is None  # a number is no uid
    assert (run.analysis, run.status, run.events) == (None, "success", {})


@pytest.mark.parametrize(
    ("reason", "status"),
    [("interrupted: the process ended", "interrupted"), ("the plan was interrupted", "fail")],
)
def test_a_run_is_interrupted_only_if_its_reason_begins_so(reason: str, status: str) -> None:
    stop = {"exit_status": "fail", "reason": reason}
    assert JournalListing().status({"start": {"uid": DEAD}, "stop": stop}) == status


def test_running_while_somebody_writes_the_journal_then_storing(tmp_path: Path) -> None:
    start = {"uid": DEAD, "time": T0}
    before = JournalListing(tmp_path)
    assert before.status({"start": start}) == "incomplete"
    journal = Journal(tmp_path)
    journal("start", start)
    assert JournalListing(tmp_path).status({"start": start}) == "running"
    assert JournalListing().status({"start": start}) == "incomplete"
    assert waiting_runs(tmp_path) == []
    journal.close()
    assert JournalListing(tmp_path).status({"start": start}) == "storing"
    assert before.status({"start": start}) == "storing"  # the run has begun since
    assert waiting_runs(tmp_path) == [DEAD]
    (tmp_path / f"{DEAD}.jsonl").unlink()  # the ingester is done with it
    assert JournalListing(tmp_path).status({"start": start}) == "incomplete"


def test_waiting_runs_are_named_by_their_uids_oldest_first(tmp_path: Path) -> None:
    starts = {"b": 3.0, "c: 90% cold": 1.0, "a": 2.0}
    for uid, time in starts.items():
        journal = Journal(tmp_path)
        journal("start", {"uid": uid, "time": time})
        journal.close()
    assert waiting_runs(tmp_path) == ["c: 90% cold", "a", "b"]


def test_a_directory_waits_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "copy.jsonl").mkdir()
    assert waiting_runs(tmp_path) == []


def test_a_run_that_is_stored_meanwhile_is_not_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{DEAD}.jsonl").touch()
    monkeypatch.setattr(tail, "is_locked", lambda path: path.unlink())
    assert waiting_runs(tmp_path) == []


def test_a_run_that_is_stored_while_the_catalog_answers_is_not_incomplete(
    store: SampleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / f"{DEAD}.jsonl"
    journal.touch()
    search = lookup._search_metadata

    def stored_meanwhile(*args: Any) -> Any:
        answer = list(search(*args))
        journal.unlink(missing_ok=True)
        return iter(answer)

    monkeypatch.setattr(lookup, "_search_metadata", stored_meanwhile)
    (run,) = find_runs(store.client, RunFilter(text=DEAD), journals=tmp_path)
    assert not journal.exists()
    assert run.status == "storing"


@pytest.mark.parametrize(
    ("name", "uid"),
    [
        ("-1", INTERRUPTED),
        ("-4", SCAN),
        ("7", INTERRUPTED),  # the newest of this number
        ("8", FLY),
        ("4f0c", SCAN),
        ("4F7A9B3C", FLY),
        ("d1a5e001", DERIVED_V1),
        (DERIVED_V2, DERIVED_V2),
    ],
)
def test_find_run(store: SampleStore, name: str, uid: str) -> None:
    assert find_run(store.client, name).metadata["start"]["uid"] == uid


@pytest.mark.parametrize(
    ("look_up", "limit"),
    [
        (lambda client: find_run(client, "-4"), 1),
        (lambda client: find_run(client, "7"), 1),
        (lambda client: find_runs(client, RunFilter(plan="count"), 2), 2),
    ],
)
def test_an_answer_has_no_more_runs_than_are_wanted(
    store: SampleStore, look_up: Callable[[Any], Any], limit: int
) -> None:
    with counted(store.client) as urls:
        look_up(store.client)
    searches = [url for url in urls if "/search/" in url]
    assert searches
    assert all(f"page%5Blimit%5D={limit}" in url for url in searches), searches


@pytest.mark.parametrize("run_filter", [RunFilter(), RunFilter(text="lysozyme")])
def test_a_list_of_runs_asks_for_their_metadata_alone(
    store: SampleStore, run_filter: RunFilter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "METADATA_PAGE", 1)
    with counted(store.client) as urls:
        found = find_runs(store.client, run_filter)
    pages = [url for url in urls if "/search/" in url and "page%5Blimit%5D=1" in url]
    assert len(pages) >= len(found)
    assert all("fields=metadata" in url for url in pages), pages


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("-5", "4 raw runs"),
        ("-" + "9" * 18, "4 raw runs"),
        ("-0", "-1 is the newest"),
        ("d1a5e0", "several runs"),
        ("4f0c1d2f", "starts with"),
        ("52a1", "starts with"),  # characters from the middle of a uid
        ("99999", "starts with"),
        ("4f0c1d2e52a1", "starts with"),  # a uid may have no dashes
        ("4f0c1d2e52a14d3b9d6f0b8c6e1a7001", "starts with"),
        (str(2**63), "starts with"),
        pytest.param("9" * 5000, "expected a uid", id="5000 digits"),
        pytest.param("-" + "9" * 5000, "expected a uid", id="- and 5000 digits"),
        ("4f", "4 or more characters"),
        ("no%", "expected a uid"),
    ],
)
def test_find_run_says_why_not(store: SampleStore, name: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        find_run(store.client, name)


def test_derived_runs_newest_last(store: SampleStore) -> None:
    found = derived_runs(store.client, SCAN)
    assert [run.metadata["start"]["uid"] for run in found] == [DERIVED_V1, DERIVED_V2]
    assert derived_runs(store.client, FLY) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-05-01T11:00:00+00:00", "2026-05-01T11:00:00+00:00"),
        ("2026-05-01t11:00z", "2026-05-01T11:00:00+00:00"),
        ("2 days ago", "2026-05-01T12:00:00+00:00"),
        ("90 min", "2026-05-03T10:30:00+00:00"),
        ("1.5h", "2026-05-03T10:30:00+00:00"),
        ("30s ago", "2026-05-03T11:59:30+00:00"),
        ("1 Week ago", "2026-04-26T12:00:00+00:00"),
        ("now", "2026-05-03T12:00:00+00:00"),
    ],
)
def test_parse_time(text: str, expected: str) -> None:
    assert parse_time(text, NOON) == datetime.fromisoformat(expected).timestamp()


@pytest.mark.parametrize("text", ["3 months", "5ms", "2 days later", "soon", "9" * 30 + " weeks"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(DataError, match="is no time"):
        parse_time(text, NOON)


def test_a_day_begins_and_ends() -> None:
    day = datetime(2026, 5, 1).timestamp()  # local
    assert parse_time("2026-05-01") == day
    assert parse_time("2026-05-01", end=True) - day in (23 * 3600, DAY_S, 25 * 3600)
    assert parse_time("yesterday", NOON) == datetime(2026, 5, 2).timestamp()
    assert parse_time("today", NOON, end=True) == datetime(2026, 5, 4).timestamp()
    assert parse_time("2026-05-01 10:00", end=True) == day + 36_000


@given(text=st.text(max_size=20) | st.from_regex(r"\d{1,30} ?[smhdw]( ago)?", fullmatch=True))
def test_parse_time_gives_a_time_or_says_no(text: str) -> None:
    with suppress(DataError):
        assert isinstance(parse_time(text, NOON), float)


@pytest.mark.parametrize("name", ["_queries_as_params", "_sorting_params"])
def test_the_private_names_of_the_client_are_still_there(client: Any, name: str) -> None:
    assert hasattr(client["raw"], name)
