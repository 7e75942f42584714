"""Text of numbers: of point detectors with a unit, as SACLA's database returns it, and ours."""

import math
import re

# No character fits two parts that follow each other: the time for a long text would explode.
_NUMBER = re.compile(
    r"\s*(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"
    r"(?:\s*(?P<unit>(?:[^\W\d_]|[%°])(?:[^\W\d_]|[%°/*·.]|\^-?\d)*))?\s*",
)


def parse_value(text: object) -> float:
    """Read one value of ``read_syncdatalist``.

    Parameters
    ----------
    text
        A number with an optional unit: ``"1.23V"``, ``"-1500pulse"``, ``"1"``. The text of any
        other value is read.

    Returns
    -------
    float
        The number. NaN if there is none: ``"not-converged"``, ``"saturated"``, empty, None, or a
        number that is not finite.
    """
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    found = _NUMBER.fullmatch(text)
    if found is None:
        return math.nan
    value = float(found["number"])
    return value if math.isfinite(value) else math.nan


def format_number(value: float) -> str:
    """Return the shortest text of a number that is read as the same number, ``1`` for 1.0."""
    return repr(float(value)).removesuffix(".0")
