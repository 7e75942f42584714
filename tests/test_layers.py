"""The arrows between the rooms (pyproject.toml, tool.importlinter) hold."""

import subprocess
import sys
from pathlib import Path


def test_import_contracts_hold() -> None:
    lint = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr
