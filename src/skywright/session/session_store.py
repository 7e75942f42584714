"""What a session asks of its store: a run as soon as it is stored, and the key of the server."""

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import typer

from skywright.callbacks.journal import journal_path
from skywright.config import Settings
from skywright.errors import DataError
from skywright.store.client import connect, embedded_key
from skywright.store.lookup import uids_of_journals, waiting_runs
from skywright.waiting import pause
from skywright.words import counted

REPORT_S = 3.0
"""Period of the reports on a run that waits to be stored, s."""


def connect_for_person(settings: Settings, uri: str | None = None) -> Any:
    """Connect to the tiled server (`connect`); print to stderr when it is slow to answer."""
    return connect(uri, settings=settings, on_wait=partial(typer.echo, err=True))


class SessionStore:
    """The store of a session.

    Parameters
    ----------
    catalog
        tiled's client of the raw runs.
    directory
        Directory of the store.
    """

    def __init__(self, catalog: Any, directory: Path) -> None:
        self._catalog = catalog
        self._directory = directory
        self._journals = directory / "journal"

    def await_run(self, uid: str, limit_s: float = 30.0) -> Any:
        """Return the run `uid` from the catalog when the ingester has stored it.

        Parameters
        ----------
        uid
            Uid of a run that has ended, or its first characters.
        limit_s
            Timeout, s. It starts again each time a run that began earlier is stored.

        Raises
        ------
        DataError
            If the run is not there in time or could not be stored, or `uid` is no uid.
        """
        if not isinstance(uid, str):
            raise DataError(
                f"{type(uid).__name__}: expected the uid of a run; "
                "RE(...).run_start_uids holds the uids of its runs"
            )
        full_uid = self._full_uid(uid)
        self._await_journal(full_uid, limit_s)
        if journal_path(self._journals / "aside", full_uid).exists():
            raise DataError(
                f"run {full_uid} could not be stored; run `skywright recover`, which tries again; "
                f"the reason is in {self._directory / 'logs' / 'ingester.log'}"
            )
        try:
            return self._catalog[uid]
        except ValueError as error:
            raise DataError(
                f"{error} RE(...).run_start_uids holds the uids of its runs."
            ) from error
        except KeyError as error:
            raise DataError(
                f"run {full_uid} is not in the catalog, and its journal is not in "
                f"{self._journals}; run `skywright doctor`"
            ) from error

    def print_key(self) -> None:
        """Print the key of the store's tiled server.

        The banner does not show it: others can see the banner, and logs keep it.
        """
        typer.echo(embedded_key(self._directory), err=True)

    def report_waiting(self) -> None:
        """Print how many runs have ended and are not in the catalog yet; nothing if none waits."""
        if waiting := waiting_runs(self._journals):
            typer.echo(
                f"{counted(len(waiting), 'run')} still to be stored: `skywright up` does it, "
                "now if it runs, else at its next start",
                err=True,
            )

    def _await_journal(self, uid: str, limit_s: float) -> None:
        """Wait until the ingester is done with a journal; `DataError` after the timeout."""
        journal = journal_path(self._journals, uid)
        begin = time.monotonic()
        end, report_at, least = begin + limit_s, begin + REPORT_S, math.inf
        while journal.exists() and (now := time.monotonic()) < end:
            if now > report_at:
                waiting = waiting_runs(self._journals)
                before = waiting.index(uid) if uid in waiting else len(waiting)
                if before < least:
                    least, end = before, now + limit_s
                behind = f" after {counted(before, 'run')} that began earlier" if before else ""
                typer.echo(f"run {uid[:8]} is being stored{behind}", err=True)
                report_at = now + REPORT_S
            pause(0.02)
        if journal.exists():
            raise DataError(
                f"run {uid} is not in the catalog after {limit_s:g} s without progress; "
                "run `skywright doctor`"
            )

    def _full_uid(self, uid: str) -> str:
        """Return the full uid if one journal's uid begins with `uid`; else `uid`."""
        uids = uids_of_journals(self._journals) | uids_of_journals(self._journals / "aside")
        found = [full for full in uids if full.startswith(uid)]
        return found[0] if len(found) == 1 else uid
