"""Runs, raw and derived, with search; the list follows the catalog."""

from dataclasses import asdict, dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tiled.client.container import Container

from dashboard.site import render, site_of
from dashboard.views import View
from skywright.errors import DataError
from skywright.store.client import ANALYSIS, RAW
from skywright.store.lookup import RunFilter, RunSummary, find_runs, parse_time

LIMIT, MOST = 50, 1000


@dataclass(frozen=True)
class Search:
    """The search form as it was filled in."""

    q: str = ""
    plan: str = ""
    sample: str = ""
    since: str = ""
    until: str = ""
    kind: str = ""
    limit: int = LIMIT

    @classmethod
    def of(cls, request: Request) -> "Search":
        """Read the form from the request's address."""
        given = request.query_params
        texts = {name: given.get(name, "").strip() for name in cls.__annotations__}
        limit = texts.pop("limit")
        number = int(limit[:9]) if limit.isdecimal() else LIMIT  # all above are too many too
        return cls(**texts, limit=min(max(number, 1), MOST))

    def run_filter(self) -> RunFilter:
        """Return what to look for.

        Raises
        ------
        DataError
            If a time cannot be read.
        """
        return RunFilter(
            text=self.q or None,
            plan=self.plan or None,
            sample=self.sample or None,
            since_s=parse_time(self.since) if self.since else None,
            until_s=parse_time(self.until, end=True) if self.until else None,
            purpose="analysis" if self.kind == "derived" else None,
        )


async def runs(request: Request) -> Response:
    """Show the runs that match, newest first."""
    site, search = site_of(request), Search.of(request)
    found: list[RunSummary] = []
    try:
        search.run_filter()
    except DataError as error:
        wrong, status = str(error), 400
    else:
        # If tiled is away or silent, what was typed stays until it is back.
        answer, wrong = await site.catalog.try_ask(newest_first, search, site.settings.journals)
        found, status = answer or [], 503 if wrong else 200
    is_refined = any((search.plan, search.sample, search.since, search.until, search.kind))
    more = str(request.url.include_query_params(limit=2 * search.limit))
    return render(
        request,
        "runs.html",
        status,
        search=asdict(search),
        is_refined=is_refined,
        is_search=bool(search.q) or is_refined,
        found=found,
        wrong=wrong,
        more=more if len(found) == search.limit < MOST else "",
    )


def newest_first(client: Container, search: Search, journals: Path) -> list[RunSummary]:
    """Return the runs that match."""
    containers = {"raw": (RAW,), "derived": (ANALYSIS,)}.get(search.kind)
    found = find_runs(client, search.run_filter(), search.limit, journals, containers)
    return found[::-1]


VIEW = View(path="/runs", title="Runs", routes=[Route("/runs", runs)], order=10)
