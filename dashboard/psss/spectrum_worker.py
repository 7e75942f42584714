"""The process that reads the spectrometer: ``python -m dashboard.psss.spectrum_worker --prefix P``.

It reads the PVs every `PERIOD_S` and writes a message with their values and, after a new pulse,
axis, spectrum and average as float32.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from dashboard.worker_process import argument_parser, each_period, encode, write_messages
from devices.psss.view import SpectrumView

PERIOD_S = 0.5


def encode_spectra(facts: dict[str, Any], arrays: tuple[np.ndarray, ...] = ()) -> bytes:
    """Return a message: the facts, then the arrays one after the other as float32."""
    return encode(facts, b"".join(np.asarray(each, "<f4").tobytes() for each in arrays))


def new_spectra(view: SpectrumView) -> Iterator[bytes]:
    """Yield messages; one after a new pulse has its axis, spectrum and average as float32."""
    last = -1.0

    def message() -> bytes:
        nonlocal last
        facts = view.facts()
        arrays = view.spectra() if facts.pulse_id != last else ()
        last = facts.pulse_id
        return encode_spectra({"connected": True, **asdict(facts)}, arrays)

    return each_period(message, PERIOD_S)


def main() -> None:
    """Run the worker."""
    options = argument_parser(__doc__).parse_args()
    write_messages(lambda: new_spectra(SpectrumView(options.prefix)))


if __name__ == "__main__":
    main()
