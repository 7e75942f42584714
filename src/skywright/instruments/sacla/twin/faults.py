"""What goes wrong at the simulated beamline."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from skywright.errors import ConfigError

LATE_SHOTS, DISORDER_SHOTS = 300, 20
"""LATE_SHOTS: delay of a late record, in shots. DISORDER_SHOTS: largest delay of an out-of-order
record, in shots."""
PAUSE_S = 2.0
"""Time between two runs; the usual records of a run have come by then."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong: probabilities per record, and how often a run begins.

    Parameters
    ----------
    missing, repeated
        The record never comes; comes twice.
    no_value
        A point detector gives ``not-converged`` in place of a number.
    other_run
        The record carries the number of the run before.
    late, out_of_order
        late: the record comes `LATE_SHOTS` later than usual. out_of_order: it comes up to
        `DISORDER_SHOTS` later.
    run_shots
        A new run begins after each N shots, with the next tags; 0: never.
    """

    missing: float = 0.0
    repeated: float = 0.0
    no_value: float = 0.0
    other_run: float = 0.0
    late: float = 0.0
    out_of_order: float = 0.0
    run_shots: int = 0


def parse_faults(texts: Sequence[str]) -> Faults:
    """Read faults, each as ``NAME=VALUE``.

    Raises
    ------
    ConfigError
        If there is no such fault, a value is no probability, or no number of shots.
    """
    known = {name: type(value) for name, value in asdict(Faults()).items()}
    chosen = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            number = chosen[name] = known[name](value)
            is_right = number >= 0 and (number <= 1 or name == "run_shots")
        except (KeyError, ValueError):
            is_right = False
        if not is_right:
            raise ConfigError(
                f"fault {text!r}: expected run_shots=N, or NAME=PROBABILITY with one of "
                f"{', '.join(name for name in known if name != 'run_shots')}"
            )
    return Faults(**chosen)
