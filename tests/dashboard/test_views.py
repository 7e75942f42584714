"""Page views of a stranger's instrument that raise: the other views are served."""

import logging
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from support.page import fake_checks, settings_of

from dashboard import views
from dashboard.app import make_app
from dashboard.views import View, find_views
from skywright.instruments import Instrument


def test_view_that_is_no_view_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    odd = ("no_such_module:VIEW", "dashboard.views:logger")
    monkeypatch.setattr(views, "instruments", lambda: {"odd": Instrument("odd", "odd", views=odd)})
    with caplog.at_level(logging.ERROR):
        assert all(isinstance(view, View) for view in find_views())
    assert [message.split()[2] for message in caplog.messages] == list(odd)


def test_view_whose_feeds_cannot_be_made_is_served_without_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(site: Any) -> Any:
        raise RuntimeError("odd feeds")

    async def page(request: Any) -> PlainTextResponse:
        return PlainTextResponse("here")

    view = View("/odd", "odd", [Route("/odd", page)], fail)
    app = make_app(settings_of(tmp_path, "", "", tmp_path), fake_checks(), views=[view])
    assert "page view /odd has no feeds" in caplog.text
    with TestClient(app, "http://127.0.0.1") as client:
        assert client.get("/odd").text == "here"
