"""The ingest of one journal: live, after a restart, after a lost reply."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import httpx
import pytest
from store.recording import Recording, append_again, array, record, rows_of, scalar
from store.stack import Stack

from skywright.store import ingest as ingest_module
from skywright.store import line_writer, run_nodes
from skywright.store import tail as tail_module
from skywright.store.client import connect
from skywright.store.ingest import IngestState, RunIngest, ServerUnavailableError, ingest
from skywright.store.run_nodes import CatalogServer


def test_same_journal_twice_gives_the_same_run(store: Path, client: Any) -> None:
    path = record(store).stop()
    copy = path.read_bytes()
    assert ingest(path, client) is IngestState.DONE
    node = client["raw"][path.stem].item
    for _ in range(2):
        path.write_bytes(copy)
        assert ingest(path, client) is IngestState.DONE
        assert rows_of(client, path.stem) == [1.0, 2.0, 3.0]
    assert client["raw"][path.stem].item == node  # not even touched


def test_a_part_of_a_journal_that_writes_nothing_is_not_its_end(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Datums that no event names yet are such a part."""
    recording = record(store)
    resource = {"uid": "r", "run_start": recording.uid, "spec": "AD_HDF5", "root": "/"}
    path = {"resource_path": "f.h5", "path_semantics": "posix", "resource_kwargs": {}}
    recording.journal("resource", resource | path)
    for number in range(100):
        datum = {"resource": "r", "datum_id": f"r/{number}", "datum_kwargs": {}}
        recording.journal("datum", datum)
    recording.event(x=4.0)
    path = recording.stop()
    monkeypatch.setattr(tail_module, "CHUNK_BYTES", 1000)
    run = RunIngest(path, CatalogServer(client))
    run.step()
    assert run.contents.stop is not None  # before the first line is written, all are read
    while run.step() is IngestState.MORE:
        pass
    assert not path.exists()
    assert rows_of(client, recording.uid) == [1.0, 2.0, 3.0, 4.0]


def test_half_written_run_is_written_again_into_the_same_node(store: Path, client: Any) -> None:
    """Whatever another ingester left behind: a full write meets HTTP 409 and goes on."""
    recording = record(store)
    assert ingest(recording.path, client) is IngestState.IDLE
    created = client["raw"][recording.uid].item["links"]["self"]
    recording.event(x=4.0)
    path = recording.stop()
    table = client["raw"][recording.uid].base["primary"].base["internal"]
    append_again(table, 2)
    assert ingest(path, client) is IngestState.DONE
    assert rows_of(client, recording.uid) == [1.0, 2.0, 3.0, 4.0]
    assert client["raw"][recording.uid].item["links"]["self"] == created
    assert "duplicated" not in str(client["raw"][recording.uid].metadata.get("notes"))


def test_lost_reply_after_an_append_does_not_double_rows(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server takes the rows, its answer is lost: a full write, and no row appended twice."""
    recording = record(store)
    run = RunIngest(recording.path, CatalogServer(client))
    assert run.step() is IngestState.MORE
    real = CatalogServer.post
    lost = []

    def losing(*args: Any) -> Any:
        answer = real(*args)
        if not lost:
            lost.append(True)
            raise httpx.ReadError("the answer is lost")
        return answer

    monkeypatch.setattr(CatalogServer, "post", losing)
    recording.event(x=4.0)
    with pytest.raises(ServerUnavailableError):
        run.step()
    assert rows_of(client, recording.uid) == [1.0, 2.0, 3.0, 4.0]  # the server has taken them
    run.step()
    assert rows_of(client, recording.uid) == [1.0, 2.0, 3.0, 4.0]
    recording.stop()
    while run.step() is not IngestState.DONE:
        pass
    assert rows_of(client, recording.uid) == [1.0, 2.0, 3.0, 4.0]


def test_a_type_that_widens_in_mid_run_is_written_again(store: Path, client: Any) -> None:
    recording = Recording(store / "journal")
    recording.stream("primary", x=scalar("integer"), a=array([2]))
    run = RunIngest(recording.path, CatalogServer(client))
    for x, a in ((1, [1, 2]), (2, [3, 4])):
        recording.event(x=x, a=a)
        run.step()
    recording.event(x=2.5, a=[1, 2, 3])
    recording.event(x=None, a=[0.5])
    run._full_write_allowed_at = 0.0
    run.step()
    data = client["raw"][recording.uid]["primary"].read()
    assert data["x"].values[:3].tolist() == [1.0, 2.0, 2.5]
    assert data["a"].shape == (4, 3)
    recording.stop()
    while run.step() is not IngestState.DONE:
        pass
    notes = client["raw"][recording.uid].metadata["notes"]
    assert "primary/x: declared integer, stored as number, because of its values" in notes


def test_a_full_write_ends_while_each_event_changes_the_rows(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An array that grows by one element with each event."""
    monkeypatch.setattr(ingest_module, "FULL_WRITE_PAUSE_FACTOR", 0)
    recording = Recording(store / "journal")
    recording.stream("primary", a=array([2]), text=scalar("string"))
    run = RunIngest(recording.path, CatalogServer(client))
    text = "x" * 500_000  # a full write takes several steps
    for length in range(2, 12):
        recording.event(a=list(range(length)), text=text)
    rows = []
    for length in range(12, 32):
        recording.event(a=list(range(length)), text="y")
        before = run._full_write
        run.step()
        if before is not None and run._full_write is None:  # a full write has ended
            rows.append(client["raw"][recording.uid]["primary"].read()["a"].shape[0])
    assert len(rows) > 1
    assert min(rows) > 10
    recording.stop()
    while run.step() is not IngestState.DONE:
        pass


def test_server_away_keeps_the_place(store: Path, client: Any, stack: Stack) -> None:
    """Steps fail while nobody answers; the first one after that catches up."""
    recording = record(store)
    fragile = connect(stack.uri, stack.key)
    run = RunIngest(recording.path, CatalogServer(fragile))
    run.step()
    real = fragile.context.http_client.send

    def refuse(request: httpx.Request, **_: Any) -> httpx.Response:
        raise httpx.ConnectError("nobody there", request=request)

    fragile.context.http_client.send = refuse
    recording.event(x=4.0)
    for _ in range(2):
        run._full_write_allowed_at = 0.0
        with pytest.raises(ServerUnavailableError):
            run.step()
    fragile.context.http_client.send = real
    recording.stop()
    while run.step() is not IngestState.DONE:
        pass
    assert rows_of(client, recording.uid) == [1.0, 2.0, 3.0, 4.0]


def test_a_run_that_differs_from_its_journal_is_written_again_before_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is verified because it was in the catalog already; it has ended, so it does not wait."""
    found = [["primary: 2 rows, 3 events"], ["primary: 2 rows, 3 events"], []]
    monkeypatch.setattr(ingest_module, "differences", lambda *_: found.pop(0))
    path = record(tmp_path).stop()
    container = {path.stem: MagicMock()}
    catalog = SimpleNamespace(
        container_of=lambda _: container, post=lambda *_: {"refused": []}, tables=True
    )
    run = RunIngest(path, cast("Any", catalog))
    run._has_node = True
    run._full_write_allowed_at = math.inf
    states = []
    while path.exists():
        states.append(run.step())
        assert states[-1] is not IngestState.IDLE
    assert found == []
    assert states[-1] is IngestState.DONE


def test_failures_of_a_run_count_until_something_is_written(tmp_path: Path) -> None:
    """What fails may be beyond what a full write writes again."""
    recording = record(tmp_path)
    run = RunIngest(recording.path, cast("Any", None))
    due: list[bool] = []
    writer = SimpleNamespace(needs_full_write=bool, is_due=lambda: bool(due), write=lambda _: None)
    run._line_writer = cast("Any", writer)
    run._read_new_lines()
    run._failures = 2
    assert (run.step(), run._failures) == (IngestState.IDLE, 2)
    due.append(True)
    assert (run.step(), run._failures) == (IngestState.IDLE, 0)


def test_rows_of_a_step_that_a_full_disk_ended_are_written_without_a_further_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next event may come much later."""
    monkeypatch.setattr(line_writer, "UPDATE_S", (0.0, 0.0))
    sent: list[Any] = []

    def post(_container: Any, _route: str, body: dict[str, Any]) -> dict[str, Any]:
        sent.extend(body["rows"])
        return {"refused": []}

    def register_files(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    recording = record(tmp_path)
    catalog = SimpleNamespace(container_of=lambda _: None, post=post, tables=True)
    run = RunIngest(recording.path, cast("Any", catalog))
    while run.step() is not IngestState.IDLE:
        pass
    recording.event(x=4.0)
    with monkeypatch.context() as patch:
        patch.setattr(line_writer.LineWriter, "_register_files", register_files)
        with pytest.raises(OSError, match="No space left"):
            run.step()
    assert not sent
    run.step()
    assert len(sent) == 1


def test_arrays_of_a_run_that_says_no_more_are_up_to_date(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long wait follows the last event: its array is sent when the period is over."""
    monkeypatch.setattr(line_writer, "UPDATE_S", (3600.0, 3600.0))
    recording = Recording(store / "journal").stream("primary", a=array([2]))
    run = RunIngest(recording.path, CatalogServer(client))
    for n in range(3):  # the first one is sent at once
        recording.event(a=[n, n])
        run.step()
    assert client["raw"][recording.uid]["primary"].base["a"].shape == (1, 2)
    monkeypatch.setattr(line_writer, "UPDATE_S", (0.0, 0.0))
    run.step()
    assert client["raw"][recording.uid]["primary"].base["a"].shape == (3, 2)
    assert ingest(recording.stop(), client) is IngestState.DONE


def test_types_are_those_of_the_events_whatever_comes_first(store: Path, client: Any) -> None:
    """A camera's stream datum is read before the event that it belongs to."""
    recording = Recording(store / "journal")
    image = {"shape": [1, 4], "dtype": "array", "dtype_numpy": "|u1", "external": "STREAM:"}
    recording.stream("primary", image=image, a=array([2]))
    mimetype = "application/x-nobody-knows"
    recording.file("image", "file://localhost/no", (0, 1, 1), mimetype=mimetype)
    run = RunIngest(recording.path, CatalogServer(client))
    run.step()
    recording.event(a=[1, 2])
    recording.stop()
    while run.step() is not IngestState.DONE:
        pass
    stored = client["raw"][recording.uid]["primary"].metadata["data_keys"]["a"]
    assert stored["dtype_numpy"] == "<i8"


@pytest.mark.parametrize("routes", [True, False])
def test_a_container_that_somebody_has_deleted_is_made_again(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch, routes: bool
) -> None:
    name = store.name
    monkeypatch.setattr(run_nodes, "container_name", lambda _: name)
    server = CatalogServer(client)
    server.routes = routes
    recording = record(store)
    run = RunIngest(recording.path, server)
    run.step()
    client.delete_contents(name, recursive=True, external_only=False)
    recording.event(x=4.0)
    recording.stop()
    while (state := run.step()) is IngestState.MORE:
        pass
    assert state is IngestState.DONE
    table = client[name][recording.uid].base["primary"].base["internal"].read()
    assert list(table["x"]) == [1.0, 2.0, 3.0, 4.0]
    client.delete_contents(name, recursive=True, external_only=False)
