"""`skywright loop dhs` as a process: flags, the old configuration file, a run in the store."""

import http.client
import http.server
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.dcss import Dcss
from support.derived import read_runs
from support.dhs import OPERATIONS
from support.loop_pictures import Drawn, turned
from support.stack import COMMAND, run

PICTURE = Drawn().jpeg()


@contextmanager
def dhs(*args: str, **environment: str) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    """Run the command until the block ends; yields the process and what its ready line says."""
    process = subprocess.Popen(
        [*COMMAND, "loop", "dhs", *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment, "SKYWRIGHT_SUPERVISED": "1"},
    )
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["ready"]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=20)
        assert process.stdin is not None
        process.stdin.close()
        process.stdout.close()
    assert status == 0


@pytest.fixture
def camera() -> Iterator[int]:
    """Port of a video server that gives one picture, of camera 2 only."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = self.path == "/axis-cgi/jpg/image.cgi?camera=2"
            self.send_response(200 if good else 404)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(PICTURE) if good else 0))
            self.end_headers()
            self.wfile.write(PICTURE if good else b"")

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Environment of a process that finds no store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SKYWRIGHT_CONFIG", raising=False)
    return {"HOME": str(tmp_path)}


def push(port: int, *files: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for file in files:
        connection.request("POST", "/", file, {"Content-Type": "image/jpeg"})
        assert connection.getresponse().read() == b""
    connection.close()


def test_the_old_configuration_file_is_enough(
    camera: int, elsewhere: dict[str, str], tmp_path: Path
) -> None:
    hub = Dcss()
    config = tmp_path / "BL-831.config"
    config.write_text(
        f"dcss:\n    host: localhost\n    port: {hub.port}\n"
        "loopdhs:\n"
        f"    axis:\n        host: localhost\n        port: {camera}\n        camera: 2\n"
        "    jpeg_receiver:\n        port: 0\n"
        "    save_image_files: True\n    debug_dir: RESULTS\n    log_dir: logs\n"
        "    osci_delta: 180.0\n    osci_time: 1.0\n    video_fps: 3.0\n"
    )
    with dhs("--config", str(config), **elsewhere) as (_, ready):
        assert (ready["name"], ready["recorded"]) == ("loopDHS", False)
        with hub.connected(*OPERATIONS) as link:
            assert link.run("initializeCamera", "1.1", "cam") == "normal cam 704 480 3"
            status, x, *_ = link.run("getLoopTip", "1.2").split()
            assert status == "normal"
            assert float(x) == pytest.approx(Drawn().tip / 704, abs=1.0 / 704)
            link.start("collectLoopImages", "1.3")
            link.until(lambda: link.updates("1.3"))
            push(ready["receiver_port"], *[turned(60.0 * i).jpeg() for i in range(3)])
            link.start("stopCollectLoopImages", "1.4")
            assert link.reply("1.3") == "normal done"
            assert [row[0] for row in link.rows("1.3").values()] == ["normal"] * 3
            assert "3 expected, 3 received" in link.notes()[-1]
    saved = tmp_path / "RESULTS" / "collectLoopImages1_3"
    assert len(list(saved.glob("*.jpeg"))) == len(list(saved.glob("bboxes/*.jpeg"))) == 3
    hub.close()


def test_flags_go_before_the_file_and_series_become_runs(
    camera: int, elsewhere: dict[str, str], tmp_path: Path
) -> None:
    hub = Dcss()
    config = tmp_path / "old.yaml"
    config.write_text("dcss: {host: nowhere.invalid}\nloopdhs: {axis: {host: nowhere.invalid}}\n")
    flags = ("--config", str(config), "--dcss", f"127.0.0.1:{hub.port}", "--name", "loop2")
    url = f"http://127.0.0.1:{camera}/axis-cgi/jpg/image.cgi?camera=2"
    more = ("--receiver-port", "0", "--snapshot-url", url)
    store = tmp_path / "store"
    with (
        dhs(*flags, *more, SKYWRIGHT_STORE__DIRECTORY=str(store), **elsewhere) as (process, ready),
        hub.connected(*OPERATIONS, name="loop2") as link,
    ):
        assert ready["recorded"] is True
        assert link.run("getLoopInfo", "1.1").startswith("normal ")
        link.start("collectLoopImages", "1.2")
        link.until(lambda: link.updates("1.2"))
        push(ready["receiver_port"], PICTURE)
        link.until(lambda: link.rows("1.2"))
        process.send_signal(signal.SIGTERM)  # in the middle of a series
        assert link.reply("1.2") == "aborted"
        link.wait_closed()
    raw, derived = sorted(read_runs(store / "journal"), key=lambda each: "raw_uid" in each.start)
    assert (raw.start["plan_name"], raw.start["dhs"]) == ("collectLoopImages", "loop2")
    assert derived.start["raw_uid"] == raw.start["uid"]
    assert [each.stop["exit_status"] for each in (raw, derived) if each.stop] == ["abort"] * 2
    hub.close()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "--dcss HOST:PORT"),
        (("--dcss", "host:port"), "--dcss host:port: expected HOST:PORT"),
        (("--config", "none.yaml"), "none.yaml: No such file"),
        (("--config", "bad.yaml"), "bad.yaml: not YAML"),
        (("--config", "wrong.yaml"), "wrong.yaml: jpeg_receiver.port"),
        (("--dcss", "a:1", "--snapshot-url", "camera7"), "camera7: expected http://"),
    ],
)
def test_bad_use_is_said_in_one_line(
    args: tuple[str, ...], said: str, elsewhere: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "bad.yaml").write_text("dcss: [")
    (tmp_path / "wrong.yaml").write_text("loopdhs: {jpeg_receiver: {port: 99999}}")
    done = run("loop", "dhs", "--receiver-port", "0", *args, **elsewhere)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
