"""The spectrometer of the page: ``python -m dashboard.psss.spectrum_worker --prefix P``, a process.

It reads the PVs every `PERIOD_S` and writes to stdout a JSON line of what they say and, after a new
pulse, axis, spectrum and average as float32, ``bytes`` of them. It puts nothing.
"""

import argparse
import json
import math
import os
import sys
import threading
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np

from devices.psss.view import SpectrumView
from skywright.processes.process import end_with_parent, log_to_stderr

PERIOD_S = 0.5


def encode(facts: dict[str, Any], arrays: tuple[np.ndarray, ...] = ()) -> bytes:
    """Return a message: facts as a JSON line, NaN as null, then the arrays one after the other."""
    data = b"".join(np.ascontiguousarray(each, np.float32).tobytes() for each in arrays)
    known = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in facts.items()}
    return json.dumps(known | {"bytes": len(data)}).encode() + b"\n" + data


def show(view: SpectrumView, out: BinaryIO) -> None:
    """Write messages until nobody reads them."""
    shown, pause = -1.0, threading.Event()
    while True:
        try:
            facts = view.facts()
            new = facts.pulse_id != shown
            message = encode({"connected": True, **asdict(facts)}, view.spectra() if new else ())
            shown = facts.pulse_id
        except TimeoutError:
            message = encode({"connected": False, "status": "the IOC does not answer"})
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
    show(SpectrumView(options.prefix), out)
    os._exit(0)  # Channel Access threads do not end by themselves


if __name__ == "__main__":
    main()
