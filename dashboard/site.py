"""What all views share: settings, the catalog, the state of the beamline, templates."""

import math
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from typing import Any, cast
from urllib.parse import urlsplit

from jinja2 import ChoiceLoader, Environment, FunctionLoader, PackageLoader
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, Response

from dashboard.board import Board
from dashboard.catalog import CatalogReader
from dashboard.worker import RequestWorker
from skywright.config import Settings
from skywright.rooms import importable
from skywright.words import in_seconds, in_short, local_time


@dataclass(frozen=True)
class Site:
    """What a view finds under ``request.app.state.site``."""

    settings: Settings
    catalog: CatalogReader
    board: Board
    live: dict[str, Any] = field(default_factory=dict)
    """What views keep of their feeds, by the feed's name."""
    operate: bool = False
    """Whether the page may put PVs; else it only shows."""
    operators: dict[str, RequestWorker] = field(default_factory=dict)
    """Workers that put PVs, by the IOC; they end with the server."""

    def operator(self, ioc: str, module: str) -> RequestWorker:
        """Return the worker, a module, that puts the PVs of an IOC."""
        if ioc not in self.operators:
            self.operators[ioc] = RequestWorker(self.settings, ioc, module)
        return self.operators[ioc]


def site_of(request: Request) -> Site:
    """Return the site that a request came to."""
    return cast(Site, request.app.state.site)


def is_same_origin(connection: HTTPConnection) -> bool:
    """Return whether a page of this site, or a program, asks.

    Browsers send the site of the page that asks; programs send none.
    """
    origin = connection.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == connection.headers.get("host")


def check_may_operate(request: Request) -> None:
    """Refuse a request that puts settings, unless this page sends it and was started to do so.

    Raises
    ------
    HTTPException
        403, also for programs, whose requests do not say that this page sends them.
    """
    if not site_of(request).operate:
        raise HTTPException(403, "this page only shows; start it with --operate to put settings")
    if request.headers.get("origin") is None or not is_same_origin(request):
        raise HTTPException(403, "only this page may put settings, no other site or program")


def render(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Fill a page; all values are escaped, also those from run documents.

    Templates have `catalog_version`, the catalog's version when the request began: a part that
    shows runs names it as the version that it has seen.

    `template` is a file of this package's directory `templates`, or ``package:file.html`` for one
    in that directory of another package.
    """
    text = PAGES.get_template(template).render(
        views=[view for view in request.app.state.views if view.title],
        path=request.url.path,
        site=site_of(request),
        catalog_version=request.state.catalog_version,
        **values,
    )
    return HTMLResponse(text, status)


def formatted(value: float | None, pattern: str, least: float = -math.inf, scale: float = 1) -> str:
    """Return a number of a worker's message as text; a dash for one that is not known.

    Parameters
    ----------
    value
        None: not known; NaN has become that on the way.
    pattern
        Of the ``%`` operator.
    least
        Smaller values mean that it is not known.
    scale
        The value is multiplied by it.
    """
    return "–" if value is None or value < least else pattern % (scale * value)


def png_response(data: bytes) -> Response:
    """Return a PNG file that browsers must not keep: the next one is another."""
    return Response(data, media_type="image/png", headers={"Cache-Control": "no-store"})


def template_of_package(name: str) -> str | None:
    """Return the template ``package:file.html`` from the directory `templates` of a package."""
    package, colon, file = name.partition(":")
    if not colon:
        return None
    try:
        return (files(importable(package)) / "templates" / file).read_text(encoding="utf-8")
    except (ModuleNotFoundError, FileNotFoundError):
        return None


PAGES = Environment(
    loader=ChoiceLoader(
        [PackageLoader(importable("dashboard")), FunctionLoader(template_of_package)]
    ),
    autoescape=True,
    trim_blocks=True,
)
# Who reads a page may sit in another time zone than the computer that has made it.
PAGES.filters |= {
    "local_time": partial(local_time, offset=True),
    "in_seconds": in_seconds,
    "in_short": in_short,
    "formatted": formatted,
}
