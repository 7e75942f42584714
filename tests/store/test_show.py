"""What `skywright show` knows of a run, and the pictures that it writes."""

import fcntl
import math
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from bluesky_tiled_plugins import TiledWriter
from event_model import compose_run
from PIL import Image
from store.stack import Stack
from support.exports import memory_column
from support.sample_runs import (
    DEAD,
    DERIVED_V1,
    DERIVED_V2,
    FLY,
    FRAMES,
    SCAN,
    T0,
    RunMaker,
    SampleStore,
    key,
    shared_sample_store,
)

from skywright.analysis.display import to_uint8
from skywright.callbacks.journal import journal_path
from skywright.errors import DataError
from skywright.store.export.contents import Column, RunContents, Stream, read_contents
from skywright.store.lookup import JournalListing, find_run
from skywright.store.pictures import holds_frames, write_pictures
from skywright.store.show import RunView, final_results, view_run
from skywright.words import in_short, local_time


@pytest.fixture(scope="module")
def store(pytestconfig: pytest.Config) -> SampleStore:
    return shared_sample_store(pytestconfig)


def view(store: SampleStore, uid: str) -> RunView:
    return view_run(store.client, find_run(store.client, uid))


def test_raw_run(store: SampleStore) -> None:
    seen = view(store, SCAN)
    assert [(stream.name, stream.events) for stream in seen.streams] == [
        ("baseline", 2),
        ("primary", 5),
    ]
    columns = {column.name: column for column in seen.streams[1].columns}
    assert columns["cam_image"].shape == (5, 48, 64)
    assert columns["cam_image"].file == str(store.assets / f"{SCAN}-primary.h5")
    assert (columns["omega"].dtype, columns["omega"].units) == ("float64", "deg")
    assert (columns["diode_state"].dtype, columns["diode_state"].file) == ("text", None)
    assert seen.raw is None
    assert seen.analysis is None


def test_lineage_and_results(store: SampleStore) -> None:
    seen = view(store, SCAN)
    assert [each.summary.uid for each in seen.derived] == [DERIVED_V1, DERIVED_V2]
    assert [each.summary.analysis for each in seen.derived] == ["loop 1.1", "loop 2.0"]
    assert seen.derived[0].results == {"offset_um": 1.75}  # the last of two
    assert seen.derived[0].parameters == {"min_score": 0.3}
    assert seen.derived[0].about == {"offset_um": "um"}
    assert seen.derived[0].stream == "primary"
    assert seen.pictures == tuple(
        store.assets / f"{uid}-sheet.png" for uid in (DERIVED_V1, DERIVED_V2)
    )


def test_results_are_the_last_scalars_of_events() -> None:
    columns = (
        memory_column("seq_num", [1, 2]),
        memory_column("time", [1e9, 2e9]),
        memory_column("center", [3.5, 4.5]),
        memory_column("not_yet", []),
        memory_column("trace", [[1, 2], [3, 4]]),
        memory_column("of_pulses", [5.0, 6.0], external="STREAM:"),
    )
    streams = (Stream("result", {}, columns, {}),)
    assert final_results(RunContents({"uid": "u"}, None, "running", streams, ())) == {"center": 4.5}


@pytest.mark.parametrize(
    ("hints", "hinted"),
    [
        (None, ()),
        (["x"], ()),
        ({"cam": None, "slit": ["x"], "diode": {"fields": "x"}, "gate": {"fields": [1, []]}}, ()),
        ({"cam": {}, "diode": {"fields": ["x"]}}, ("x",)),
    ],
)
def test_streams_of_a_run(
    store: SampleStore, monkeypatch: pytest.MonkeyPatch, hints: Any, hinted: tuple[str, ...]
) -> None:
    """The camera runs freely, and its file is on no path of this machine."""
    image = memory_column("image", np.zeros((7, 2, 2), "u1"), external="STREAM:")
    columns = (memory_column("seq_num", [1, 2]), memory_column("x", [0.5, 1.5]), image)
    streams = (
        Stream("primary", {"hints": hints}, columns, {}),
        Stream("frames", {}, (image,), {}),
    )
    contents = RunContents({"uid": DEAD, "time": 0.0}, None, "incomplete", streams, ())
    monkeypatch.setattr("skywright.store.show.read_contents", lambda *_: contents)
    primary, frames = view(store, DEAD).streams
    assert (primary.events, primary.rows, primary.hinted) == (2, 7, hinted)
    assert (frames.events, frames.rows) == (0, 7)
    assert [(each.name, each.file) for each in primary.columns] == [("x", None), ("image", None)]


def test_a_derived_run_whose_raw_run_is_in_another_catalog(
    store: SampleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise DataError("no run")

    monkeypatch.setattr("skywright.store.show.find_run", refuse)
    seen = view(store, DERIVED_V1)
    assert (seen.raw, seen.summary.raw_uid) == (None, SCAN)


def test_derived_run(store: SampleStore) -> None:
    seen = view(store, DERIVED_V2)
    assert seen.raw is not None
    assert (seen.raw.uid, seen.raw.scan_id) == (SCAN, 7)
    assert seen.analysis is not None
    assert seen.analysis.results == {"offset_um": 1.75}
    assert seen.pictures == (store.assets / f"{DERIVED_V2}-sheet.png",)


@pytest.mark.parametrize(
    ("container", "given"),
    [
        ("raw", {"raw_uid": 12, "plan_name": 5, "analysis": "mine"}),
        ("analysis", {"purpose": "analysis", "analysis": "mine"}),
        ("analysis", {"purpose": "analysis", "analysis": {"parameters": [1], "stream": 2}}),
    ],
)
def test_a_run_with_metadata_of_unexpected_kinds(
    client: Any, container: str, given: dict[str, Any]
) -> None:
    run = compose_run(metadata=given)
    writer = TiledWriter(client[container])
    writer("start", run.start_doc)
    writer("stop", run.compose_stop())
    seen = view_run(client, client[container][run.start_doc["uid"]])
    assert (seen.raw, seen.summary.raw_uid) == (None, None)
    if seen.analysis:
        assert seen.analysis.parameters == {}


def test_unfinished_run(store: SampleStore) -> None:
    seen = view(store, DEAD)
    assert (seen.summary.status, seen.stop) == ("incomplete", None)
    assert "without stop document" in seen.notes[0]


def test_a_run_that_is_stored_while_it_is_read_waits(store: SampleStore, tmp_path: Path) -> None:
    journal = tmp_path / f"{DEAD}.jsonl"
    journal.touch()
    listing, run = JournalListing(tmp_path), find_run(store.client, DEAD)
    journal.unlink()
    seen = view_run(store.client, run, listing)
    assert seen.summary.status == "storing"
    assert "still being stored" in seen.notes[0]


@pytest.mark.parametrize(
    ("is_locked", "status", "note"),
    [
        (True, "running", "the run is still running: what is stored until now"),
        (False, "storing", "the run is over and still being stored: what is stored until now"),
    ],
)
def test_a_run_of_which_more_will_be_stored(
    is_locked: bool,
    status: str,
    note: str,
    store: SampleStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing = pd.DataFrame(), np.ones(0, bool)
    monkeypatch.setattr("skywright.store.export.contents._events", lambda *_: nothing)
    with journal_path(tmp_path, DEAD).open("w") as journal:
        if is_locked:
            fcntl.flock(journal, fcntl.LOCK_EX)
        seen = view_run(store.client, find_run(store.client, DEAD), JournalListing(tmp_path))
    assert seen.summary.status == status
    assert seen.notes == (note, "primary/diode_current: no value stored yet")


def test_only_the_results_of_derived_runs_are_read(
    store: SampleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stream of a run takes two requests or more."""
    read: list[Any] = []

    def note(run: Any, listing: Any, only: Any = None) -> RunContents:
        contents = read_contents(run, listing, only)
        read.append((only, [stream.name for stream in contents.streams]))
        return contents

    monkeypatch.setattr("skywright.store.show.read_contents", note)
    assert len(view(store, SCAN).derived) == 2
    assert read == [(None, ["baseline", "primary"]), *[(("result",), ["result"])] * 2]
    run = find_run(store.client, SCAN)
    assert [each.name for each in read_contents(run, only=("primary",)).streams] == ["primary"]


def test_a_run_that_is_written_anew_while_it_is_read(
    client: Any, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ingester deletes the streams of the run, and makes them again."""
    uid = str(uuid.uuid4())
    run = RunMaker(TiledWriter(client["raw"]), tmp_path, uid, T0, {})
    run.stream("primary", {"diode_current": key("number", "<f8", "diode")})
    run.event("primary", 1, diode_current=0.5)
    run.stop()
    stored, other = find_run(client, uid), stack.client()
    http_client = client.context.http_client

    def delete_streams(request: httpx.Request) -> None:
        if request.url.path.endswith(f"/metadata/raw/{uid}/primary"):
            other["raw"][uid].delete_contents(recursive=True, external_only=False)

    hooks = http_client.event_hooks
    hooks = hooks | {"request": [*hooks["request"], delete_streams]}
    monkeypatch.setattr(http_client, "event_hooks", hooks)
    assert [stream.name for stream in view_run(client, stored).streams] == ["primary"]


def test_pictures_are_the_frames(store: SampleStore, tmp_path: Path) -> None:
    run = find_run(store.client, SCAN)
    written = write_pictures(run, view_run(store.client, run), tmp_path / "p", count=3)
    names = [path.name for path in written]
    stem = "4f0c1d2e-primary-cam_image"
    assert names[2:] == [f"{stem}-{rest}.png" for rest in ("sheet", "000000", "000002", "000004")]
    assert all(name.endswith("-sheet.png") for name in names[:2])  # what the analyses have drawn
    for row in (0, 2, 4):
        with Image.open(tmp_path / "p" / f"{stem}-{row:06d}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), FRAMES[row])
    with Image.open(tmp_path / "p" / f"{stem}-sheet.png") as sheet:
        assert sheet.size == (3 * 400, 300)
        below_the_label = np.asarray(sheet.convert("L"))[126 + 24 : 126 + 48, 168 : 168 + 64]
        np.testing.assert_array_equal(below_the_label, FRAMES[0][24:])


def test_free_running_camera_has_pictures(store: SampleStore, tmp_path: Path) -> None:
    run = find_run(store.client, FLY)
    assert len(write_pictures(run, view_run(store.client, run), tmp_path)) == 1 + 6


def test_pictures_need_a_directory(store: SampleStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = find_run(store.client, FLY)
    with pytest.raises(DataError, match="cannot be written"):
        write_pictures(run, view_run(store.client, run), tmp_path / "file")


def test_deep_pictures_span_black_to_white() -> None:
    ramp = np.linspace(100, 4000, 64 * 64).reshape(64, 64).astype("u2")
    ramp[0, 0] = 65_535  # a hot pixel does not darken the rest
    scaled = to_uint8(ramp)
    assert (scaled.min(), scaled.max()) == (0, 255)
    assert abs(float(np.median(scaled)) - 127) <= 2
    assert to_uint8(np.full((4, 4), np.nan)).max() == 0
    assert to_uint8(np.full((4, 4), 7, "u2")).max() == 0


@pytest.mark.filterwarnings("error")
def test_pixels_far_from_all_others_are_black_or_white() -> None:
    sparse = np.zeros((64, 64))
    sparse[0, :3] = np.inf, -np.inf, 1e9
    assert to_uint8(sparse)[0, :4].tolist() == [255, 0, 255, 0]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((5, 48, 64), True), ((5, 48, 64, 3), True), ((5, 5, 6), False), ((5,), False),
     ((0, 48, 64), False), ((5, 1000, 16), False), ((5, 16, 1000), True), ((5, 4, 48, 64), False)],
)  # fmt: skip
def test_what_is_a_picture(shape: tuple[int, ...], expected: bool) -> None:
    column = Column("x", shape, np.dtype("u1"), {}, np.zeros(shape, "u1").__getitem__)
    assert holds_frames(column) is expected


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1 + 0.2, "0.3"), (math.nan, "–"), (None, "–"), (True, "yes"), (12345678, "12345678"),
     ([0.5, 1], "0.5 1"), ({"edges": [0.1, 0.2], "on": False}, "edges 0.1 0.2, on no"), ("a", "a")],
)  # fmt: skip
def test_values_are_shown_in_few_words(value: object, text: str) -> None:
    assert in_short(value) == text


@pytest.mark.parametrize("time_s", [1.8e12, 1.8e15, 1e300, float("inf")])
def test_a_time_after_the_year_9999_is_a_number(time_s: float) -> None:
    assert local_time(time_s) == f"{time_s} s"
    assert local_time(time_s, offset=True) == f"{time_s} s"


@pytest.mark.parametrize("time_s", [-math.inf, math.nan])
def test_a_time_that_a_run_does_not_have_is_unknown(time_s: float) -> None:
    assert local_time(time_s) == "unknown"


def test_a_time_for_readers_elsewhere_has_its_difference_from_utc(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        first, second = 1792887000, 1792890600  # 02:10 of the night when clocks are put back
        assert local_time(first) == local_time(second) == "2026-10-25 02:10:00"
        assert local_time(first, offset=True) == "2026-10-25 02:10:00+02:00"
        assert local_time(second, offset=True) == "2026-10-25 02:10:00+01:00"
    finally:
        monkeypatch.undo()
        time.tzset()
