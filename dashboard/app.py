"""The page as a web application: views, feeds, pages of errors, and which requests are allowed."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from dashboard.board import Board, Checks
from dashboard.catalog import CatalogReader
from dashboard.feeds import Feed, FeedSource, serve_feed
from dashboard.site import Site, is_same_origin, render
from dashboard.views import View, find_views
from skywright.config import Settings
from skywright.errors import ConfigError, DataError, SkywrightError

STATIC = Path(__file__).parent / "static"
LOOPBACK = ("127.0.0.1", "localhost")
SERVER_OPTIONS: dict[str, Any] = {
    "loop": "asyncio",
    # This one holds a sender back while its client's buffer is full.
    "ws": "websockets-sansio",
    "ws_per_message_deflate": False,  # pictures are compressed already
    # A client that has not answered a ping for this time is gone, s.
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 20.0,
    # Exports under way get this long after SIGTERM, s.
    "timeout_graceful_shutdown": 2,
}
"""Options of the HTTP server, see `skywright.processes.http_server.serve`."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",
}

log = logging.getLogger(__name__)


def make_app(
    settings: Settings,
    checks: Checks,
    hosts: Sequence[str] = LOOPBACK,
    views: Sequence[View] | None = None,
    operate: bool = False,
) -> Starlette:
    """Return the application.

    Parameters
    ----------
    settings
        Of the beamline.
    checks
        Functions that check the state of the beamline.
    hosts
        Names by which browsers may call this server; ``"*"`` for any.
    views
        By default all of `dashboard.views`.
    operate
        Views may put PVs; else they only show.
    """
    views = find_views() if views is None else views
    site = Site(
        settings, CatalogReader(settings), Board(settings.directory, checks), operate=operate
    )
    sources: dict[str, FeedSource] = {"catalog": site.catalog.changes, "state": site.board.changes}
    for view in views:
        try:
            sources |= view.feeds(site)
        except Exception:  # whatever the view of another package raises: the others work
            log.exception("page view %s has no feeds", view.path)
    feeds = {name: Feed(name, source) for name, source in sources.items()}

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        following = asyncio.create_task(site.catalog.follow(), name="catalog")
        yield
        following.cancel()
        endings = [feed.close() for feed in feeds.values()]
        endings += [worker.close() for worker in site.operators.values()]
        await asyncio.gather(following, *endings, return_exceptions=True)
        site.catalog.close()

    async def live(websocket: WebSocket) -> None:
        feed = feeds.get(websocket.path_params["feed"])
        if feed is None or not is_same_origin(websocket):
            await websocket.close()  # before it is accepted: 403
            return
        await serve_feed(websocket, feed)

    async def first_page(request: Request) -> Response:
        return RedirectResponse(views[0].path)

    app = Starlette(
        routes=[
            Route("/", first_page),
            *(route for view in views for route in view.routes),
            WebSocketRoute("/live/{feed}", live),
            *(
                Mount(f"/static{view.path}", StaticFiles(directory=view.static))
                for view in views
                if view.static is not None
            ),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[
            Middleware(_VersionAndHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        ],
        exception_handlers={
            DataError: _not_found,
            SkywrightError: _not_available,
            HTTPException: _refused,
            Exception: _failed,
        },
        lifespan=lifespan,
    )
    app.state.site, app.state.views, app.state.feeds = site, views, feeds
    return app


def hosts_of(interface: str) -> Sequence[str]:
    """Return the names by which browsers may call a server on an interface.

    On a loopback interface these are only the names in `LOOPBACK` and its address; on any other
    interface every name is allowed. The owner of a foreign web site can let a name of that site
    point to 127.0.0.1. If this server answered to such a name, a page of that site, opened in a
    browser on this machine, could read the server's data.
    """
    try:
        address = ip_address(interface)
    except ValueError:  # a name
        return LOOPBACK if interface in LOOPBACK else ("*",)
    if not address.is_loopback:
        return ("*",)
    return *LOOPBACK, f"[{address}]" if address.version == 6 else str(address)


class _VersionAndHeaders:
    """Note the catalog's version in the state of each request, and add `HEADERS` to the answer.

    The version is noted before anything is read: what the page then shows may be newer than it, and
    never older. The answer of `_failed` is made outside of this class; it adds `HEADERS` itself.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.append(name, value)
            await send(message)

        if scope["type"] == "http":
            catalog = scope["app"].state.site.catalog
            scope.setdefault("state", {})["catalog_version"] = catalog.version
        await self.app(scope, receive, with_headers)


async def _not_found(request: Request, error: Exception) -> Response:
    return render(request, "error.html", 404, title="Not found", message=str(error))


async def _not_available(request: Request, error: Exception) -> Response:
    if not isinstance(error, ConfigError):
        log.error("%s: %s", request.url.path, error)
    return render(request, "error.html", 503, title="Not available", message=str(error))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.url.path}: {error.detail}"
    return render(request, "error.html", error.status_code, title=error.detail, message=message)


async def _failed(request: Request, error: Exception) -> Response:
    message = f"{type(error).__name__}; the log of skywright dashboard says more"
    answer = render(request, "error.html", 500, title="This page failed", message=message)
    answer.headers.update(HEADERS)
    return answer
