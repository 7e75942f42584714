"""EPU on the page: ``python -m dashboard.epu.epu_worker --prefix P``, a process of its own.

It reads the PVs every `PERIOD_S` and writes a message when they have changed, and at least every
`LONGEST_S`.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict

from dashboard.worker_process import argument_parser, each_period, encode, write_messages
from devices.epu.view import EpuFacts
from devices.facts import FactsView

PERIOD_S, LONGEST_S = 1.0, 10.0


def changed_messages(view: FactsView[EpuFacts]) -> Iterator[bytes]:
    """Yield a message when the PVs have changed, and at least every `LONGEST_S`."""
    last, when = b"", 0.0
    for message in each_period(
        lambda: encode({"connected": True, **asdict(view.facts())}), PERIOD_S
    ):
        if message != last or time.monotonic() - when > LONGEST_S:
            last, when = message, time.monotonic()
            yield message


def main() -> None:
    """Run the worker."""
    options = argument_parser(__doc__).parse_args()
    write_messages(lambda: changed_messages(FactsView(options.prefix, EpuFacts)))


if __name__ == "__main__":
    main()
