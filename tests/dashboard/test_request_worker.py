"""The worker that answers requests of the page: one process for all of them."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from starlette.testclient import TestClient
from support.page import fake_checks, settings_of

from dashboard.app import make_app
from dashboard.worker import RequestWorker
from skywright.config import IocSettings, Settings
from skywright.errors import ConfigError

FAKE = """
import os, threading
from dashboard.worker_process import answer_requests, argument_parser

prefix = argument_parser(None).parse_args().prefix

def answer(request):
    with open(os.environ["REQUESTS"], "a") as log:
        log.write(request.get("do", "") + " ")
    os.write(1, b"a library prints\\n")
    if request.get("do") == "die":
        os._exit(1)
    if request.get("do") == "hang":
        threading.Event().wait()
    return {"pid": os.getpid(), "prefix": prefix, "did": request.get("do"), "inf": float("inf")}

answer_requests(answer)
"""
Ask = Callable[[str], Awaitable[Any]]


@pytest.fixture
def requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file in which the module ``fake_operator`` notes each request to it."""
    (tmp_path / "fake_operator.py").write_text(FAKE)
    paths = (str(tmp_path), str(Path.cwd()), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("REQUESTS", str(tmp_path / "requests"))
    return tmp_path / "requests"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    ioc = IocSettings(module="iocs.sacla", prefix="SACLA1:", address="127.0.0.1:1")
    return settings_of(tmp_path, "", "", tmp_path, iocs={"sacla": ioc})


def scenario(settings: Settings, play: Callable[[RequestWorker, Ask], Awaitable[None]]) -> None:
    """Play with a worker, and end it."""

    async def run() -> None:
        worker = RequestWorker(settings, "sacla", "fake_operator")
        try:
            await play(worker, lambda do: worker.ask(json.dumps({"do": do})))
        finally:
            await worker.close()

    asyncio.run(run())


def test_one_process_answers_each_request_in_its_order(
    settings: Settings, requests: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def play(worker: RequestWorker, ask: Ask) -> None:
        answers = await asyncio.gather(*map(ask, "abc"))
        assert [each["did"] for each in answers] == ["a", "b", "c"]
        assert len({each["pid"] for each in answers}) == 1
        assert (answers[0]["prefix"], answers[0]["inf"]) == (settings.pv_prefix("sacla"), None)
        assert "bytes" not in answers[0]
        await worker.close()
        assert not psutil.pid_exists(answers[0]["pid"])

    scenario(settings, play)
    assert requests.read_text() == "a b c "
    assert capfd.readouterr() == ("", 3 * "a library prints\n")


def test_a_worker_that_dies_or_hangs_is_started_again_and_repeats_nothing(
    settings: Settings, requests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(worker: RequestWorker, ask: Ask) -> None:
        with pytest.raises(ConfigError, match=r"fake_operator failed; the log of .* says more"):
            await ask("die")
        first = (await ask("a"))["pid"]
        with monkeypatch.context() as context:
            context.setattr("dashboard.worker.SILENCE_S", 1.0)
            with pytest.raises(ConfigError, match=r"fake_operator: not done within 1 s"):
                await ask("hang")
        assert not psutil.pid_exists(first)
        second = (await ask("b"))["pid"]
        psutil.Process(second).kill()  # between two requests
        await worker._process.wait()
        assert (await ask("c"))["pid"] not in (first, second)

    scenario(settings, play)
    assert requests.read_text() == "die a hang b c "


def test_a_request_that_is_given_up_leaves_no_answer_for_the_next_one(
    settings: Settings, requests: Path
) -> None:
    async def play(worker: RequestWorker, ask: Ask) -> None:
        first = (await ask("a"))["pid"]
        given_up = asyncio.ensure_future(ask("a"))
        await asyncio.sleep(0)  # it is sent
        given_up.cancel()
        with suppress(asyncio.CancelledError):
            await given_up
        assert not psutil.pid_exists(first)
        assert (await ask("b"))["did"] == "b"

    scenario(settings, play)


def test_a_worker_is_started_where_the_ioc_is_now(
    settings: Settings, requests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(worker: RequestWorker, ask: Ask) -> None:
        first = (await ask("a"))["pid"]
        moved = {"EPICS_CA_ADDR_LIST": "127.0.0.1:2"}
        monkeypatch.setattr("dashboard.worker.channel_access", lambda _: moved)
        second = (await ask("b"))["pid"]
        assert psutil.Process(second).environ()["EPICS_CA_ADDR_LIST"] == "127.0.0.1:2"
        assert not psutil.pid_exists(first)

    scenario(settings, play)


def test_the_worker_of_a_page_ends_with_its_server(settings: Settings, requests: Path) -> None:
    app = make_app(settings, fake_checks(), operate=True)
    operator = RequestWorker(settings, "sacla", "fake_operator")
    app.state.site.operators["sacla"] = operator
    with TestClient(app, "http://127.0.0.1") as page:
        asked = [
            page.post("/sacla/put", json={"show": "a"}, headers={"origin": "http://127.0.0.1"})
            for _ in range(2)
        ]
        first, second = (each.json()["pid"] for each in asked)
        assert first == second
        assert psutil.pid_exists(first)
    assert not psutil.pid_exists(first)
