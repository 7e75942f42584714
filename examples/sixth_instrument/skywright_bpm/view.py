"""The monitor's page: its latest runs."""

from skywright.dashboard.site import render, site_of
from skywright.dashboard.views import View
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from skywright.store.lookup import RunFilter, find_runs

RUNS_MAX = 20


async def bpm(request: Request) -> Response:
    """Show the newest recordings."""
    site = site_of(request)
    runs = await site.catalog.ask(find_runs, RunFilter(plan="record_position"), RUNS_MAX)
    return render(request, "skywright_bpm:bpm.html", runs=runs)


VIEW = View(path="/bpm", title="BPM", routes=[Route("/bpm", bpm)], order=60)
