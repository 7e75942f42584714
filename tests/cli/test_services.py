"""`[services.NAME]`: `skywright up` starts, watches and restarts any program, like an IOC."""

import json
import os
import re
import signal
import socket
import uuid
from pathlib import Path

import pika
import psutil
from support.stack import run, running_up, write_fake_beamline

from skywright.config import load_settings
from skywright.processes.stack import State, read_state

ROOT = Path(__file__).parents[2]
SERVICES = """
[services.other]
command = ["python", "fake_service.py"]
args = ["--watch", "{one}", "--none", "{three}"]
environment = { ANSWER = "42" }

[services.silent]
command = ["sleep", "3600"]
ready_line = false
"""
FAKE_SERVICE = """
import os, signal, sys
from skywright.processes.lifecycle import announce_ready, end_with_parent
end_with_parent()
announce_ready(arguments=sys.argv[1:], answer=os.environ["ANSWER"],
               servers=os.environ["EPICS_CA_ADDR_LIST"])
signal.pause()
"""


def write_beamline(directory: Path, text: str) -> dict[str, str]:
    environment = write_fake_beamline(directory)
    service = directory / "fake_service.py"
    service.write_text(FAKE_SERVICE)
    config = Path(environment["SKYWRIGHT_CONFIG"])
    config.write_text(config.read_text() + text.replace("fake_service.py", str(service)))
    return environment


def state_of(directory: Path) -> State:
    state = read_state(directory / "store")
    assert state is not None
    return state


def test_services_start_with_the_iocs_and_come_back(tmp_path: Path) -> None:
    environment = write_beamline(tmp_path, SERVICES)
    with running_up("--only", "one", "other", "silent", **environment) as up:
        state = state_of(tmp_path)
        assert set(state.processes) == {"one", "repeater", "other", "silent"}
        facts = state.processes["other"].ready
        prefix = state.processes["one"].ready["prefix"]
        assert facts["arguments"] == ["--watch", prefix, "--none", ""]
        assert facts["answer"] == "42"
        assert str(state.processes["one"].ready["port"]) in facts["servers"]
        assert psutil.Process(state.processes["silent"].pid).name() == "sleep"

        for name in ("other", "silent"):
            os.kill(state.processes[name].pid, signal.SIGKILL)
            assert "SIGKILL" in up.event(name, "restarting")
            up.event(name, "ready")
            assert state_of(tmp_path).processes[name].restarts == 1
        assert up.end(signal.SIGTERM) == 0
        assert up.left() == []


def test_a_closed_terminal_ends_programs_that_do_not_watch_their_stdin(tmp_path: Path) -> None:
    environment = write_beamline(tmp_path, SERVICES)
    with running_up("--only", "silent", **environment) as up:
        sleep = psutil.Process(state_of(tmp_path).processes["silent"].pid)
        assert up.end(signal.SIGHUP) == 0
        assert not sleep.is_running()


def test_an_up_that_is_killed_takes_programs_along_that_do_not_watch_their_stdin(
    tmp_path: Path,
) -> None:
    with running_up("--only", "silent", **write_beamline(tmp_path, SERVICES)) as up:
        up.end(signal.SIGKILL)
        assert up.left() == []


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    text = '[services.other]\ncommand = ["no-such-program"]\n'
    done = run("up", "--only", "other", **write_beamline(tmp_path, text))
    assert done.returncode == 2
    assert "services.other.command: no program no-such-program that can be executed" in done.stderr


def test_a_service_without_a_command_is_a_wrong_configuration(tmp_path: Path) -> None:
    done = run("up", **write_beamline(tmp_path, "[services.other]\n"))
    assert done.returncode == 2
    assert "services.other.command: is missing" in done.stderr


def test_a_service_with_the_name_of_an_ioc_is_a_wrong_configuration(tmp_path: Path) -> None:
    text = '[services.one]\ncommand = ["sleep", "1"]\n'
    done = run("up", **write_beamline(tmp_path, text))
    assert done.returncode == 2
    assert "services.one: an IOC has this name" in done.stderr


def test_a_service_that_an_instrument_offers_needs_no_command(tmp_path: Path) -> None:
    environment = write_beamline(tmp_path, '[services.epu-api]\nargs = ["--db", "{one}x"]\n')
    settings = load_settings(Path(environment["SKYWRIGHT_CONFIG"]))
    command = settings.service_command("epu-api")
    assert command[:3] == ("skywright", "epu", "serve")
    assert command[3:] == ("--db", settings.pv_prefix("one") + "x")


def test_the_services_of_epu_start_and_come_back(tmp_path: Path, rabbitmq_url: str) -> None:
    database = f"sqlite:///{tmp_path / 'epu.sqlite'}"
    options = f'"--database", "{database}", "--broker", "{rabbitmq_url}"'
    text = (
        f'[services.epu-api]\nargs = ["--port", "0", {options}]\n'
        f"[services.epu-consumer]\nargs = [{options}]\n"
    )
    names = ("epu-api", "epu-consumer")
    environment = write_beamline(tmp_path, text) | {"RABBITMQ_QUEUE": f"test.{uuid.uuid4().hex}"}
    try:
        with running_up("--only", *names, **environment) as up:
            state = state_of(tmp_path)
            assert set(names) <= set(state.processes)
            for name in names:
                os.kill(state.processes[name].pid, signal.SIGKILL)
                assert "SIGKILL" in up.event(name, "restarting")
                up.event(name, "ready")
                assert state_of(tmp_path).processes[name].restarts == 1
            assert up.end(signal.SIGTERM) == 0
            assert up.left() == []
    finally:
        with pika.BlockingConnection(pika.URLParameters(rabbitmq_url)) as connection:
            connection.channel().queue_delete(environment["RABBITMQ_QUEUE"])


def test_the_dhs_of_the_reference_page_is_open_to_the_video_server(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "reference" / "dhs.md").read_text()
    (section,) = re.findall(r"```toml\n(\[services\.loop-dhs\]\n.*?)```", page, re.DOTALL)
    (named,) = re.findall(r"/\S+\.config", section)
    config = tmp_path / "BL-831.config"
    config.write_text("{dcss: {host: localhost, port: 1}, loopdhs: {jpeg_receiver: {port: 0}}}")
    environment = write_beamline(tmp_path, section.replace(named, str(config)))
    with running_up("--only", "loop-dhs", **environment):
        facts = state_of(tmp_path).processes["loop-dhs"].ready
        # This address is another interface than 127.0.0.1, the default.
        socket.create_connection(("127.0.0.2", facts["receiver_port"])).close()


def test_doctor_expects_the_services(tmp_path: Path) -> None:
    environment = write_beamline(tmp_path, SERVICES)
    with running_up("--only", "one", "two", **environment):
        checks = json.loads(run("doctor", "--json", **environment).stdout)["checks"]
    found = [check["found"] for check in checks if check["name"] == "up"]
    assert "other does not run" in found
    assert "silent does not run" in found
