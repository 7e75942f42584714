"""The newest runs of an instrument's plans, for its view."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tiled.client.container import Container

from dashboard.site import Site
from skywright.errors import SkywrightError
from skywright.store.client import ANALYSIS, RAW
from skywright.store.lookup import RunFilter, RunSummary, find_runs

SHOWN = 8


@dataclass(frozen=True)
class RecentRuns:
    """Runs for the part `recent_runs` of a page.

    Parameters
    ----------
    runs
        Newest first.
    wrong
        Why the catalog cannot be read, else "".
    """

    runs: Sequence[RunSummary] = ()
    wrong: str = ""


async def recent_runs(site: Site, plans: Sequence[str]) -> RecentRuns:
    """Return the newest runs of these plans; the view is shown also when the catalog is away."""
    try:
        return RecentRuns(await site.catalog.ask(newest_of, tuple(plans), site.settings.journals))
    except SkywrightError as error:
        return RecentRuns(wrong=str(error))


def newest_of(client: Container, plans: Sequence[str], journals: Path) -> list[RunSummary]:
    """Return the newest raw runs of the plans, `SHOWN` at most, newest first."""
    found = [
        run
        for plan in plans
        for run in find_runs(client, RunFilter(plan=plan), SHOWN, journals, (RAW,))
    ]
    return sorted(found, key=lambda run: run.time_s, reverse=True)[:SHOWN]


def newest_results(
    client: Container, analysis: str, limit: int, journals: Path
) -> list[RunSummary]:
    """Return the newest derived runs of an analysis, newest first."""
    wanted = RunFilter(purpose="analysis", analysis=analysis)
    return find_runs(client, wanted, limit, journals, (ANALYSIS,))[::-1]
