"""PANOSETI on the page: ``python -m dashboard.panoseti.pano_worker --prefix P``, a process.

It reads the PVs every `PERIOD_S` and writes to stdout a JSON line, followed by the pixels of its
images as int32, one after the other, ``bytes`` of them. It puts nothing.
"""

import argparse
import json
import os
import sys
import threading
from typing import BinaryIO

import numpy as np

from devices.panoseti.view import PanosetiFacts, PanosetiView
from skywright.processes.process import end_with_parent, log_to_stderr

PERIOD_S = 1.0


def encode(facts: PanosetiFacts) -> bytes:
    """Return a message: the facts as a JSON line, then the pixels."""
    pixels = b"".join(np.ascontiguousarray(each.pixels, "<i4").tobytes() for each in facts.images)
    said = {
        "connected": True,
        "run": facts.run,
        "state": facts.state,
        "message": facts.message,
        "events": facts.events,
        "images": [
            {
                "slot": each.slot,
                "module": each.module,
                "product": each.product,
                "seconds": each.seconds,
                "flags": each.flags,
                "rows": each.rows,
                "sequence": each.sequence,
                "side": len(each.pixels),
            }
            for each in facts.images
        ],
    }
    return json.dumps(said | {"bytes": len(pixels)}).encode() + b"\n" + pixels


def show(view: PanosetiView, out: BinaryIO) -> None:
    """Write messages until nobody reads them."""
    pause = threading.Event()
    while True:
        try:
            message = encode(view.facts())
        except TimeoutError:
            silent = {"connected": False, "status": "the IOC does not answer", "bytes": 0}
            message = json.dumps(silent).encode() + b"\n"
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
    show(PanosetiView(options.prefix), out)
    os._exit(0)  # Channel Access threads do not end by themselves


if __name__ == "__main__":
    main()
