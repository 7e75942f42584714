"""Start and end of a process that another one started: ready line, signals, end, priority."""

import atexit
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from skywright.waiting import pause

if TYPE_CHECKING:
    import asyncio

SUPERVISED = "SKYWRIGHT_SUPERVISED"
END_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOP_LIMIT_S = 5.0
"""Time after the parent's end until the process is killed, s. `Supervisor.stop` waits less: it
kills a process `skywright.processes.supervisor.STOP_S` after SIGTERM."""


def announce_ready(**facts: object) -> None:
    """Print the ready line, ``{"ready": {...}}`` in JSON, to stdout.

    The supervisor and the tests await this line; all other output of a server goes to stderr.

    Parameters
    ----------
    **facts
        What the starter needs to know: ports in use, prefix, URI. JSON values only.
    """
    sys.stdout.write(json.dumps({"ready": facts}) + "\n")
    sys.stdout.flush()


@contextmanager
def default_signal_handling() -> Iterator[None]:
    """Context in which SIGTERM and SIGINT end the process at once, without cleanup.

    Python runs its signal handlers in the main thread, when that is free; at the end it also waits
    for other threads. Only the main thread may call this.
    """
    before = {number: signal.signal(number, signal.SIG_DFL) for number in END_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def call_on_end_signal(call: Callable[[], object], *, once: bool = False) -> None:
    """Call `call` in a thread of its own on SIGTERM and on SIGINT.

    Call it from the main thread only. With `once`, a second signal is a `KeyboardInterrupt`: what
    `call` ends may hang.

    Python runs a signal handler in the main thread, between any two of its instructions. A handler
    that sets a `threading.Event` waits for ever if the main thread holds the lock of that event
    just then. So the handler only puts the signal into a queue whose `put` may be interrupted by
    itself (`queue.SimpleQueue`), and a thread makes the call.
    """
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()

    def call_on_each_signal() -> None:
        while True:
            signals.get()
            call()

    def handle(received: int, _frame: FrameType | None) -> None:
        if once:
            for number in END_SIGNALS:
                signal.signal(number, signal.default_int_handler)
        signals.put(received)

    threading.Thread(target=call_on_each_signal, name="end signals", daemon=True).start()
    for number in END_SIGNALS:
        signal.signal(number, handle)


def stop_event() -> "asyncio.Event":
    """Return an event of the running loop that SIGTERM and SIGINT set.

    SIGHUP, which comes when the terminal is closed, sets it too, unless it is ignored (nohup).
    """
    import asyncio

    stop = asyncio.Event()
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    for number in END_SIGNALS if is_ignored else (*END_SIGNALS, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def end_with_parent(take_line: Callable[[bytes], object] = lambda _: None) -> None:
    """End this process, by SIGTERM to itself, when the process that started it is gone.

    The parent holds the write end of our stdin, so its death, SIGKILL included, closes it. A
    process that has not ended `STOP_LIMIT_S` later is killed. Does nothing unless the parent has
    set ``SKYWRIGHT_SUPERVISED``.

    Parameters
    ----------
    take_line
        Called, in a thread, with each line that the parent writes.
    """
    if not os.environ.get(SUPERVISED):
        return

    def wait_for_end_of_stdin() -> None:
        with open(0, "rb", closefd=False) as lines:  # not sys.stdin, whose lock Python's end takes
            for line in lines:
                take_line(line)
        os.kill(os.getpid(), signal.SIGTERM)
        pause(STOP_LIMIT_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait_for_end_of_stdin, name="end with parent", daemon=True).start()


def end_process(status: int = 0) -> NoReturn:
    """End this process at once, for a server that has closed everything it holds.

    Functions registered with `atexit` run and the standard streams are flushed. Python's own end
    also takes down each module, which takes 0.7 s with compiled kernels and several seconds on a
    busy machine, and it waits for threads that still work, such as a request without an answer.
    """
    atexit._run_exitfuncs()  # noqa: SLF001  as multiprocessing does in its children
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
            stream.flush()
    os._exit(status)


def lower_priority() -> None:
    """Lower the priority of this process, so that sessions and cameras come first.

    For processes that may be late: those of the store and of the analyses.
    """
    os.nice(5)
