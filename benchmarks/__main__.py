"""Run every benchmark, or those named: ``python -m benchmarks [store camera ...]``.

Each runs in a process of its own, so that none warms or slows another, and prints one JSON object
a line: ``name``, ``value``, ``unit``, where there is one ``floor`` or ``reference`` with ``ratio``,
``goal``, and more.
"""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main(names: list[str]) -> int:
    """Run the benchmarks `names`, all when empty; return the number that failed."""
    known = {path.stem.removeprefix("bench_"): path for path in sorted(FOLDER.glob("bench_*.py"))}
    unknown = sorted(set(names) - set(known))
    if unknown:
        sys.stderr.write(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}\n")
        return 2
    failed = 0
    for name in names or known:
        command = [sys.executable, "-m", f"benchmarks.{known[name].stem}"]
        if subprocess.run(command, cwd=FOLDER.parent, check=False).returncode:
            sys.stderr.write(f"benchmark {name} failed\n")
            failed += 1
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
