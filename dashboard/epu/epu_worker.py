"""EPU on the page: ``python -m dashboard.epu.epu_worker --prefix P``, a process of its own.

It reads the PVs every `PERIOD_S` and writes a JSON line to stdout when they have changed, at least
every `LONGEST_S`. It puts nothing.
"""

import argparse
import json
import os
import sys
import threading
import time
from dataclasses import asdict
from typing import BinaryIO

from devices.epu.view import EpuView
from skywright.processes.process import end_with_parent, log_to_stderr

PERIOD_S, LONGEST_S = 1.0, 10.0


def show(view: EpuView, out: BinaryIO) -> None:
    """Write messages until nobody reads them."""
    last, when, pause = b"", 0.0, threading.Event()
    while True:
        try:
            found = {"connected": True, **asdict(view.facts())}
        except TimeoutError:
            found = {"connected": False, "status": "the IOC does not answer"}
        message = json.dumps(found | {"bytes": 0}).encode() + b"\n"
        if message != last or time.monotonic() - when > LONGEST_S:
            last, when = message, time.monotonic()
            try:
                out.write(message)
                out.flush()
            except BrokenPipeError:
                return
        pause.wait(PERIOD_S)


def main() -> None:
    """Run the worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", required=True, help="PV prefix of the IOC, with its colon")
    options = parser.parse_args()
    log_to_stderr()
    end_with_parent()
    # What libraries print must not get between the messages.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    show(EpuView(options.prefix), out)
    os._exit(0)  # Channel Access threads do not end by themselves


if __name__ == "__main__":
    main()
