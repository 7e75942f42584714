"""The process of a page's worker: its arguments, its messages on stdout, its end with the page.

A message is a JSON line and then as many bytes as its ``bytes`` gives. Only workers that answer
requests put PVs.
"""

import argparse
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from queue import SimpleQueue
from typing import Any, NoReturn

import numpy as np
from pydantic_core import to_jsonable_python

from skywright.processes.child import keep_stdout
from skywright.processes.lifecycle import SUPERVISED, end_with_parent
from skywright.processes.logs import log_to_stderr
from skywright.waiting import pause


def encode(facts: Mapping[str, Any], data: bytes = b"") -> bytes:
    """Return a message: `facts` as a JSON line, what is not finite as null, then `data`."""
    header = {**facts, "bytes": len(data)}
    plain = to_jsonable_python(header, inf_nan_mode="null", fallback=np.ndarray.tolist)
    return json.dumps(plain).encode() + b"\n" + data


def not_connected(status: str) -> bytes:
    """Return a message with nothing but a text."""
    return encode({"connected": False, "status": status})


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a worker's command line, which has ``--prefix``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--prefix", required=True, help="PV prefix of the IOC, with its colon")
    return parser


def each_period(message: Callable[[], bytes], period_s: float) -> Iterator[bytes]:
    """Yield messages without end, with a pause after each.

    When the IOC does not answer, the message says so.

    Parameters
    ----------
    message
        Reads the PVs and returns a message, or raises TimeoutError.
    period_s
        Pause between two messages, s.
    """
    while True:
        try:
            yield message()
        except TimeoutError:
            yield not_connected("the IOC does not answer")
        pause(period_s)


def answer_requests(answer: Callable[[Any], Mapping[str, Any]]) -> NoReturn:
    """Answer requests of the page's server: lines of JSON on stdin, each answered by a message.

    The first message says that this process is ready.

    Parameters
    ----------
    answer
        Does what a request asks for, and returns the answer. This process ends if it raises.
    """
    if SUPERVISED not in os.environ:
        raise SystemExit("the server of the page starts this worker; nobody else can ask it")
    requests: SimpleQueue[bytes] = SimpleQueue()

    def answers() -> Iterator[bytes]:
        yield encode({})
        while True:
            yield encode(answer(json.loads(requests.get())))

    write_messages(answers, requests.put)


def write_messages(
    messages: Callable[[], Iterable[bytes]], take_line: Callable[[bytes], object] = lambda _: None
) -> NoReturn:
    """Write messages to stdout until nobody reads them, and end this process.

    Parameters
    ----------
    messages
        Called once, when the process is set up, and before any PV is connected.
    take_line
        Called in another thread with each line from stdin.
    """
    log_to_stderr()
    end_with_parent(take_line)
    out = keep_stdout()
    try:
        for message in messages():
            out.write(message)
            out.flush()
    except BrokenPipeError:
        pass
    logging.shutdown()
    os._exit(0)  # Channel Access threads do not end by themselves
