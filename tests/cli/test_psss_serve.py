"""``skywright psss serve`` and the old command line, as processes of their own."""

import json
import os
import signal
import socket
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import numpy as np
import pytest
from support import forked
from support.bsread_old import OldSender, OldSource
from support.channels import channel
from support.psss_old_client import PsssProcessingClient
from support.psss_process import MAIN, OLD_MAIN, ServiceProcess, running
from support.psss_scripted import PICTURE

from skywright.cli import main
from skywright.instruments.psss.cli.app import put_names, serve_arguments
from skywright.instruments.psss.cli.psss_processing import arguments
from skywright.instruments.psss.cli.psss_processing import main as old_main
from skywright.processes.ports import free_port

PREFIX = "SARFE10-PSSS059"


def test_the_old_command_line_is_accepted_with_its_defaults() -> None:
    args = arguments(["tcp://camera:9000"])
    assert (args.prefix, args.input) == (PREFIX, "tcp://camera:9000")
    assert (args.output_port, args.image_port, args.rest_port) == (8889, 8890, 12000)
    assert (args.host, args.output_host) == ("0.0.0.0", "0.0.0.0")
    assert args.names == "1.8"
    assert args.put_pvs
    assert not args.auto_start
    assert args.output_pv == "SARFE10-PSSS059:SPECTRUM_Y"
    other = arguments(
        [
            *("tcp://camera:9000", "-i", "OTHER", "-p", "A:Y", "--center_pv", "A:C"),
            *("--fwhm_pv", "A:F", "--ymin_pv", "A:L", "--ymax_pv", "A:H", "--axis_pv", "A:X"),
            *("-o", "1", "--image_output_stream_port", "2", "-r", "3"),
            *("--rest_api_interface", "127.0.0.1", "--log_level", "DEBUG", "--auto_start"),
        ]
    )
    assert (other.prefix, other.output_pv, other.axis_pv) == ("OTHER", "A:Y", "A:X")
    assert (other.center_pv, other.fwhm_pv) == ("A:C", "A:F")
    assert (other.ymin_pv, other.ymax_pv) == ("A:L", "A:H")
    assert (other.output_port, other.image_port, other.rest_port) == (1, 2, 3)
    assert (other.host, other.output_host) == ("127.0.0.1", "0.0.0.0")
    assert other.auto_start
    assert put_names(other) == {  # these and no others
        **{"output": "A:Y", "center": "A:C", "fwhm": "A:F"},
        **{"ymin": "A:L", "ymax": "A:H", "axis": "A:X"},
    }
    # As in the old service, the PVs do not follow the prefix.
    assert arguments(["tcp://c:1", "--prefix=NEW"]).center_pv == f"{PREFIX}:SPECTRUM_CENTER"


def test_each_pv_that_is_put_can_be_named_or_left_alone() -> None:
    given = ["--put-pvs", "--com-pv", "A:COM", "--state-pv", "", "--center-error-pv=A:E"]
    found = put_names(serve_arguments(["--prefix", "P:", *given]))
    assert (found["com"], found["center_error"], found["std"]) == ("A:COM", "A:E", "P:SPECTRUM_STD")
    assert "state" not in found
    assert found["brightness"] == "P:SPECTRUM_BRT"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--input", "camera"], "tcp://HOST:PORT"),
        (["--input", "tcp://camera:99999"], "tcp://HOST:PORT"),
        ([], "tcp://HOST:PORT"),
        (["--source", "replay"], "--path"),
        (["--source", "replay", "--path", "/nowhere.h5"], "/nowhere.h5"),
        (["--source", "sim", "--size", "wide"], "--size"),
        (["--source", "sim", "--size", "²x²"], "--size ²x²: expected"),
        (["--input", "tcp://h:1", "--prefix", ""], "--prefix"),
        (["--input", "tcp://h:1", "--names", "2.0"], "--names"),
        (["--input", "tcp://h:1", "--step", "-4"], "--step"),
        (["--input", "tcp://h:1", "--background-dir", f"{__file__}/x"], f"{__file__} is no dir"),
        (["--input", "tcp://h:1", "--threads", "0"], "--threads"),
        (["--source", "replay", "--path", __file__, "--rate", "-5"], "--rate: '-5'"),
        (["--input", "tcp://h:1", "--no-ca", "--put-pvs"], "--put-pvs"),
    ],
)
def test_bad_use_ends_with_status_2(
    capsys: pytest.CaptureFixture[str], given: list[str], said: str
) -> None:
    check_refused(capsys, given if "--put-pvs" in given else [*given, "--no-ca"], said)


def check_refused(capsys: pytest.CaptureFixture[str], given: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["psss", "serve", *given])
    assert raised.value.code == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_serve_with_old_clients_and_pvs(tmp_path: Path) -> None:
    """As in an operator's change-over: sender and clients are the old ones."""
    input_port = free_port()
    with (
        running(
            *("--prefix", PREFIX, "--input", f"tcp://127.0.0.1:{input_port}"),
            *("--output-port", "0", "--rest-port", "0", "--ca-port", "0"),
            *("--background-dir", str(tmp_path), "--threads", "2"),
        ) as service,
        OldSender(input_port, data_compression="bitshuffle_lz4") as sender,
    ):
        assert service.ready["prefix"] == f"{PREFIX}:"
        assert service.ready["port"] > 0  # of the PVs
        client = PsssProcessingClient(service.address + "/")
        assert client.get_status() == "stopped"
        client.set_background("dark", PICTURE // 3)
        client.start()
        output = service.ready["output_port"]
        with OldSource("127.0.0.1", output, receive_timeout=90_000) as reader:
            reader.await_sender()
            for pulse_id in range(10, 40):
                sender.send({f"{PREFIX}:FPICTURE": PICTURE}, pulse_id)
            for pulse_id in range(10, 40):
                message = reader.receive()
                assert message.data.pulse_id == pulse_id
                spectrum = message.data.data[f"{PREFIX}:FPICTURE.spectrum"].value
                np.testing.assert_array_equal(spectrum, (PICTURE - PICTURE // 3).sum(axis=0))
        statistics = client.get_statistics()
        assert statistics["n_processed_images"] == 30
        assert statistics["last_sent_pulse_id"] == 39
        client.stop()
        begun = time.monotonic()
        assert service.end(signal.SIGTERM) == 0
        assert time.monotonic() - begun < 5


def test_pvs_are_found_beside_another_ioc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(os.environ["SKYWRIGHT_TEST_CA_PORTS"].split(",")[-1])
    monkeypatch.setenv("EPICS_CA_SERVER_PORT", str(port))  # stands for 5064
    given = ("--source", "sim", "--size", "64x32", "--background-dir", str(tmp_path))
    prefix = f"T{uuid.uuid4().hex[:8].upper()}"
    with (
        socket.create_server(("127.0.0.1", port)),
        running(*("--prefix", prefix, "--output-port", "0", "--rest-port", "0"), *given) as service,
    ):
        assert service.ready["port"] != port
        assert channel(f"{prefix}:STATE").get() is not None
        health = json.load(urllib.request.urlopen(f"{service.address}/health"))
        assert health["ca_port"] == service.ready["port"]
    with socket.socket(type=socket.SOCK_DGRAM) as alone:
        alone.bind(("127.0.0.1", port))  # by one that shares it with nobody
        refused = forked.run(
            [sys.executable, *MAIN, *given, "--rest-port", "0", "--output-port", "0"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert refused.returncode == 2
    assert f"port {port} on 127.0.0.1: cannot be used" in refused.stderr


def test_a_port_that_is_taken_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    port = free_port()
    given = ["--input", "tcp://127.0.0.1:1", "--no-ca", "--background-dir", str(tmp_path)]
    with OldSender(port):
        check_refused(capsys, [*given, "--output-port", str(port), "--rest-port", "0"], str(port))
        given += ["--output-port", "0", "--rest-port", str(port)]
        check_refused(capsys, given, str(port))


def test_the_old_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYWRIGHT_STORE__DIRECTORY", str(tmp_path))
    input_port, data_port, image_port, rest_port = (free_port() for _ in range(4))
    with running(
        *(f"tcp://127.0.0.1:{input_port}", "-i", PREFIX, "--auto_start", "--log_level=INFO"),
        *("-o", str(data_port), "--image_output_stream_port", str(image_port)),
        *("-r", str(rest_port), "--rest_api_interface", "127.0.0.1"),
        main=OLD_MAIN,
    ) as service:
        check_newer_layout(service, input_port, data_port, image_port)
        # PVs that are not there hold up neither the pulses nor the end.
        begun = time.monotonic()
        assert service.end(signal.SIGTERM) == 0
        assert time.monotonic() - begun < 5


def check_newer_layout(
    service: ServiceProcess, input_port: int, data_port: int, image_port: int
) -> None:
    client = PsssProcessingClient(service.address)
    assert client.get_status() == "processing"
    with (
        OldSender(input_port) as sender,
        OldSource("127.0.0.1", data_port, receive_timeout=90_000) as data,
        OldSource("127.0.0.1", image_port, receive_timeout=90_000) as images,
    ):
        data.await_sender()
        images.await_sender()
        for pulse_id in (1, 2):
            sender.send({f"{PREFIX}:FPICTURE": PICTURE}, pulse_id)
        values = data.receive().data.data
        np.testing.assert_array_equal(values[f"{PREFIX}:SPECTRUM_Y"].value, PICTURE.sum(axis=0))
        made = json.loads(values[f"{PREFIX}:processing_parameters"].value)
        assert (made["roi"], made["background"]) == ([0, 0], "")
        np.testing.assert_array_equal(
            images.receive().data.data[f"{PREFIX}:FPICTURE"].value, PICTURE
        )


@pytest.mark.parametrize(
    ("argument", "port"),
    [("-r", "99999"), ("--image_output_stream_port", "abc"), ("-o", "-1")],
)
def test_a_port_that_is_none_is_said(
    argument: str, port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        old_main(["tcp://camera:9000", f"{argument}={port}"])
    assert f"{port!r}: expected a port, 0 to 65535" in capsys.readouterr().err
