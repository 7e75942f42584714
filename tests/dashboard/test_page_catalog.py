"""The page's one reader of the catalog, while tiled goes and comes back."""

import asyncio
import itertools
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient
from store.stack import running_stack
from support.page import fake_checks, running_page, settings_of
from support.scripted_http import Visit, scripted

from dashboard import catalog as catalog_module
from dashboard.app import make_app
from dashboard.catalog import CatalogReader
from dashboard.views import run
from dashboard.views.state import count_runs
from skywright.errors import ConfigError

LIMIT_S = 120.0


@pytest.mark.soak
def test_it_listens_again_when_tiled_is_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        with running_stack(tmp_path) as stack:
            stack.client()
            catalog = CatalogReader(settings_of(tmp_path, stack.uri, stack.key, tmp_path))
            following = asyncio.create_task(catalog.follow())
            changes = catalog.changes()
            while not catalog.subscribed:
                await anext(changes)
            assert await catalog.ask(count_runs) == (0, 0)
            stack.server.kill()
            while catalog.subscribed:
                await anext(changes)
            with pytest.raises(ConfigError, match="tiled"):
                await catalog.ask(count_runs)
            await asyncio.to_thread(stack.start_server)
            while not catalog.subscribed:
                await anext(changes)
            assert await catalog.ask(count_runs) == (0, 0)
            following.cancel()
            catalog.close()

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_answers_are_kept_for_some_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tiled does not tell of the rows that are added to a run."""

    async def scenario() -> list[int]:
        catalog = CatalogReader(settings_of(tmp_path, "http://127.0.0.1:9", "", tmp_path))
        catalog._client, catalog.subscribed = object(), True
        numbers = itertools.count()

        def ask(_: Any) -> int:
            return next(numbers)

        answers = [await catalog.ask(ask), await catalog.ask(ask)]
        monkeypatch.setattr(catalog_module, "KEEP_S", -1.0)
        answers += [await catalog.ask(ask), await catalog.ask(ask)]
        catalog.close()
        return answers

    assert asyncio.run(scenario()) == [0, 0, 1, 2]


@pytest.mark.parametrize("subscribed", [True, False])
def test_a_view_does_not_wait_for_a_tiled_that_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subscribed: bool
) -> None:
    """Its live parts go on, it shows the answer before, and learns when the new one has come."""
    monkeypatch.setattr(catalog_module, "WAIT_S", 0.05)

    async def scenario() -> None:
        catalog = CatalogReader(settings_of(tmp_path, "http://127.0.0.1:9", "", tmp_path))
        catalog._client, catalog.subscribed = object(), subscribed
        gate, numbers = threading.Event(), itertools.count()

        def ask(_: Any) -> int:
            assert gate.wait(LIMIT_S)
            return next(numbers)

        async def silent(shown: int | None) -> None:
            gate.clear()
            changes = catalog.changes()
            before = await anext(changes)
            try:
                for _ in range(2):
                    answer, wrong = await catalog.try_ask(ask)
                    assert answer == shown
                    assert "tiled has not answered for" in wrong
            finally:
                gate.set()
            assert await anext(changes) > before

        await silent(None)
        assert await catalog.try_ask(ask) == (0, "")
        catalog._answers.clear()  # as at a change
        await silent(0)
        assert await catalog.try_ask(ask) == (1, "")
        catalog.close()

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_frames_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a slider passes over would be hundreds of megabytes."""
    read = itertools.count()
    monkeypatch.setattr(run, "encoded_frame", lambda *_: b"%d" % next(read))
    app = make_app(settings_of(tmp_path, "http://127.0.0.1:9", "", tmp_path), fake_checks())
    catalog = app.state.site.catalog
    catalog._client, catalog.subscribed = object(), True
    page = TestClient(app, "http://127.0.0.1")  # without its lifespan, which looks for tiled
    frames = [page.get("/runs/a/frames/primary/b/7.jpg").content for _ in range(2)]
    assert (frames, catalog._answers) == ([b"0", b"1"], {})
    catalog.close()


def test_a_frame_does_not_wait_for_a_tiled_that_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_module, "WAIT_S", 0.05)

    async def scenario() -> None:
        catalog = CatalogReader(settings_of(tmp_path, "http://127.0.0.1:9", "", tmp_path))
        catalog._client, gate = object(), threading.Event()
        try:
            with pytest.raises(ConfigError, match="tiled has not answered for"):
                await catalog.ask_anew(lambda _: gate.wait(LIMIT_S))
        finally:
            gate.set()
        catalog.close()

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


@pytest.mark.parametrize("exports", [False, True])
def test_the_page_ends_while_its_threads_wait_for_tiled(tmp_path: Path, exports: bool) -> None:
    """A byte of the answer comes now and then, so that the request does not end by its timeout."""
    config, ended = tmp_path / "skywright.toml", threading.Event()
    asked = threading.Semaphore(0)

    def answer_slowly(visit: Visit) -> None:
        visit.say(b"HTTP/1.1 200 OK\r\nX: ")
        asked.release()
        while not ended.wait(1.0):
            visit.say(b"x")

    with scripted(answer_slowly) as tiled:
        store = f'directory = "{tmp_path}"\ntiled_uri = "{tiled.url}"\napi_key = "secret"\n'
        config.write_text(f"[store]\n{store}")
        try:
            with running_page(config) as page:
                asked.acquire()  # by the reader of the catalog
                if exports:
                    address = f"{page.uri}/runs/-1/export/nexus"
                    threading.Thread(target=_get, args=(address,), daemon=True).start()
                    asked.acquire()
        finally:
            ended.set()


def _get(uri: str) -> None:
    with suppress(httpx.HTTPError):
        httpx.get(uri, timeout=LIMIT_S, trust_env=False)
