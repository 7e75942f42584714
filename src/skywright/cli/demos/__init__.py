"""What the demo of every instrument needs: a result to report, runs to wait for, truth to compare.

A demo is a module here with ``iocs()``, the IOCs that it wants beside the default ones, and
``run(session)``, which gets the profile's namespace and returns a list of `DemoResult`.
"""

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skywright.errors import DataError

STORED_LIMIT_S = 120.0


@dataclass(frozen=True)
class DemoResult:
    """One plan that the demo ran: what was true, what was found, whether they agree."""

    plan: str
    raw_uid: str
    derived_uids: list[str]
    truth: Mapping[str, Any]
    result: Mapping[str, Any]
    ok: bool
    pictures: list[str]


def write_results(results: list[DemoResult], file: Path) -> None:
    """Write the results as a JSON list to `file`."""
    file.write_text(json.dumps([asdict(result) for result in results]))


def wait_for_derived(tiled: Any, raw_uid: str, count: int = 1) -> list[Any]:
    """Return the finished derived runs of a raw run as soon as the catalog shows `count` of them.

    Parameters
    ----------
    tiled
        Client of the root.
    raw_uid
        Start uid of the raw run.
    count
        How many analyses look at this run.

    Raises
    ------
    DataError
        If they are not there within two minutes.
    """
    from skywright.store.lookup import derived_runs

    patience, limit = threading.Event(), time.monotonic() + STORED_LIMIT_S
    while time.monotonic() < limit:
        runs = [run for run in derived_runs(tiled, raw_uid) if run.metadata.get("stop")]
        if len(runs) >= count:
            return runs
        patience.wait(0.2)
    raise DataError(
        f"run {raw_uid[:8]}: {count} finished derived runs expected in the catalog within "
        f"{STORED_LIMIT_S:g} s; look at `skywright doctor`"
    )
