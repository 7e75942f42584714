"""`skywright loop dhs` as a process: flags, the old configuration file, a run in the store."""

import http.client
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import forked
from support.dcss import Dcss
from support.derived import read_runs
from support.dhs import OPERATIONS
from support.loop_pictures import Drawn, turned
from support.stack import COMMAND, run
from support.waiting import until
from typer.testing import CliRunner

from skywright.cli import app
from skywright.config import Settings
from skywright.errors import ConfigError
from skywright.instruments.loop.cli.dhs import Options
from skywright.instruments.loop.cli.dhs import _address as dcss_address
from skywright.instruments.loop.cli.dhs import _parameters as detector_parameters
from skywright.instruments.loop.dhs.config import DhsConfig, read_config

PICTURE = Drawn().jpeg()


@contextmanager
def dhs(*args: str, **environment: str) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    """Run the command until the block ends; yields the process and what its ready line says."""
    with started((*COMMAND, "loop", "dhs", *args), environment) as running:
        yield running


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    """Run a DHS until the block ends; yields the process and what its ready line says."""
    process = forked.start(
        command,
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
        status = process.wait(timeout=90)
        assert process.stdin is not None
        process.stdin.close()
        process.stdout.close()
    assert status == 0


@pytest.fixture
def camera() -> Iterator[int]:
    """Port of a video server that gives one picture, of the cameras 2 and quad only."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = self.path.endswith(("image.cgi?camera=2", "image.cgi?camera=quad"))
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
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
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
        "    automl: {host: localhost, port: 1, threshold: 0.1, scan_n_results: 5}\n"
        "    osci_delta: 180.0\n    osci_time: 1.0\n    video_fps: 3.0\n"
    )
    options = ("--config", str(config), "--status-port", "0")
    with dhs(*options, **elsewhere) as (_, ready):
        assert (ready["name"], ready["recorded"]) == ("loopDHS", False)
        with hub.connected(*OPERATIONS) as link:
            assert link.run("initializeCamera", "1.1", "cam") == "normal cam 704 480 3"
            status, x, *_ = link.run("getLoopTip", "1.2").split()
            assert status == "normal"
            assert float(x) == pytest.approx(Drawn().tip / 704, abs=3.0 / 704)
            link.start("collectLoopImages", "1.3")
            link.until(lambda: link.updates("1.3"))
            push(ready["receiver_port"], *[turned(60.0 * i).jpeg() for i in range(3)])
            link.start("stopCollectLoopImages", "1.4")
            assert link.reply("1.3") == "normal done"
            assert [row[0] for row in link.rows("1.3").values()] == ["normal"] * 3
            assert "3 expected, 3 received" in link.notes()[-1]
            # The service of the file does not exist: DCSS hears of it when it has connected.
            assert "automl: http://localhost:1" in link.notes()[0]
            until(lambda: list(tmp_path.glob("RESULTS/*/*/loop_info.csv")))  # the last file
            url = f"http://127.0.0.1:{ready['status_port']}"
            health = httpx.get(f"{url}/health", timeout=90)
            assert health.status_code == 503
            state = health.json()
            assert "automl: http://localhost:1" in state["status"]
            assert state["registered"]
            assert state["series"] == {
                "key": "collectLoopImages:1.3",
                "running": False,
                "expected": 3,
                "received": 3,
                "analysed": 3,
                "failed": 0,
                "skipped": 0,
                "undecodable": 0,
                "doubled": 0,
            }
            metrics = httpx.get(f"{url}/metrics", timeout=90).text
            assert 'skywright_dhs_operations_total{end="normal"} 4.0' in metrics
            assert 'skywright_dhs_series_pictures{fate="received"} 3.0' in metrics
        hub.close()
        hung_up = "DCSS is not connected, or has registered no operation"
        until(lambda: httpx.get(f"{url}/health", timeout=90).json()["status"] == hung_up, 20)
    (started,) = (tmp_path / "RESULTS").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-\d{6}", started.name)
    saved = started / "collectLoopImages1_3"
    assert "automl: http://localhost:1" in (tmp_path / "logs" / "loopDHS.log").read_text()
    assert len(list(saved.glob("*.jpeg"))) == len(list(saved.glob("bboxes/*.jpeg"))) == 3
    assert {path.name for path in saved.glob("*.*g")} | {"loop_info.csv"} >= {
        "pandas_plot.png",
        "plot_loop_widths.png",
    }
    assert len((saved / "loop_info.csv").read_text().splitlines()) == 4


def test_the_old_command_with_a_camera_named_by_text_ends_a_series_by_count(
    camera: int, elsewhere: dict[str, str], tmp_path: Path
) -> None:
    hub = Dcss()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "BL-831.config").write_text(
        f"dcss: {{host: localhost, port: {hub.port}}}\n"
        "loopdhs:\n"
        f"    axis: {{host: localhost, port: {camera}, camera: quad}}\n"
        "    jpeg_receiver: {port: 0}\n    log_dir: logs\n"
        "    osci_time: 1.0\n    video_fps: 3.0\n    end_by_count: true\n"
    )
    old = (sys.executable, "-m", "skywright.instruments.loop.cli.loop_dhs")
    with (
        started((*old, "BL-831", "loop7", "-vvv"), elsewhere) as (_, ready),
        hub.connected(*OPERATIONS, name="loop7") as link,
    ):
        assert link.run("initializeCamera", "1.1", "cam") == "normal cam 704 480 3"
        link.start("collectLoopImages", "1.2")
        link.until(lambda: link.updates("1.2"))
        push(ready["receiver_port"], *[turned(60.0 * i).jpeg() for i in range(4)])
        assert link.reply("1.2") == "normal done"
        assert len(link.rows("1.2")) == 3
    hub.close()
    logged = (tmp_path / "logs" / "loop7.log").read_text()
    for line in (
        "name in DCSS: loop7",
        f"DCSS: localhost:{hub.port}",
        "configuration file: config/BL-831.config",
        f"uploads are taken at: 0.0.0.0:{ready['receiver_port']}",
        f"single pictures: http://localhost:{camera}/axis-cgi/jpg/image.cgi?camera=quad",
        "detector: backend network",
        "pictures are saved in: no directory",
        "log file: logs/loop7.log",
        f"/health and /metrics: http://0.0.0.0:{ready['status_port']}",
        "series become runs: no, no store is configured",
    ):
        assert f"INFO skywright.instruments.loop.cli.dhs: {line}\n" in logged


def test_the_old_command_names_the_file_that_it_misses(
    elsewhere: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "skywright.instruments.loop.cli.loop_dhs", "BL-0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("loopDHS: config/BL-0.config: no such file")


def test_keys_without_effect_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "BL-1.config"
    file.write_text(
        "dcss: {host: a, prot: 1}\nloopdhs: {osci_dleta: 90, colour: red, axis: {host: b}}\n"
    )
    config = read_config(file)
    assert (config.osci_delta, config.axis and config.axis.port) == (180.0, 80)
    assert {record.message.removeprefix(f"{file}: ") for record in caplog.records} == {
        "osci_dleta: unknown key, ignored; did you mean osci_delta?",
        "colour: unknown key, ignored",
        "dcss.prot: unknown key, ignored; did you mean port?",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("loopdhs: {osci_time: .inf}", "osci_time: Input should be a finite number"),
        ("loopdhs: {osci_delta: .nan}", "osci_delta: Input should be a finite number"),
        (
            "loopdhs: {axis: {host: a, camera: [1, 2]}}",
            "axis.camera: Input should be a valid string",
        ),
        ("loopdhs: {axis: [a, 80]}", "axis: expected keys and values (got ['a', 80])"),
        ("loopdhs: [a]", "loopdhs: expected keys and values"),
        ("- a", "expected keys and values (got ['a'])"),
        ("dcss: {port: 1}", "dcss.host: is missing"),
        ("dcss: {host: }", "dcss.host: is missing"),
        ('dcss: {host: ""}', "dcss.host: expected the name or address of a machine"),
        ("loopdhs: {axis: {host: 'http://a'}}", "axis.host: expected the name or address"),
        ("loopdhs: {automl: {host: a b}}", "automl.host: expected the name or address"),
        ("dcss: {host: a..b}", "dcss.host: expected the name or address of a machine"),
        ("debug_dir: 2026-02-30", "not YAML: day is out of range for month"),
        ("osci_time: !!float ''", "not YAML: string index out of range"),
        ("a: " + "[" * 5000, "not YAML: maximum recursion depth exceeded"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "BL-1.config"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    assert str(caught.value).startswith(f"{file}: {said}")
    assert "Value error" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "two words", "l\xf6\xf6p"])
def test_a_name_that_dcss_cannot_have_is_refused(name: str) -> None:
    done = CliRunner().invoke(app, ["loop", "dhs", "--dcss", "127.0.0.1:1", "--name", name])
    assert done.exit_code == 2
    assert f"--name {name!r}: expected the name in the database of DCSS" in done.stderr


def test_a_directory_that_cannot_be_made_is_refused() -> None:
    directory = f"{__file__}/pictures"
    given = ["--dcss", "127.0.0.1:1", "--save-dir", directory]
    done = CliRunner().invoke(app, ["loop", "dhs", *given])
    assert done.exit_code == 2
    assert f"--save-dir {directory}: {__file__} is no directory" in done.stderr


def test_the_files_threshold_and_number_of_boxes_reach_the_detector(tmp_path: Path) -> None:
    file = tmp_path / "BL-1.config"
    file.write_text("loopdhs: {automl: {host: gpu, threshold: 0.1, scan_n_results: 3}}")
    config = read_config(file)
    options = Options(
        dcss=("a", 1), name="loopDHS", host="127.0.0.1", receiver_port=0, snapshot_url="",
        automl_url="http://gpu:5000", save_directory=None, file=file, config=config,
    )  # fmt: skip
    found = detector_parameters(options, Settings())
    url = "http://gpu:5000"
    assert found == {"backend": "automl", "url": url, "threshold": 0.1, "most_boxes": 3}


def test_a_key_without_a_value_has_its_default(tmp_path: Path) -> None:
    file = tmp_path / "BL-1.config"
    file.write_text("loopdhs:\n  axis:\n    host: a\n    camera:\n  debug_dir:\n")
    config = read_config(file)
    assert config.axis is not None
    assert config.axis.snapshot_url == "http://a:80/axis-cgi/jpg/image.cgi?camera=1"


def test_an_ipv6_host_has_brackets_in_its_address(tmp_path: Path) -> None:
    file = tmp_path / "BL-1.config"
    file.write_text("loopdhs:\n  axis:\n    host: '::1'\n  automl:\n    host: '::1'\n")
    config = read_config(file)
    assert config.axis is not None
    assert config.automl is not None
    assert config.axis.snapshot_url == "http://[::1]:80/axis-cgi/jpg/image.cgi?camera=1"
    assert config.automl.url == "http://[::1]:5000"


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


SLOW = """
import ctypes, sys
from skywright.instruments.loop.backends import NetworkDetector
# As the compiler: C code that no Python signal handler can interrupt.
NetworkDetector.warm_up = lambda self: ctypes.CDLL(None).sleep(600)
from skywright.cli import main
main(["loop", "dhs", *sys.argv[1:]])
"""


SLOW_FIT = """
import sys, time
from skywright.instruments.loop import centering
centering.warm_up = lambda: time.sleep(600)
from skywright.cli import main
main(["loop", "dhs", *sys.argv[1:]])
"""


def test_single_pictures_do_not_wait_for_the_compiler_of_the_fit(
    camera: int, elsewhere: dict[str, str]
) -> None:
    hub = Dcss()
    url = f"http://127.0.0.1:{camera}/axis-cgi/jpg/image.cgi?camera=2"
    given = ("--dcss", f"127.0.0.1:{hub.port}", "--receiver-port", "0", "--snapshot-url", url)
    command = (sys.executable, "-c", SLOW_FIT, *given, "--status-port", "0")
    with started(command, elsewhere), hub.connected(*OPERATIONS) as link:
        assert link.run("getLoopTip", "1.1").startswith("normal ")
    hub.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_while_it_warms_up(
    number: signal.Signals, elsewhere: dict[str, str]
) -> None:
    hub = Dcss()
    given = ("--dcss", f"127.0.0.1:{hub.port}", "--receiver-port", "0", "--status-port", "0")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *given],
        env={**os.environ, **elsewhere},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        with hub.connected(*OPERATIONS) as link:  # DCSS is answered meanwhile
            process.send_signal(number)
            assert process.wait(90) == 0  # the compiler takes longer
            link.wait_closed()
        assert process.stdout is not None
        assert process.stdout.read() == ""  # it was never ready
    finally:
        process.kill()
        process.communicate()
        hub.close()


def test_it_ends_while_its_detection_service_does_not_answer(
    camera: int, elsewhere: dict[str, str]
) -> None:
    hub = Dcss()
    url = f"http://127.0.0.1:{camera}/axis-cgi/jpg/image.cgi?camera=2"
    given = ("--dcss", f"127.0.0.1:{hub.port}", "--receiver-port", "0", "--snapshot-url", url)
    given += ("--status-port", "0")
    with socket.create_server(("127.0.0.1", 0)) as service:
        detection = {
            "backend": "automl",
            "url": f"http://127.0.0.1:{service.getsockname()[1]}",
            "timeout_s": 600.0,
        }
        with (
            dhs(*given, SKYWRIGHT_LOOP__DETECTION=json.dumps(detection), **elsewhere) as (
                process,
                ready,
            ),
            hub.connected(*OPERATIONS) as link,
            socket.create_connection(("127.0.0.1", ready["status_port"])) as open_request,
        ):
            open_request.send(b"GET /health HTTP/1.1\r\n")  # and no more
            link.start("getLoopTip", "1.1")
            request = accept_predict(service)
            process.send_signal(signal.SIGTERM)
            assert link.reply("1.1") == "aborted"
            assert process.wait(90) == 0  # the service has 600 s
            assert open_request.recv(100) == b""
            request.close()
    hub.close()


def accept_predict(service: socket.socket) -> socket.socket:
    """Return the connection on which a picture was sent to the service; no answer was sent."""
    while True:
        connection, _ = service.accept()
        if connection.recv(4096).startswith(b"POST"):
            return connection
        connection.close()


def test_a_port_of_digits_that_are_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="--dcss dcss:1²: expected HOST:PORT"):
        dcss_address("dcss:1²", DhsConfig())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "--dcss HOST:PORT"),
        (("--dcss", "host:port"), "--dcss host:port: expected HOST:PORT"),
        (("--dcss", "a..b:14242"), "--dcss a..b:14242: expected HOST:PORT"),
        (("--dcss", "a:1", "--host", "a..b"), "cannot listen for pictures on a..b:0"),
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
