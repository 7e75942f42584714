"""The embedded server: its key, its web page, what it serves, and how it ends."""

import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import zarr
from store.recording import Recording, array, scalar
from store.stack import Child, Stack
from support import forked
from support.limits import full_disk
from support.streaming import StreamingCamera, noise
from support.waiting import until
from tiled.client.utils import TiledResponse
from tiled.storage import SQLStorage

from skywright.errors import ConfigError, DataError
from skywright.store.client import connect
from skywright.store.ingest import IngestState, RunIngest, ingest
from skywright.store.probe import check_readable, takes_writes
from skywright.store.run_nodes import CatalogServer
from skywright.store.table_pool import separate_connections

READERS = 6
STEPS = 30


def test_key_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    from skywright.store.server import read_or_make_api_key

    key = read_or_make_api_key(tmp_path)
    path = tmp_path / "tiled" / "api_key"
    assert key.isalnum()
    assert len(key) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_or_make_api_key(tmp_path) == key
    path.write_text("with-a-dash")
    with pytest.raises(ConfigError, match="letters and digits"):
        read_or_make_api_key(tmp_path)


def test_nobody_reads_without_the_key(stack: Stack) -> None:
    assert httpx.get(f"{stack.uri}/api/v1/metadata/").status_code == 401
    headers = {"Authorization": f"Apikey {stack.key}"}
    assert httpx.get(f"{stack.uri}/api/v1/metadata/", headers=headers).status_code == 200
    assert httpx.get(f"{stack.uri}/healthz").json() == {"status": "ready"}


def fly(journals: Path, frames: int) -> tuple[Recording, StreamingCamera]:
    camera = StreamingCamera("cam", journals)
    camera.stage()
    recording = Recording(journals).stream("primary", **camera.describe())
    for n in range(frames):
        camera.trigger()
        recording.collect(camera, n + 1)
    return recording, camera


def test_web_page_shows_the_run_and_its_picture(
    journals: Path, client: Any, stack: Stack, chromium: Path
) -> None:
    """A real browser, nothing from the network: the run's streams, then a frame as an image."""
    recording, camera = fly(journals, 2)
    camera.unstage()
    assert ingest(recording.stop(), client) is IngestState.DONE
    run = f"{stack.uri}/ui/browse/raw/{recording.uid}"
    assert "primary" in page_of(chromium, f"{run}?api_key={stack.key}")
    picture = page_of(chromium, f"{run}/primary/cam_image?api_key={stack.key}")
    assert "planar cut" in picture
    assert "Data rendered" in picture  # the label of its canvas


def page_of(chromium: Path, address: str) -> str:
    command = [str(chromium), "--headless", "--no-sandbox", "--disable-gpu"]
    command += ["--virtual-time-budget=8000", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=True)
    return done.stdout


def test_pictures_come_while_the_file_is_written_and_after(journals: Path, client: Any) -> None:
    recording, camera = fly(journals, 3)
    assert ingest(recording.path, client) is IngestState.IDLE
    picture = client["raw"][recording.uid]["primary/cam_image"]
    assert picture.shape == (3, 48, 64)
    np.testing.assert_array_equal(picture[1, 10:20, ::1], noise(2)[10:20])
    camera.unstage()
    assert ingest(recording.stop(), client) is IngestState.DONE
    np.testing.assert_array_equal(picture[2], noise(3))


def test_picture_of_the_web_page(journals: Path, client: Any, stack: Stack) -> None:
    """What tiled's page asks for: one frame as PNG."""
    recording, camera = fly(journals, 2)
    camera.unstage()
    assert ingest(recording.stop(), client) is IngestState.DONE
    path = f"/api/v1/array/full/raw/{recording.uid}/primary/cam_image"
    headers = {"Authorization": f"Apikey {stack.key}", "Accept": "image/png"}
    answer = httpx.get(stack.uri + path, params={"slice": "1,:,:"}, headers=headers)
    assert answer.status_code == 200
    assert answer.content.startswith(b"\x89PNG")


def test_raw_files_are_not_given_away(journals: Path, client: Any, stack: Stack) -> None:
    recording, camera = fly(journals, 1)
    camera.unstage()
    ingest(recording.stop(), client)
    image = client["raw"].include_data_sources()[recording.uid].base["primary"].base["cam_image"]
    (asset,) = image.data_sources()[0].assets
    path = f"/api/v1/asset/bytes/raw/{recording.uid}/primary/cam_image?id={asset.id}"
    answer = httpx.get(stack.uri + path, headers={"Authorization": f"Apikey {stack.key}"})
    assert answer.status_code in (403, 404)


def test_directory_that_is_not_served_is_found_at_start(stack: Stack, tmp_path: Path) -> None:
    """tiled registers a file outside its readable storage, and each read of it fails."""
    check_readable(stack.uri, stack.key, [stack.directory / "assets"])
    with pytest.raises(ConfigError, match=r"store\.readable"):
        check_readable(stack.uri, stack.key, [tmp_path])
    assert list(tmp_path.iterdir()) == []
    assert not [key for key in connect(stack.uri, stack.key) if "probe" in key]


def test_a_full_disk_of_a_readable_directory_does_not_stop_the_start(
    stack: Stack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with full_disk():
        check_readable(stack.uri, stack.key, [tmp_path])
    assert list(tmp_path.iterdir()) == []
    assert "not checked" in caplog.text


KILLED = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA journal_mode=DELETE")
database.execute("PRAGMA cache_size=1")  # pages go to the file before the end
database.execute("BEGIN")
database.execute("CREATE TABLE half (x)")
database.executemany("INSERT INTO half VALUES (?)", [("x" * 4000,)] * 200)
os._exit(9)
"""


def test_catalog_of_a_server_that_was_killed_while_it_wrote(tmp_path: Path) -> None:
    """SQLite cannot even read it before somebody who may write has undone the half of it."""
    from skywright.store.server import make_catalog

    make_catalog(tmp_path)
    path = tmp_path / "tiled" / "catalog.db"
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert path.with_name("catalog.db-journal").exists()
    make_catalog(tmp_path)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
        assert database.execute("SELECT name FROM sqlite_master WHERE name='half'").fetchall() == []


def test_catalog_of_a_server_that_was_killed_before_it_wrote_the_version(tmp_path: Path) -> None:
    from skywright.store.server import make_catalog

    make_catalog(tmp_path)
    with closing(sqlite3.connect(tmp_path / "tiled" / "catalog.db")) as database:
        database.execute("DELETE FROM alembic_version")
        database.commit()
        make_catalog(tmp_path)
        assert database.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)


def test_a_file_that_is_no_catalog_is_said(tmp_path: Path) -> None:
    from skywright.store.server import make_catalog

    (tmp_path / "tiled").mkdir()
    (tmp_path / "tiled" / "catalog.db").write_text("this is a note of mine\n" * 50)
    with pytest.raises(DataError, match=r"catalog\.db: file is not a database"):
        make_catalog(tmp_path)


def test_an_array_that_the_catalog_does_not_have_is_replaced(
    journals: Path, client: Any, stack: Stack
) -> None:
    """A server leaves one if it is killed, or its disk is full, before the catalog has its node.

    When this fails, tiled may have changed: see `tiled_zarr.create_array` in store/server.py.
    """
    recording = Recording(journals).stream("primary", a=array([3]))
    recording.events({"a": [n, n + 1, n + 2]} for n in range(4))
    left = stack.directory / "tiled" / "data" / "raw" / recording.uid / "primary" / "a"
    zarr.create_array(left, shape=(9, 2), chunks=(1, 2), dtype="u1")[:] = 7
    assert ingest(recording.stop(), client) is IngestState.DONE
    values = client["raw"][recording.uid]["primary"].read()["a"].values
    assert values.tolist() == [[n, n + 1, n + 2] for n in range(4)]


def test_further_directories_are_readable(tmp_path: Path) -> None:
    from skywright.store.server import tiled_config

    other = tmp_path / "ioc data"
    other.mkdir()
    tree = tiled_config(tmp_path / "store", [other])["trees"][0]["args"]
    assert tree["readable_storage"] == [str(tmp_path / "store" / "assets"), str(other)]


def test_a_directory_is_readable_by_its_link_and_by_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skywright.store.server import with_targets

    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    assert with_targets([tmp_path / "link"]) == [tmp_path / "link", tmp_path / "disk"]
    assert with_targets([tmp_path / "disk"]) == [tmp_path / "disk"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert with_targets([Path("~/disk")]) == [tmp_path / "disk"]


def test_writes_are_taken(client: Any) -> None:
    assert takes_writes(client)


@pytest.mark.parametrize("headers", [{"Content-Type": "text/html"}, {}])
def test_a_page_of_a_proxy_is_no_answer_of_the_server(
    client: Any, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    """The proxy answers each request with this page and the status 200."""

    def page(*_: Any, **__: Any) -> httpx.Response:
        request = httpx.Request("POST", client.uri)
        return TiledResponse(200, headers=headers, content=b"<html></html>", request=request)

    monkeypatch.setattr(client.context.http_client, "post", page)
    assert not takes_writes(client)


def test_a_key_that_may_not_delete_is_enough(
    client: Any, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any, url: str, **__: Any) -> httpx.Response:
        return TiledResponse(403, json={"detail": "no"}, request=httpx.Request("DELETE", url))

    before = set(client)
    with monkeypatch.context() as patch:
        patch.setattr(httpx.Client, "delete", refuse)
        assert takes_writes(client)
        assert takes_writes(client)  # in the node that the first probe has left
        check_readable(stack.uri, stack.key, [stack.directory / "assets"])
    left = set(client) - before
    assert len(left) == 2
    client.delete_contents(left, recursive=True, external_only=False)


def test_a_probe_that_fails_leaves_nothing() -> None:
    nodes: list[str] = []

    def refuse(*_: Any, **__: Any) -> None:
        raise httpx.ReadTimeout("disk full")

    root = SimpleNamespace(
        create_container=lambda key: (
            nodes.append(key) or SimpleNamespace(create_appendable_table=refuse)
        ),
        delete_contents=lambda key, **_: nodes.remove(key),
    )
    assert not takes_writes(root)
    assert nodes == []


def test_bad_directory_stops_the_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "skywright.store.server", "--directory", str(tmp_path)]
    command += ["--readable", str(tmp_path / "nowhere")]
    done = forked.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "nowhere" in done.stderr


def has_ipv6_loopback() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6_loopback(), reason="this machine has no address ::1")
def test_it_serves_an_ipv6_address(tmp_path: Path) -> None:
    options = ("--directory", str(tmp_path), "--host", "::1", "--port", "0")
    server = Child("-m", "skywright.store.server", *options)
    try:
        uri = server.ready["uri"]
        assert uri.startswith("http://[::1]:")
        assert takes_writes(connect(uri, (tmp_path / "tiled" / "api_key").read_text()))
    finally:
        server.stop()


@pytest.mark.parametrize("name", ["_adbc_connection", "_connection_pool"])
def test_private_names_of_the_storage_are_still_there(name: str) -> None:
    """When this fails, tiled has changed; look at store/table_pool.py."""
    assert name in vars(SQLStorage)


def test_only_tables_in_duckdb_get_a_pool(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="FileStorage; expected one in DuckDB"):
        separate_connections(str(tmp_path))


def test_many_read_a_table_while_it_grows(journals: Path, client: Any) -> None:
    """tiled's own connections would break here: table_pool.py says why."""
    recording = Recording(journals).stream("primary", x=scalar("number"))
    recording.event(x=0.0)
    follower = RunIngest(recording.path, CatalogServer(client))
    follower.step()
    table = client["raw"][recording.uid].base["primary"].base["internal"]
    written = threading.Event()

    def read() -> int:
        seen = [1]
        while not written.is_set():
            x = table.read()["x"].tolist()
            assert x == list(range(len(x)))
            seen.append(len(x))
        assert sorted(seen) == seen
        return seen[-1]

    with ThreadPoolExecutor(READERS) as pool:
        readers = [pool.submit(read) for _ in range(READERS)]
        try:
            for n in range(1, STEPS):
                recording.event(x=float(n))
                follower.step()
        finally:
            written.set()
        assert all(reader.result() > 1 for reader in readers)
    assert len(table.read()) == STEPS
    recording.stop()


def test_subscribers_get_each_event(journals: Path, client: Any) -> None:
    recording = Recording(journals).stream("primary", x=scalar("number"))
    recording.event(x=0.0)
    assert ingest(recording.path, client) is IngestState.IDLE
    follower = RunIngest(recording.path, CatalogServer(client))
    follower.step()  # a full write: the table that a reader may subscribe to is there
    table = client["raw"][recording.uid].base["primary"].base["internal"]
    got: list[float] = []

    def seen(update: Any) -> None:
        got.extend(update.data()["x"])

    subscription = table.subscribe()
    subscription.new_data.add_callback(seen)
    subscription.start_in_thread(0)
    for n in range(1, 5):
        recording.event(x=float(n))
        follower.step()
    until(lambda: got[-4:] == [1.0, 2.0, 3.0, 4.0], what="four updates")
    subscription.disconnect()
    recording.stop()
