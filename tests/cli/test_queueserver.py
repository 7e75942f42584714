"""bluesky-queueserver on our start-up files: real manager, real Redis, simulated beamline."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from inspect import getmembers, isgeneratorfunction
from pathlib import Path
from typing import Any

import pytest
import yaml
from bluesky_queueserver_api import BPlan
from bluesky_queueserver_api.zmq import REManagerAPI
from support.wheel import build_wheel, make_site

from skywright.instruments import instruments
from skywright.processes.ports import free_port

ROOT = Path(__file__).parents[2]
LIMIT_S = 120.0

pytestmark = pytest.mark.timeout(400)  # a test may start the whole beamline


def our_plans() -> set[str]:
    """Return the names of all plans of the room `plans`."""
    import plans

    found = set()
    for file in Path(plans.__file__).parent.glob("*.py"):
        module = __import__(f"plans.{file.stem}", fromlist=["_"])
        found |= {
            name
            for name, value in getmembers(module, isgeneratorfunction)
            if value.__module__ == module.__name__
            and not name.startswith("_")
            and not file.stem.endswith("stubs")
        }
    return found


@pytest.fixture(
    scope="module",
    params=["checkout", pytest.param("wheel", marks=pytest.mark.soak)],
)
def installed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Environment of a process that uses skywright as it is installed."""
    if request.param == "checkout":
        return {}
    wheel = build_wheel(tmp_path_factory.mktemp("wheel"))
    return {"PYTHONPATH": str(make_site(wheel, tmp_path_factory.mktemp("site")))}


@pytest.fixture(scope="module")
def manager(
    installed: dict[str, str],
    beamline: dict[str, str],
    redis_port: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[REManagerAPI]:
    """A queue server whose environment is open."""
    directory = tmp_path_factory.mktemp("queueserver")
    environment = {**os.environ, **beamline, **installed}
    where = "from skywright.rooms import startup_files; print(startup_files())"
    startup = subprocess.check_output(
        [sys.executable, "-c", where], cwd=directory, env=environment, text=True
    ).strip()
    control, info = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    prefix = f"skywright_test_{uuid.uuid4().hex}"
    command = [
        *(Path(sys.executable).with_name("start-re-manager"), "--redis-name-prefix", prefix),
        *("--config", ROOT / "deploy" / "queueserver" / "config.yml"),
        *("--zmq-control-addr", control, "--zmq-info-addr", info),
        *("--redis-addr", f"127.0.0.1:{redis_port}"),
        *("--startup-dir", startup),
        *("--existing-plans-devices", directory / "existing_plans_and_devices.yaml"),
    ]
    log = directory / "manager.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    api = REManagerAPI(zmq_control_addr=control, zmq_info_addr=info)
    try:
        api.wait_for_idle(timeout=LIMIT_S)
        api.environment_open()
        api.wait_for_idle(timeout=LIMIT_S)
        assert api.status()["worker_environment_exists"], log.read_text()
        yield api
        api.environment_close()
        api.wait_for_idle(timeout=LIMIT_S)
    finally:
        api.close()
        process.terminate()
        process.wait(timeout=60)
        forget(redis_port, prefix)


def forget(redis_port: int, prefix: str) -> None:
    import redis

    with redis.Redis(port=redis_port) as server:
        for key in server.scan_iter(f"{prefix}*"):
            server.delete(key)


def test_every_plan_of_ours_is_listed(manager: REManagerAPI, installed: dict[str, str]) -> None:
    allowed = manager.plans_allowed()["plans_allowed"]
    module = "skywright.plans.pictures" if installed else "plans.pictures"
    assert allowed["take_pictures"]["module"] == module
    ours = our_plans()
    assert {"take_pictures", "watch_camera"} <= ours
    assert ours <= set(allowed)
    assert {"count", "scan"} <= set(allowed)


def test_devices_are_listed(manager: REManagerAPI) -> None:
    devices = manager.devices_allowed()["devices_allowed"]
    assert devices["axis"]["is_readable"]
    assert devices["axis"]["is_flyable"]


def test_visitors_have_our_plans_only(manager: REManagerAPI) -> None:
    allowed = manager.plans_allowed(user_group="users")["plans_allowed"]
    assert "scan" not in allowed
    assert "take_pictures" in allowed


def test_visitors_may_measure_with_each_instrument() -> None:
    file = ROOT / "deploy" / "queueserver" / "user_group_permissions.yaml"
    allowed = set(yaml.safe_load(file.read_text())["user_groups"]["users"]["allowed_plans"])
    common = {"take_pictures", "watch_camera", "count"}
    declared = {
        name: {target.partition(":")[2] for target in each.plans}
        for name, each in instruments().items()
        if each.package == "skywright"
    }
    assert allowed <= common.union(*declared.values())
    assert [name for name, its in declared.items() if not allowed & its] == []


def test_a_plan_runs_and_is_in_the_catalog(
    manager: REManagerAPI, beamline: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from skywright.config import load_settings
    from skywright.session.session_store import SessionStore
    from skywright.store.client import catalog, connect

    manager.item_execute(BPlan("take_pictures", "axis", 2, md={"sample": "queued"}))
    manager.wait_for_idle(timeout=LIMIT_S)
    item: dict[str, Any] = manager.history_get()["items"][-1]
    assert item["result"]["exit_status"] == "completed", item["result"]["traceback"]
    (uid,) = item["result"]["run_uids"]

    for name, value in beamline.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    run = SessionStore(catalog(connect(settings=settings)), settings.directory).await_run(uid)
    assert run.metadata["stop"]["exit_status"] == "success"
    assert run.metadata["start"]["sample"] == "queued"
    assert run["primary/axis_image"].read().shape[0] == 2


def test_wrong_arguments_are_refused_before_they_wait(manager: REManagerAPI) -> None:
    with pytest.raises(Exception, match="n"):
        manager.item_add(BPlan("take_pictures", "axis", "three"))
    assert manager.queue_get()["items"] == []
