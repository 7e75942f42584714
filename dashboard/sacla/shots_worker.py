"""Shots on the page: ``python -m dashboard.sacla.shots_worker --prefix P``, a process.

It reads the PVs each period and writes a message: the facts as a JSON line, then the mean image as
float32.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from dashboard.sacla.outlines import mask_outlines
from dashboard.worker_process import argument_parser, each_period, encode, write_messages
from devices.sacla.view import ShotFacts, ShotView


def encode_facts(facts: ShotFacts, shots: int) -> bytes:
    """Return a message.

    Parameters
    ----------
    facts
        From `ShotView`.
    shots
        Most recent shots in it.
    """
    header: dict[str, Any] = {"connected": True, **asdict(facts)}
    image = np.ascontiguousarray(header.pop("image"), "<f4")
    header["image_shape"] = list(image.shape)
    header["outlines"] = mask_outlines(facts.regions, facts.regions_number)
    header["recent"] = {key: values[-shots:] for key, values in facts.recent.items()}
    return encode(header, image.tobytes())


def main() -> None:
    """Run the worker."""
    parser = argument_parser(__doc__)
    parser.add_argument("--period", type=float, default=1.0, help="s (%(default)s)")
    parser.add_argument(
        "--shots", type=int, default=500, help="number of shots in the plots (%(default)s)"
    )
    options = parser.parse_args()

    def messages() -> Iterator[bytes]:
        view = ShotView(options.prefix)
        return each_period(lambda: encode_facts(view.facts(), options.shots), options.period)

    write_messages(messages)


if __name__ == "__main__":
    main()
