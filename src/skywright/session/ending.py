"""The end of a session, a script or a notebook: no run is left open, no analysis half done."""

import asyncio
import atexit
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from contextlib import suppress
from functools import partial
from typing import Any

import typer

from skywright.callbacks.worker_supervisor import END_LIMIT_S
from skywright.errors import message_of
from skywright.words import counted

logger = logging.getLogger(__name__)

CLEANUP_LIMIT_S = 30.0
"""Maximum time to wait for the end of an aborted plan, s. Its devices may not answer."""
ANALYSIS_LIMIT_S = 30.0
"""Maximum time to wait for each analysis, s."""
QUIET_S = 1.0
"""Time after which a message says what is awaited, s."""


def finish_runs(engine: Any, analyses: Sequence[Any]) -> None:
    """Abort a run that is open, and wait for the analyses of the runs.

    The abort unstages the devices and writes the stop document. Ctrl-C has paused the run; a signal
    that ends the session leaves it running.

    Parameters
    ----------
    engine
        The RunEngine.
    analyses
        The live analyses.
    """
    if engine.state not in ("idle", "panicked"):
        paused = "paused " if engine.state == "paused" else ""
        typer.echo(f"aborting the {paused}run", err=True)
        aborting = asyncio.run_coroutine_threadsafe(_abort(engine), engine.loop)
        if not wait_with_message(
            partial(_is_done, aborting), "the plan to clean up", CLEANUP_LIMIT_S, "Ctrl-C ends it"
        ):
            logger.error("the plan has not cleaned up; look whether its devices are at rest")
        elif error := aborting.exception():
            logger.error("the plan cannot be aborted: %s", message_of(error))
    for analysis in analyses:
        what = f"the analysis {analysis.name} of {counted(len(analysis.unfinished), 'run')}"
        if not wait_with_message(
            analysis.wait_for_all, what, ANALYSIS_LIMIT_S, "Ctrl-C goes on without it"
        ):
            incomplete = ", ".join(uid[:8] for uid in analysis.unfinished)
            logger.error(
                "analysis %s is not complete, `skywright reprocess` does it anew; runs: %s",
                analysis.name,
                incomplete,
            )


async def _abort(engine: Any) -> None:
    """Abort the plan of a RunEngine and wait for its end; runs in the event loop of the engine.

    `RunEngine.abort` waits, without a limit, for this loop and for the end of a paused plan.
    """
    is_paused = engine.state == "paused"
    with suppress(RuntimeError):  # the plan ends by itself, or by an earlier abort or stop
        await engine._abort_coro("the session ended")  # noqa: SLF001  as `RunEngine.abort`
        if is_paused:
            engine._run_permit.set()  # noqa: SLF001
    for result in await asyncio.gather(engine._task, return_exceptions=True):  # noqa: SLF001
        if isinstance(result, Exception):
            logger.error("the plan failed while it cleaned up: %s", message_of(result))


def end_session(engine: Any, analyses: Sequence[Any]) -> None:
    """Finish the runs of a session, then end the workers of its analyses."""
    atexit.unregister(finish_runs)  # of the start-up files: it would wait for a device once more
    try:
        try:
            finish_runs(engine, analyses)
        except SystemExit:  # of a signal meanwhile: the devices come to rest all the same
            finish_runs(engine, analyses)
            raise
    finally:  # also where another signal has ended this waiting
        close_analyses(analyses)


def run_console(shell: Any) -> None:
    """Run an IPython console until the user leaves it.

    IPython's own `mainloop` empties the namespace at its end. But a plan that is aborted after that
    needs the names of its module.
    """
    while True:
        try:
            shell.interact()
            break
        except KeyboardInterrupt:  # of several Ctrl-C in a row, one may come here
            continue
        finally:
            shell.restore_term_title()


def close_analyses(analyses: Sequence[Any]) -> None:
    """End the workers of the live analyses; kill those that take too long, and all at Ctrl-C."""
    closing = [threading.Thread(target=each.close, daemon=True) for each in analyses]
    for thread in closing:  # in parallel, because each waits for a process to end
        thread.start()
    what = "the workers of the analyses to end"
    if not wait_with_message(
        partial(_have_ended, closing), what, 2 * END_LIMIT_S, "Ctrl-C kills them"
    ):
        for analysis in analyses:
            analysis.kill()


def wait_with_message(
    wait: Callable[[float], bool], what: str, limit_s: float, on_interrupt: str
) -> bool:
    """Wait for something; print what it is when it takes longer than `QUIET_S`.

    Parameters
    ----------
    wait
        Waits at most the time in its argument, s; returns whether it has happened.
    what
        What is awaited, in words.
    limit_s
        Maximum time to wait after the message, s.
    on_interrupt
        What Ctrl-C does, in words.

    Returns
    -------
    bool
        Whether it has happened; False after both times, or Ctrl-C.
    """
    try:
        if wait(QUIET_S):
            return True
        typer.echo(f"waiting for {what}, at most {limit_s:g} s; {on_interrupt}", err=True)
        return wait(limit_s)
    except KeyboardInterrupt:
        return False


def _is_done(future: "futures.Future[None]", limit_s: float) -> bool:
    return bool(futures.wait([future], limit_s).done)


def _have_ended(threads: Sequence[threading.Thread], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0.0))
    return not any(thread.is_alive() for thread in threads)
