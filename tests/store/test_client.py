"""What a person does with the catalog: the latest run, look-up, tables, a run that goes on."""

import importlib
import itertools
import json
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import numpy as np
import pytest
import xarray
from bluesky_tiled_plugins.clients.bluesky_event_stream import DATAVALUES, TIMESTAMPS
from bluesky_tiled_plugins.queries import PartialUID, ScanID, TimeRange
from store.recording import Recording, array, scalar
from store.stack import Stack
from support.streaming import StreamingCamera
from support.waiting import until
from tiled.client import from_uri
from tiled.client import utils as tiled_utils
from tiled.client.container import DEFAULT_STRUCTURE_CLIENT_DISPATCH as STOCK
from tiled.client.utils import ClientError

from skywright.config import Settings
from skywright.errors import ConfigError
from skywright.processes.locks import hold_lock
from skywright.processes.stack import UP_LOCK, State, write_state
from skywright.store import client as client_module
from skywright.store.client import (
    analysis,
    broker,
    catalog,
    connect,
    embedded_key,
    ensure_containers,
    trusts_environment,
)
from skywright.store.growing import ClientClasses
from skywright.store.ingest import IngestState, RunIngest, ingest
from skywright.store.run_nodes import CatalogServer


def record(journals: Path, **metadata: Any) -> str:
    recording = Recording(journals, **metadata).stream("primary", x=scalar("number"))
    recording.events([{"x": 1.0}, {"x": 2.0}])
    recording.stop()
    return recording.uid


later = itertools.count(1)


@pytest.fixture
def three(journals: Path, client: Any) -> list[str]:
    """Three runs in order of time; the middle one was recovered last."""
    day = next(later)
    uids = [record(journals, scan_id=10 * day + n, time=4e9 + day + n / 9) for n in range(3)]
    for uid in (uids[0], uids[2], uids[1]):
        assert ingest(journals / f"{uid}.jsonl", client) is IngestState.DONE
    return uids


def test_latest_is_latest_by_time_after_recovery(three: list[str], client: Any) -> None:
    cat = catalog(client)
    assert [cat[n].metadata["start"]["uid"] for n in (-1, -2, -3)] == three[::-1]
    assert list(cat)[-3:] == three
    db = broker(client)
    assert db[-1].start["uid"] == three[2]
    assert db[-1].table()["x"].tolist() == [1.0, 2.0]


def test_look_up(three: list[str], client: Any) -> None:
    cat = catalog(client)
    first = three[0]
    start = cat[first].metadata["start"]
    assert start["uid"] == first
    assert cat[first[:8]].metadata["start"]["uid"] == first
    assert cat[start["scan_id"] + 2].metadata["start"]["uid"] == three[2]
    assert list(cat.search(ScanID(start["scan_id"] + 1))) == [three[1]]
    assert list(cat.search(PartialUID(first[:10]))) == [first]
    found = cat.search(TimeRange(since=start["time"] + 0.05, until=start["time"] + 0.5))
    assert list(found) == three[1:]
    assert found[-1].metadata["start"]["uid"] == three[2]
    assert broker(client)[three[1][:8]].start["scan_id"] == start["scan_id"] + 1


def test_use_of_db_does_not_change_the_catalog(three: list[str], client: Any) -> None:
    before = type(catalog(client)[three[0]])
    broker(client)[three[0]].table()
    assert type(catalog(client)[three[0]]) is before
    assert catalog(client)[three[0]].v2 is not None
    assert type(catalog(client)[three[0]]) is before


def test_own_streams_read_as_stock_ones(journals: Path, stack: Stack, client: Any) -> None:
    keys = {"x": scalar("number"), "s": scalar("string"), "m": array([2, 2]), "n": array([3])}
    recording = Recording(journals).stream("primary", **keys)
    recording.events({"x": i / 3, "s": "a" * i, "m": np.eye(2), "n": [i] * 3} for i in range(4))
    assert ingest(recording.stop(), client) is IngestState.DONE
    stock = from_uri(stack.uri, ClientClasses.of(STOCK["numpy"]), api_key=stack.key)
    for variables in (
        (),
        (["x", "m"],),
        (["ts_x", "seq_num"],),
        ([DATAVALUES, TIMESTAMPS],),
        ([DATAVALUES, "seq_num"], "point"),
    ):
        one = client["raw"][recording.uid]["primary"].read(*variables)
        other = stock["raw"][recording.uid]["primary"].read(*variables)
        xarray.testing.assert_identical(one, other)
        assert {k: v.dtype for k, v in one.items()} == {k: v.dtype for k, v in other.items()}


def test_an_array_is_read_as_it_was_when_its_client_was_made(
    journals: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skywright.store.line_writer.UPDATE_S", (0.0, 0.0))
    recording = Recording(journals).stream("primary", a=array([2]))
    run = RunIngest(recording.path, CatalogServer(client))
    recording.event(a=[1, 2])
    run.step()
    node = client["raw"][recording.uid]["primary"].base["a"]
    recording.event(a=[3, 4])
    run.step()
    assert client["raw"][recording.uid]["primary"].base["a"].shape == (2, 2)
    assert node.read().tolist() == [[1, 2]]
    recording.stop()


def test_a_stream_of_arrays_without_rows_is_read(journals: Path, client: Any) -> None:
    """Another program may add such arrays."""
    recording = Recording(journals).stream("primary", z=scalar("number"))
    assert ingest(recording.stop(), client) is IngestState.DONE
    stream = client["raw"][recording.uid]["primary"]
    stream.base.write_array(np.array(3.5), key="z")
    read = client["raw"][recording.uid]["primary"].read()
    assert (read["z"].dims, float(read["z"])) == ((), 3.5)


def test_stock_clients_read_documents(three: list[str], client: Any) -> None:
    """`documents()` fails on a server that was not told of json-seq."""
    names = [name for name, _ in catalog(client)[three[0]].documents()]
    assert (names[0], names[-1]) == ("start", "stop")
    assert "event_page" in names or names.count("event") == 2
    assert catalog(client)[three[0]].validate(raise_on_error=True)


def test_derived_runs_have_their_own_catalog(journals: Path, client: Any) -> None:
    uid = record(journals, purpose="analysis", raw_uid="r", time=5e9)
    assert ingest(journals / f"{uid}.jsonl", client) is IngestState.DONE
    assert analysis(client)[-1].metadata["start"]["uid"] == uid
    assert uid not in client["raw"]


def test_containers_are_made_once(client: Any) -> None:
    before = ensure_containers(client)
    again = ensure_containers(client)
    assert [c.item["id"] for c in before] == [c.item["id"] for c in again] == ["raw", "analysis"]
    assert str(again[0].specs[0].version) == "3.0"


def test_no_proxy_is_asked_for_the_server(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # nobody listens there
    assert str(connect(stack.uri, stack.key).context.api_uri).startswith(stack.uri)


@pytest.mark.parametrize(
    ("uri", "expected"), [("http://x", False), ("HTTP://x", False), ("https://x", True)]
)
def test_a_proxy_may_be_used_with_https_alone(uri: str, expected: bool) -> None:
    assert trusts_environment(uri) is expected


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ((None, None), ("http://configured", "own")),
        (("http://other", None), ("http://other", "own")),
        ((None, "other"), ("http://configured", "other")),
    ],
)
def test_the_configuration_has_what_is_not_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: Any, used: tuple[str, str]
) -> None:
    monkeypatch.setattr(client_module, "from_uri", lambda uri, _, *, api_key, **__: (uri, api_key))
    store = {"directory": tmp_path, "tiled_uri": "http://configured", "api_key": "own"}
    assert connect(*given, settings=Settings(store=store)) == used


def test_a_key_that_a_person_has_written_may_end_with_a_line_break(tmp_path: Path) -> None:
    (tmp_path / "tiled").mkdir()
    (tmp_path / "tiled" / "api_key").write_text("abc\n")
    assert embedded_key(tmp_path) == "abc"


@pytest.mark.parametrize("status", [409, 403])
def test_a_container_that_cannot_be_made(status: int) -> None:
    """409: another client was faster."""

    class Root(dict[str, str]):
        def create_container(self, key: str, **_: Any) -> None:
            self[key] = "of another client"
            request, response = httpx.Request("POST", "http://x"), httpx.Response(status)
            raise ClientError("refused", request=request, response=response)

    if status == 409:
        assert ensure_containers(Root()) == ("of another client",) * 2
    else:
        with pytest.raises(ClientError):
            ensure_containers(Root())


def test_connect_needs_a_server_and_its_key(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(store={"directory": tmp_path, "tiled_uri": "http://127.0.0.1:9"})
    with pytest.raises(ConfigError, match="api_key"):
        connect(settings=settings)
    with pytest.raises(ConfigError, match="skywright up"):
        connect("http://127.0.0.1:9", "abc")
    with pytest.raises(ConfigError, match="401"):
        connect(stack.uri, "0" * 64)
    with pytest.raises(ConfigError, match="with the configuration of this store"):
        connect(api_key="abc", settings=Settings(store={"directory": tmp_path}))
    hold_lock(tmp_path / UP_LOCK, "skywright up")
    with pytest.raises(ConfigError, match="starts or stops"):
        connect(api_key="abc", settings=Settings(store={"directory": tmp_path}))
    write_state(tmp_path, State(7, 0.0, "SKY:", tiled_uri="http://127.0.0.1:9", epics={}))
    with pytest.raises(ConfigError, match=r"starts it again; .*tiled\.log"):
        connect(api_key="abc", settings=Settings(store={"directory": tmp_path}))
    write_state(tmp_path, State(7, 0.0, "SKY:", tiled_uri="", epics={}))
    with pytest.raises(ConfigError, match="process 7, was started without tiled"):
        connect(settings=Settings(store={"directory": tmp_path}))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"no tiled server is known: .*Not a directory"):
        connect(api_key="abc", settings=Settings(store={"directory": tmp_path / "file"}))
    connect(stack.uri, stack.key)


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "api_key"), (403, "api_key"), (404, "a tiled server?"), (503, "a tiled server?")],
)
def test_advice_fits_the_answer(monkeypatch: pytest.MonkeyPatch, status: int, advice: str) -> None:
    request = httpx.Request("GET", "http://x")
    error = httpx.HTTPStatusError(
        "no", request=request, response=httpx.Response(status, request=request)
    )
    monkeypatch.setattr(client_module, "from_uri", Mock(side_effect=error))
    with pytest.raises(ConfigError, match=advice):
        connect("http://x", "key")


@pytest.mark.parametrize(
    "error", [httpx.InvalidURL("bad port"), json.JSONDecodeError("no JSON", "<html>", 0)]
)
def test_what_is_no_tiled_server(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(client_module, "from_uri", Mock(side_effect=error))
    with pytest.raises(ConfigError, match=r"store\.tiled_uri"):
        connect("http://x:y", "key")


def test_a_person_is_told_what_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "WAIT_S", 0.05)
    told, messages = threading.Event(), []

    def on_wait(message: str) -> None:
        messages.append(message)
        told.set()

    def answer(request: httpx.Request) -> httpx.Response:
        assert told.wait(10.0), "no message although the server does not answer"
        return httpx.Response(200)

    def connect_slowly(*_: Any, **__: Any) -> Any:
        answer(httpx.Request("GET", "http://x"))
        return Mock(context=Mock(http_client=httpx.Client(transport=httpx.MockTransport(answer))))

    monkeypatch.setattr(client_module, "from_uri", connect_slowly)
    client = connect("http://x", "key", on_wait=on_wait)
    told.clear()
    monkeypatch.setattr(client_module, "WAIT_PERIOD_S", 0.0)
    assert client.context.http_client.get("http://x").status_code == 200
    assert len(messages) == 2
    assert all("waiting for the tiled server at http://x" in message for message in messages)


def test_run_is_seen_while_it_goes_on(stack: Stack, client: Any) -> None:
    """With the ingester: each event, and the first frame, are there in a moment."""
    with stack.ingester():
        recording = Recording(stack.journals).stream("primary", x=scalar("number"))

        def rows() -> list[float]:
            try:
                data = client["raw"][recording.uid]["primary"].read()
            except KeyError:
                return []
            return data["x"].values.tolist() if "x" in data else []

        for n in range(1, 4):
            recording.event(x=float(n))
            until(lambda n=n: rows() == [float(i) for i in range(1, n + 1)], what=f"event {n}")
        assert "stop" not in client["raw"][recording.uid].metadata
        recording.stop()
        stack.done(recording.uid)
        assert "stop" in client["raw"][recording.uid].metadata


GROWN = 15


def test_reading_a_growing_run_never_fails(journals: Path, client: Any) -> None:
    """The catalog's runs are read as far as all their columns go, whatever comes meanwhile."""
    camera = StreamingCamera("cam", journals)
    camera.stage()
    keys = camera.describe() | {"x": {"dtype": "number", "shape": [], "source": "t"}}
    recording = Recording(journals).stream("primary", **keys)
    done = threading.Event()

    def produce() -> None:
        run = RunIngest(recording.path, CatalogServer(client))
        for n in range(1, GROWN + 1):
            camera.trigger()
            recording.collect(camera, n)
            recording.event(x=float(n))
            run.step()
        done.set()

    threading.Thread(target=produce, daemon=True).start()
    lengths = []
    until(lambda: recording.uid in client["raw"], what="the run")
    while not done.is_set() or not lengths:
        streams = catalog(client)[recording.uid]
        if "primary" in streams:
            data = streams["primary"].read()
            if "cam_frame_number" in data and "x" in data:
                assert data["cam_frame_number"].values.tolist() == data["x"].values.tolist()
                lengths.append(len(data["x"]))
    camera.unstage()
    assert sorted(lengths) == lengths
    recording.stop()


def test_retries_are_short_even_when_tiled_was_imported_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiled_utils, "TILED_RETRY_ATTEMPTS", 10)
    monkeypatch.setattr(tiled_utils, "TILED_RETRY_TIMEOUT", 45.0)
    importlib.reload(client_module)
    assert (tiled_utils.TILED_RETRY_ATTEMPTS, tiled_utils.TILED_RETRY_TIMEOUT) == (2, 2.0)
