"""The pages over a real catalog: what they show, what they refuse, what they ask of tiled."""

import contextlib
import errno
import io
import os
import re
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from support.page import client_of, fake_checks, settings_of
from support.sample_runs import (
    DEAD,
    DERIVED_V1,
    DERIVED_V2,
    FLY,
    FRAMES,
    SCAN,
    SampleStore,
    shared_sample_store,
)
from tiled.client.container import Container

from dashboard.app import hosts_of, make_app
from dashboard.site import PAGES
from dashboard.views.run import Frames, frames_of
from skywright.checks import doubtful
from skywright.config import Settings
from skywright.errors import DataError
from skywright.store.lookup import RunSummary
from skywright.store.show import ColumnView, RunView, StreamView

FRAME = f"/runs/{SCAN}/frames/primary/cam_image"
PICTURE = f"/runs/{SCAN}/pictures/{DERIVED_V1}"


@pytest.fixture(scope="module")
def store(pytestconfig: pytest.Config) -> SampleStore:
    return shared_sample_store(pytestconfig)


@pytest.fixture(scope="module")
def settings(store: SampleStore, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    directory = tmp_path_factory.mktemp("page")
    return settings_of(directory, store.uri, store.api_key, store.assets)


@pytest.fixture(scope="module", autouse=True)
def patient() -> Iterator[None]:
    """Let pages wait for tiled, which is slow on a busy computer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dashboard.catalog.WAIT_S", 120.0)
        yield


@pytest.fixture(scope="module")
def page(settings: Settings) -> Iterator[TestClient]:
    app = make_app(settings, fake_checks(doubtful("disk", "1 GB free", "make room")))
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def uids(page: TestClient, query: str) -> list[str]:
    """Return the runs that a search lists, in order."""
    answer = page.get(f"/runs?{query}")
    assert answer.status_code == 200, answer.text
    rows = answer.text.split("<tbody>")[-1].split("<tr>")[1:]
    return [row.split('href="/runs/')[1].split('"')[0] for row in rows]


def test_the_first_page_is_the_runs_newest_first(page: TestClient) -> None:
    assert page.get("/").url.path == "/runs"
    listed = uids(page, "")
    assert len(listed) == 6
    assert listed.index(DEAD) < listed.index(DERIVED_V2) < listed.index(SCAN)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("q=4f0c1d2e", [SCAN]),
        ("q=lysozyme&kind=raw", [SCAN]),
        ("q=lysozyme&kind=derived", [DERIVED_V2, DERIVED_V1]),
        ("plan=scan&until=2026-05-02", [SCAN]),
        ("plan=scan&since=2026-06-01", []),
        ("sample=lysozyme+A-1&kind=raw", [SCAN]),
        ("q=nothing+of+the+kind", []),
    ],
)
def test_search(page: TestClient, query: str, expected: list[str]) -> None:
    assert uids(page, query) == expected


def test_a_screen_reader_says_how_many_runs_there_are_and_not_the_whole_list(
    page: TestClient,
) -> None:
    """What is in a live region is read out at each change."""
    for query, words in (("", "6 runs"), ("limit=1", "the newest 1 run"), ("q=nothing+at+all", "")):
        text = page.get(f"/runs?{query}").text
        assert re.findall(r'<p id="found"[^>]*role="status"[^>]*>([^<]*)</p>', text) == [words]
        assert "aria-live" not in text


def test_a_time_that_cannot_be_read_is_said_beside_the_form(page: TestClient) -> None:
    answer = page.get("/runs?since=yesteryear&plan=scan")
    assert answer.status_code == 400
    assert "yesteryear" in answer.text
    assert 'value="scan"' in answer.text  # what was filled in is kept


def test_a_long_list_goes_on(page: TestClient) -> None:
    assert len(uids(page, "limit=2")) == 2
    assert "limit=4" in page.get("/runs?limit=2").text
    assert "older runs" not in page.get("/runs?limit=20").text


def test_any_limit_is_one(page: TestClient) -> None:
    assert len(uids(page, "limit=0")) == 1
    assert len(uids(page, f"limit={'9' * 5000}")) > 1


def test_a_run_shows_what_came_of_it(page: TestClient) -> None:
    text = page.get(f"/runs/{SCAN[:8]}").text
    for words in ("lysozyme A-1", "loop 1.1", "loop 2.0", "min_score", "offset_um", "1.75"):
        assert words in text
    assert f'href="/runs/{DERIVED_V1}"' in text
    assert f'src="{PICTURE}/0"' in text
    assert f'src="{FRAME}/0.jpg"' in text
    assert "diode_matrix" in text


@pytest.mark.parametrize("path", ["/runs", f"/runs/{SCAN}"])
def test_times_have_their_difference_from_utc(page: TestClient, path: str) -> None:
    times = re.findall(r"[>]\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[^<]*", page.get(path).text)
    assert times
    assert all(re.search(r"[+-]\d\d:\d\d$", each) for each in times)


def test_a_stream_counts_the_rows_of_its_files_where_it_has_no_events(page: TestClient) -> None:
    text = page.get(f"/runs/{FLY}").text
    assert "<summary>primary, 6 rows, 2 columns</summary>" in text
    assert "0 events" not in text
    assert "<summary>primary, 5 events, 9 columns</summary>" in page.get(f"/runs/{SCAN}").text


def test_a_derived_run_names_its_raw_run(page: TestClient) -> None:
    text = page.get(f"/runs/{DERIVED_V2}").text
    assert f'href="/runs/{SCAN}"' in text
    assert "Derived from" in text
    assert "<dt>min_score</dt><dd>0.3</dd>" in text


def test_of_a_run_only_the_answer_is_open(page: TestClient) -> None:
    for uid in (SCAN, DERIVED_V1):
        text = page.get(f"/runs/{uid}").text
        assert "<details><summary>" in text
        assert "<details open" not in text
    parts: Any = PAGES.get_template("parts.html").module
    shown = parts.answer({"ok": False, "why": "no loop", "tip_x": 3.0})
    assert "<dt>ok</dt><dd>no</dd>" in shown
    assert 'title="why there is no such result"><dt>why</dt><dd>no loop</dd>' in shown
    assert "<div><dt>" not in shown
    assert "tip_x" not in shown
    assert parts.answer({"tip_x": 3.0}).strip() == ""


def test_what_people_wrote_is_never_markup(page: TestClient) -> None:
    assert "<script>alert" not in page.get("/runs?q=<script>alert(1)</script>").text
    answer = page.get("/runs/<script>alert(1)</script>")
    assert answer.status_code == 404
    assert "<script>alert" not in answer.text
    assert "default-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path", ["/runs/ffffffff", "/runs/no such run", f"{FRAME}/5.jpg", f"{PICTURE}/1", "/nowhere",
             f"/runs/{SCAN}/frames/primary/omega_x/0.jpg", f"/runs/{SCAN}/frames/none/x/0.jpg",
             f"/runs/{SCAN}/export/pdf", f"/runs/{SCAN}/pictures/{SCAN}/0",
             f"/runs/{SCAN}/frames/%00/x/0.jpg", f"/runs/{SCAN}/frames/primary/internal/0.jpg",
             f"{FRAME}/99999999999999999999.jpg"],
)  # fmt: skip
def test_what_is_not_there_is_said(page: TestClient, path: str) -> None:
    answer = page.get(path)
    assert answer.status_code == 404
    assert "<h1>Not " in answer.text


def test_frames_are_the_stored_ones(page: TestClient) -> None:
    for row in (0, 4):
        answer = page.get(f"{FRAME}/{row}.jpg")
        assert answer.headers["content-type"] == "image/jpeg"
        pixels = np.asarray(Image.open(io.BytesIO(answer.content)), dtype=float)
        assert np.corrcoef(pixels.ravel(), FRAMES[row].ravel())[0, 1] > 0.95  # of noise, as JPEG


def test_a_camera_without_frames_has_no_slider() -> None:
    columns = tuple(ColumnView(f"cam{n}", (n, 48, 64), "uint8", None, None) for n in (0, 5))
    view = RunView.__new__(RunView)
    object.__setattr__(view, "streams", (StreamView("primary", 5, 5, columns),))
    assert frames_of(view) == [Frames("primary", "cam5", 5)]


def test_drawn_pictures_are_sent(page: TestClient) -> None:
    image = Image.open(io.BytesIO(page.get(f"{PICTURE}/0").content))
    np.testing.assert_array_equal(np.asarray(image), FRAMES[0])


def test_no_file_outside_the_assets_is_sent(store: SampleStore, tmp_path: Path) -> None:
    """A run's documents name the files; who may write runs must not read the machine."""
    elsewhere = settings_of(tmp_path, store.uri, store.api_key, tmp_path)
    with client_of(elsewhere) as page:
        answer = page.get(f"{PICTURE}/0")
        assert answer.status_code == 404
        assert "store.readable" in answer.text


@pytest.mark.parametrize(
    ("part", "status"), [("bytes=10-", 206), ("bytes=999999999-", 416), ("foo", 400)]
)
def test_an_export_is_removed_when_it_is_sent_or_refused(
    page: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, status: int
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    answer = page.get(f"/runs/{SCAN}/export/nexus", headers={"Range": part})
    assert answer.status_code == status
    assert list(tmp_path.glob("skywright-export-*")) == []


def test_an_export_to_a_full_disk_is_not_available(
    page: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("skywright.store.export.write_csv", fail)
    answer = page.get(f"/runs/{SCAN}/export/csv")
    assert (answer.status_code, "No space left on device" in answer.text) == (503, True)
    assert "No space left on device" in caplog.text  # the operator of the page sees it too


def test_exports(page: TestClient, tmp_path: Path) -> None:
    answer = page.get(f"/runs/{SCAN}/export/nexus")
    assert 'filename="4f0c1d2e.nxs"' in answer.headers["content-disposition"]
    (tmp_path / "a.nxs").write_bytes(answer.content)
    with h5py.File(tmp_path / "a.nxs") as file:
        assert "NXentry" in {group.attrs.get("NX_class") for group in file.values()}
    answer = page.get(f"/runs/{SCAN}/export/csv")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert any(name.endswith("primary.csv") for name in archive.namelist())


def test_state_shows_checks_and_counts(page: TestClient) -> None:
    text = page.get("/state").text
    assert "make room" in text
    assert "4 raw runs, 2 derived" in text


def test_the_examination_is_asked_for_and_shown(page: TestClient) -> None:
    # Leaving, the client cancels the feed, which may come out of it as an error.
    with (
        contextlib.suppress(CancelledError),
        page.websocket_connect("ws://127.0.0.1/live/state") as feed,
    ):
        feed.receive_text()
        assert "all answer" not in page.get("/state").text
        assert page.post("/state/examine").url.path == "/state"
        while "all answer" not in (text := page.get("/state").text):
            feed.receive_text()
    assert "checked at" in text


def test_pages_of_other_sites_are_refused(page: TestClient) -> None:
    foreign = {"origin": "http://elsewhere.example"}
    assert page.post("/state/examine", headers=foreign).status_code == 403
    with (
        pytest.raises(WebSocketDisconnect),
        page.websocket_connect("ws://127.0.0.1/live/catalog", headers=foreign),
    ):
        pass
    assert page.get("/runs", headers={"host": "elsewhere.example"}).status_code == 400


@pytest.mark.parametrize("status", [200, 400, 500])
def test_every_answer_has_the_headers(
    page: TestClient, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    if status == 500:
        monkeypatch.setattr("dashboard.views.runs.Search", None)
    host = "elsewhere.example" if status == 400 else "127.0.0.1"
    answer = page.get("/runs", headers={"host": host})
    assert answer.status_code == status
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("interface", ["127.0.0.1", "localhost", "127.0.0.2", "::1"])
def test_on_a_loopback_interface_foreign_names_are_refused(
    settings: Settings, interface: str
) -> None:
    shown = f"[{interface}]" if ":" in interface else interface
    app = make_app(settings, fake_checks(), hosts_of(interface))
    with TestClient(app, f"http://{shown}:8060") as page:
        assert page.get("/static/page.css").status_code == 200
        foreign = {"host": "elsewhere.example"}
        assert page.get("/static/page.css", headers=foreign).status_code == 400
    assert list(hosts_of("0.0.0.0")) == list(hosts_of("::")) == list(hosts_of("beamline")) == ["*"]


def test_a_feed_that_is_none_is_refused(page: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), page.websocket_connect("ws://127.0.0.1/live/nothing"):
        pass


def test_a_store_that_is_away_is_said_on_every_page(tmp_path: Path) -> None:
    away = settings_of(tmp_path, "http://127.0.0.1:9", "key", tmp_path)
    with client_of(away) as page:
        for path, status in (("/runs", 503), ("/runs/-1", 503), ("/state", 200), ("/loop", 200)):
            answer = page.get(path)
            assert answer.status_code == status, path
            assert "skywright up" in answer.text, path
        assert 'value="what was typed"' in page.get("/runs?q=what was typed").text


@pytest.mark.parametrize(
    ("query", "says"), [("", "No run in the catalog yet."), ("?kind=raw&q=a", "No run matches.")]
)
def test_an_empty_catalog_is_no_search_that_finds_nothing(
    page: TestClient, monkeypatch: pytest.MonkeyPatch, query: str, says: str
) -> None:
    monkeypatch.setattr("dashboard.views.runs.find_runs", lambda *_: [])
    page.portal.call(page.app.state.site.catalog._answers.clear)  # type: ignore
    assert says in page.get(f"/runs{query}").text
    page.portal.call(page.app.state.site.catalog._answers.clear)  # type: ignore


def test_the_list_does_not_wait_for_a_tiled_that_is_silent(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows what it has shown before, and why there is nothing newer."""
    path, gate = "/runs?q=d1a5&limit=3", threading.Event()
    assert DERIVED_V2 in page.get(path).text

    def silent(*_: object) -> list[RunSummary]:
        assert gate.wait(60.0)
        return []

    catalog = page.app.state.site.catalog  # type: ignore[attr-defined]
    monkeypatch.setattr("dashboard.catalog.WAIT_S", 0.05)
    monkeypatch.setattr("dashboard.views.runs.find_runs", silent)
    page.portal.call(catalog._answers.clear)  # type: ignore[union-attr]  # as at a change
    try:
        answer = page.get(path)
        assert answer.status_code == 503
        assert "tiled has not answered for" in answer.text
        assert DERIVED_V2 in answer.text
    finally:
        gate.set()


def test_a_run_does_not_wait_for_a_tiled_that_is_silent(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shown as before; a run that was not shown before is not available."""
    assert page.get(f"/runs/{FLY}").status_code == 200
    gate = threading.Event()

    def silent(*_: object) -> Any:
        assert gate.wait(60.0)
        raise DataError("no run")

    catalog = page.app.state.site.catalog  # type: ignore[attr-defined]
    monkeypatch.setattr("dashboard.catalog.WAIT_S", 0.05)
    monkeypatch.setattr("dashboard.views.run.find_run", silent)
    page.portal.call(catalog._answers.clear)  # type: ignore[union-attr]  # as at a change
    try:
        for path, shown in ((f"/runs/{FLY}", FLY[:8]), (f"/runs/{FLY[:9]}", "Not available")):
            answer = page.get(path)
            assert answer.status_code == 503
            assert "tiled has not answered for" in answer.text
            assert shown in answer.text
    finally:
        gate.set()


def test_a_store_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = Settings(store={"directory": tmp_path / "file"})  # type: ignore[arg-type]
    with client_of(settings) as page:
        for path, status in (("/runs", 503), ("/state", 200)):
            answer = page.get(path)
            assert answer.status_code == status, path
            assert "Not a directory" in answer.text, path


def test_a_question_is_asked_once_until_the_catalog_changes(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def question(client: Container, number: int) -> int:
        asked.append(number)
        return number

    catalog = page.app.state.site.catalog  # type: ignore[attr-defined]
    ask: Callable[..., int] = lambda n: page.portal.call(catalog.ask, question, n)  # noqa: E731
    pause = threading.Event()
    for _ in range(600):
        if catalog.subscribed:
            break
        pause.wait(0.05)
    assert catalog.subscribed
    page.portal.call(catalog._notify_later)  # what was told at the beginning has been told
    assert [ask(1), ask(1), ask(2)] == [1, 1, 2]
    assert asked == [1, 2]
    monkeypatch.setattr(catalog, "subscribed", False)
    ask(1)
    ask(1)
    assert asked == [1, 2, 1, 1]


def test_a_change_during_the_reading_is_not_taken_for_seen(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page shows what was there before; the next message of the feed has it loaded again."""
    catalog = page.app.state.site.catalog  # type: ignore[attr-defined]
    before: list[int] = []

    def question(client: Container, search: Any, journals: Path) -> list[RunSummary]:
        before.append(catalog.version)
        page.portal.call(catalog._notify_later)  # tiled tells of a change
        return []

    monkeypatch.setattr("dashboard.views.runs.newest_first", question)
    first = catalog.version
    text = page.get("/runs?q=read while it changes").text
    (seen,) = set(re.findall(r'data-seen="([0-9]+)"', text))
    # Runs of earlier tests may still tell of changes, also before the question is asked
    assert first <= int(seen) <= before[0] < catalog.version


REQUEST = httpx.Request("GET", "http://127.0.0.1:9/api/v1/search/raw?page=1")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (httpx.ReadTimeout("too slow"), "tiled does not answer (too slow)"),
        (httpx.ReadTimeout(""), "tiled does not answer (ReadTimeout)"),
        (
            httpx.HTTPStatusError("refused", request=REQUEST, response=httpx.Response(403)),
            "tiled answers 403 to /api/v1/search/raw<",
        ),
        (httpx.DecodingError("bad gzip"), "the answer of tiled cannot be read (bad gzip)"),
    ],
)
def test_errors_of_the_server_are_no_errors_of_the_page(
    error: Exception, says: str, page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr("dashboard.views.runs.find_runs", broken)
    answer = page.get("/runs?q=anything-else")
    assert answer.status_code == 503
    assert says in answer.text


def test_a_long_name_of_a_plan_is_whole_on_hover(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = "align_" * 20
    run = RunSummary(SCAN, "raw", 7, plan, None, None, None, None, None, 0.0, 1.0, "success", {})
    monkeypatch.setattr("dashboard.views.runs.find_runs", lambda *_, **__: [run])
    text = page.get("/runs?q=a-long-name").text
    assert f'<td class="what" title="{plan}">align_' in text
