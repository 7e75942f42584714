"""The newest runs of an instrument's plans, for its view."""

from collections.abc import Sequence
from pathlib import Path

from tiled.client.container import Container

from dashboard.site import Site
from skywright.store.client import ANALYSIS, RAW
from skywright.store.lookup import RunFilter, RunSummary, find_runs

RUNS_MAX = 8


async def recent_runs(site: Site, plans: tuple[str, ...]) -> tuple[list[RunSummary] | None, str]:
    """Return the newest runs of these plans for the macro ``recent_runs`` of ``parts.html``.

    Returns
    -------
    runs, reason
        As `CatalogReader.try_ask` returns them: the reason says why the runs are old or None.
    """
    return await site.catalog.try_ask(newest_runs, plans, site.settings.journals)


def newest_runs(client: Container, plans: Sequence[str], journals: Path) -> list[RunSummary]:
    """Return the newest raw runs of the plans, `RUNS_MAX` at most, newest first."""
    found = [
        run
        for plan in plans
        for run in find_runs(client, RunFilter(plan=plan), RUNS_MAX, journals, (RAW,))
    ]
    return sorted(found, key=lambda run: run.time_s, reverse=True)[:RUNS_MAX]


def newest_results(
    client: Container, analysis: str, limit: int, journals: Path
) -> list[RunSummary]:
    """Return the newest derived runs of an analysis, newest first."""
    wanted = RunFilter(purpose="analysis", analysis=analysis)
    return find_runs(client, wanted, limit, journals, (ANALYSIS,))[::-1]
