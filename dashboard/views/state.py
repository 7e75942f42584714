"""The state of the beamline: its processes, the store, and all that `skywright doctor` checks."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from tiled.client.container import Container

from dashboard.site import is_same_origin, render, site_of
from dashboard.views import View
from skywright.store.client import analysis, catalog


async def state(request: Request) -> Response:
    """Show what is known."""
    site = site_of(request)
    await site.board.refresh()
    counts, wrong = await site.catalog.try_ask(count_runs)
    return render(request, "state.html", board=site.board, counts=counts, wrong=wrong)


async def examine(request: Request) -> Response:
    """Begin to check everything; the page follows."""
    if not is_same_origin(request):
        raise HTTPException(403, "asked by a page of another site")
    site_of(request).board.examine()
    return RedirectResponse("/state", 303)


def count_runs(client: Container) -> tuple[int, int]:
    """Return how many raw and derived runs there are."""
    return len(catalog(client)), len(analysis(client))


VIEW = View(
    path="/state",
    title="State",
    routes=[Route("/state", state), Route("/state/examine", examine, methods=["POST"])],
    order=90,
)
