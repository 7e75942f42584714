"""From the shell to a session's first line: ``python -m benchmarks.bench_session``.

Starts and stops the whole simulated beamline each time, on a store of its own.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.options import argument_parser
from benchmarks.rows import report

GOAL_S = 10.0
REPEATS = 6


def time_to_ready(directory: Path) -> float:
    """Return the seconds until a session runs its first line, s."""
    environment = {
        **os.environ,
        "SKYWRIGHT_STORE__DIRECTORY": str(directory / "store"),
        "SKYWRIGHT_PREFIX": f"BENCH{os.getpid()}:",
    }
    command = [sys.executable, "-m", "skywright.cli", "session", "-c"]
    code = "axis, RE, cat, db, take_pictures; print('ready', flush=True)"
    started = time.perf_counter()
    with subprocess.Popen(
        [*command, code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as session:
        assert session.stdout is not None
        if session.stdout.readline().strip() != "ready":
            _, words = session.communicate()
            raise SystemExit(f"the session did not start: {words}")
        return time.perf_counter() - started


def main() -> int:
    """Print the row; return 0."""
    argument_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as directory:
        first, *others = [time_to_ready(Path(directory)) for _ in range(REPEATS)]
    name = "session ready, simulated beamline started with it"
    report(name, statistics.median(others), "s", goal=GOAL_S, with_a_new_store=first)
    return 0


if __name__ == "__main__":
    sys.exit(main())
