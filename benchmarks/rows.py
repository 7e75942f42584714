"""The rows that benchmarks print: one JSON object a line."""

import json

DIGITS = 4
TIMES = ("s", "ms", "us")
"""Units of times, which a slower machine has larger."""
RATES = ("1/s", "events/s", "frames/s", "pictures/s", "GB/s")
"""Units of rates, which a slower machine has smaller."""


def report(
    name: str,
    value: float,
    unit: str,
    *,
    goal: float | None = None,
    goal_here: float | None = None,
    floor: float | None = None,
    reference: float | None = None,
    **more: object,
) -> None:
    """Print one row.

    Floats, those within `more` too, are rounded to `DIGITS` significant digits, which suits
    microseconds and thousands a second alike. Integers are counts and stay as they are.

    Parameters
    ----------
    name
        What is measured, and in which case.
    value
        The measurement.
    unit
        Unit of `value`, `goal`, `floor` and `reference`.
    goal
        What a time or an error shall not exceed, or a rate shall reach. Beside that of a time or a
        rate the row has ``goal_here``, what it is on a machine as slow as this one.
    goal_here
        A goal that follows from a measurement of the same run: it is not scaled.
    floor
        The best there can be. The row's ``ratio`` is `value` to it.
    reference
        What `value` is compared with; the ratio is to it where there is no floor.
    **more
        Further keys: JSON values.
    """
    against = {"floor": floor, "reference": reference}
    given = {what: other for what, other in against.items() if other is not None}
    row: dict[str, object] = {"name": name, "value": value, "unit": unit, **given}
    if given:
        row["ratio"] = value / next(iter(given.values()))
    if goal is not None:
        from benchmarks.yardstick import slowdown

        row["goal"] = goal
        if unit in TIMES:
            row["goal_here"] = goal * slowdown()
        elif unit in RATES:
            row["goal_here"] = goal / slowdown()
    if goal_here is not None:
        row["goal_here"] = goal_here
    text = json.dumps(row | more)
    # Read back, so that floats are rounded wherever they are.
    print(json.dumps(json.loads(text, parse_float=rounded)), flush=True)


def rounded(text: str) -> float:
    """Return the number to `DIGITS` significant digits."""
    return float(f"{float(text):.{DIGITS}g}")
