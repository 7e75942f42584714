"""The views of the page: each module here that has a ``VIEW``, and the views of the instruments."""

import logging
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from starlette.routing import BaseRoute

from dashboard.feeds import FeedSource
from dashboard.site import Site
from skywright.instruments import instruments, resolve

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class View:
    """A part of the page.

    Parameters
    ----------
    path
        Of its first page.
    title
        In the navigation; "" if others link to it.
    routes
        All its pages.
    feeds
        Returns the live sources of the view by name; by default there are none. A text message is
        a version: a page whose element has another one is loaded again. The view defines what
        bytes mean.
    order
        In the navigation, lowest first.
    static
        Directory of scripts and styles of its own, served as ``/static/PATH/``.
    """

    path: str
    title: str
    routes: Sequence[BaseRoute]
    feeds: Callable[[Site], Mapping[str, FeedSource]] = lambda _: {}
    order: int = 100
    static: Path | None = None


def find_views() -> list[View]:
    """Return the views of this package and those of the instruments, in order.

    One that cannot be imported is logged as an error and left out.
    """
    modules = (import_module(f"{__name__}.{each.name}") for each in pkgutil.iter_modules(__path__))
    views: list[View] = [module.VIEW for module in modules if hasattr(module, "VIEW")]
    for instrument in instruments().values():
        for target in instrument.views:
            try:
                view = resolve(target)
                if not isinstance(view, View):
                    raise TypeError(f"expected a View, found {view!r}")
                views.append(view)
            except Exception as error:  # whatever another package raises: the others work
                logger.error("page view %s cannot be used: %s", target, error)
                logger.debug("because of", exc_info=True)
    return sorted(views, key=lambda view: (view.order, view.title))
