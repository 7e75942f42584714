"""Run every benchmark, or those named: ``python -m benchmarks [store camera ...]``.

Each runs in a process of its own, so that none warms or slows another, and prints one JSON object
a line: ``name``, ``value``, ``unit``, where there is one ``floor`` or ``reference`` with ``ratio``,
``goal``, and more. The first line says how fast this machine is (`yardstick`); by it the goals of
times and rates are scaled to ``goal_here``.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import yardstick

FOLDER = Path(__file__).parent


def main(arguments: list[str]) -> int:
    """Run the benchmarks that `arguments` name, all when empty; return 1 if one failed, else 0."""
    known = {path.stem.removeprefix("bench_"): path for path in sorted(FOLDER.glob("bench_*.py"))}
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, epilog=f"Names: {', '.join(known)}."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="those to run (all)")
    names = parser.parse_args(arguments).names
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    environment = {**os.environ, yardstick.VARIABLE: str(yardstick.measure())}
    failed = 0
    for name in names or known:
        command = [sys.executable, "-m", f"benchmarks.{known[name].stem}"]
        done = subprocess.run(command, cwd=FOLDER.parent, env=environment, check=False)
        if done.returncode:
            sys.stderr.write(f"benchmark {name} failed\n")
            failed += 1
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
