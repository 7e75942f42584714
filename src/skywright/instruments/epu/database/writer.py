"""One thread that writes: requests that wait together are committed together.

A commit waits for the disk, so a transaction for each request would limit the service to some
hundred requests a second. Each request is answered after its own rows are on disk.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeVar

from sqlalchemy import Connection

from skywright.instruments.epu.database import Database, report_failure

T = TypeVar("T")
BATCH_MAX = 256
"""Jobs in one transaction; more would let the first one wait long."""

Bulk = Callable[[Connection, Sequence[Any]], Sequence[Any]]
"""Does several jobs at once; gives a result, or an exception to raise, for each."""


@dataclass
class _Job:
    bulk: Bulk
    item: Any
    future: Future[Any] = field(default_factory=Future)


class Writer:
    """Run functions on a connection that writes, in order, several in a transaction.

    A function may run twice: when one of those in its transaction fails, the transaction is taken
    back and done again. So it must do nothing but use the connection.

    Parameters
    ----------
    database
        The database.
    committed
        Called, on the writer's thread, after each commit.
    """

    def __init__(self, database: Database, committed: Callable[[], None] = lambda: None) -> None:
        self._database = database
        self._committed = committed
        self._trouble = ""
        """Why the last transaction failed; empty: it did not. It is logged when it changes."""
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="database writer", daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction and give its result once that is committed.

        An exception of `work` takes back what `work` wrote and is raised here.
        """
        return await asyncio.wrap_future(self.post(work))

    async def do_together(self, bulk: Bulk, item: Any) -> Any:
        """Do `item` by `bulk`, together with waiting items for the same `bulk`."""
        return await asyncio.wrap_future(self._put(bulk, item))

    def post(self, work: Callable[[Connection], T]) -> Future[T]:
        """Run `work` as `do` does; for callers on a thread, or that do not wait."""
        return self._put(_work, work)

    def _put(self, bulk: Bulk, item: Any) -> Future[Any]:
        job = _Job(bulk, item)
        self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """Finish the jobs that wait, then end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            ends = False
            while len(jobs) < BATCH_MAX and not self._jobs.empty():
                following = self._jobs.get()
                if following is None:
                    ends = True
                    break
                jobs.append(following)
            self._commit(jobs)
            if ends:
                return

    def _commit(self, jobs: Sequence[_Job]) -> None:
        try:
            try:
                outcomes = self._transact(jobs, _plainly)
            except _JobFailed:
                outcomes = self._transact(jobs, _carefully)
        except Exception as error:  # nobody's rows are stored
            self._trouble = report_failure("requests", error, self._trouble)
            outcomes = [error] * len(jobs)
        else:
            self._trouble = ""
            self._committed()
        for job, outcome in zip(jobs, outcomes, strict=True):
            if not job.future.set_running_or_notify_cancel():
                continue
            if isinstance(outcome, Exception):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)

    def _transact(self, jobs: Sequence[_Job], way: "_Way") -> list[Any]:
        outcomes: list[Any] = []
        with self._database.write() as connection:
            for bulk, group in groupby(jobs, key=lambda job: job.bulk):
                outcomes += way(connection, bulk, list(group))
        return outcomes


class _JobFailed(Exception):  # noqa: N818 (not an error of this program)
    """A job raised an exception; the transaction is taken back."""


_Way = Callable[[Connection, Bulk, list[_Job]], Sequence[Any]]


def _work(connection: Connection, works: Sequence[Callable[[Connection], Any]]) -> Sequence[Any]:
    return [work(connection) for work in works]


def _plainly(connection: Connection, bulk: Bulk, jobs: list[_Job]) -> Sequence[Any]:
    """Do the jobs without savepoints: quicker, and nearly always enough."""
    try:
        return bulk(connection, [job.item for job in jobs])
    except Exception as error:
        if connection.invalidated:
            raise
        raise _JobFailed from error


def _carefully(connection: Connection, bulk: Bulk, jobs: list[_Job]) -> Sequence[Any]:
    """Do each job by itself, so that one that fails takes back only what it wrote."""
    outcomes: list[Any] = []
    for job in jobs:
        try:
            with connection.begin_nested():
                outcomes += bulk(connection, [job.item])
        except Exception as error:
            if connection.invalidated:
                raise
            outcomes.append(error)
    return outcomes
