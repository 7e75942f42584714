"""Bundles of the EPU agent for a machine without a network.

    python deploy/epu/agent/bundle.py wheels OUT         # wheels for Windows and an install script
    python deploy/epu/agent/bundle.py executable OUT     # one file, for the system that runs this

`wheels` fetches for another system and Python version than this one (--platform, --python). A
one-file executable is made on the system that it is for: run `executable` on Windows for Windows.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LOCK = ROOT / "requirements.lock"
"""The versions that skywright was tested with."""
MIGRATIONS = "skywright/instruments/epu/database/migrations"

INSTALL_CMD = """@echo off
rem Installs the agent beside this file, without a network; needs Python {python}.
py -{python} -m venv "%~dp0agent" || exit /b 1
set scripts=%~dp0agent\\Scripts
"%scripts%\\python" -m pip install --no-index --find-links "%~dp0." skywright[agent] || exit /b 1
echo Start it with: "%scripts%\\skywright" epu watch DIR --api-url URL
"""

INSTALL_SH = """#!/bin/sh
# Installs the agent beside this file, without a network; needs Python {python}.
here=$(cd "$(dirname "$0")" && pwd)
python{python} -m venv "$here/agent" &&
"$here/agent/bin/python" -m pip install --no-index --find-links "$here" 'skywright[agent]' &&
echo "Start it with: $here/agent/bin/skywright epu watch DIR --api-url URL"
"""


WINDOWS_ONLY = ("colorama", "tzdata")
"""Pip reads the conditions of dependencies for the system that it runs on."""


def run(*command: str | Path) -> None:
    """Run a command; its failure ends this program."""
    done = subprocess.run([str(part) for part in command], cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(map(str, command))}")


def platforms(name: str) -> list[str]:
    """Return pip's names of the platforms whose wheels run on the platform `name`.

    On Linux with glibc 2.28 these are wheels for older versions of glibc too (PEP 600). Pip itself
    takes only wheels of the platform that is named.
    """
    glibc = re.fullmatch(r"manylinux_2_(\d+)_(\w+)", name)
    if glibc is None:
        return [name]
    minor, processor = int(glibc[1]), glibc[2]
    names = [f"manylinux_2_{k}_{processor}" for k in range(minor, 16, -1)]
    return [*names, f"manylinux2014_{processor}"] if names else [name]


def wheels(out: Path, platform: str, python: str) -> None:
    """Put our wheel, the wheels that it needs, and an install script into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    pip = (sys.executable, "-m", "pip")
    run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", out, ROOT)
    own = max(out.glob("skywright-*.whl"), key=lambda wheel: wheel.stat().st_mtime_ns)
    windows = platform.startswith("win")
    run(
        *(*pip, "download", "--quiet", "--dest", out, "--only-binary", ":all:"),
        *(word for name in platforms(platform) for word in ("--platform", name)),
        *("--python-version", python, "--constraint", LOCK, f"{own}[agent]"),
        *(WINDOWS_ONLY if windows else ()),
    )
    script = out / ("install.cmd" if windows else "install.sh")
    text = (INSTALL_CMD if windows else INSTALL_SH).format(python=python)
    script.write_text(text, newline="\r\n" if windows else "\n")
    script.chmod(0o755)
    sys.stdout.write(f"{out}: {len(list(out.glob('*.whl')))} wheels, {script.name}\n")


def executable(out: Path) -> None:
    """Make one file that is the command line with what the agent needs."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        venv.create(work / "venv", with_pip=True)
        binaries = work / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
        python = binaries / "python"
        install = (python, "-m", "pip", "install", "--quiet", "--constraint", LOCK)
        run(*install, f"{ROOT}[agent]", "pyinstaller>=6.10")
        start = work / "start.py"
        start.write_text("from skywright.cli import main\n\nmain()\n")
        found = subprocess.run(
            [python, "-c", "import skywright; print(skywright.__path__[0])"],
            check=True,
            capture_output=True,
            text=True,
        )
        package = Path(found.stdout.strip()).parent
        separator = ";" if sys.platform == "win32" else ":"
        run(
            *(python, "-m", "PyInstaller", "--onefile", "--log-level", "ERROR"),
            *("--name", "skywright-epu-agent", "--distpath", out),
            *("--workpath", work / "build", "--specpath", work),
            *("--collect-submodules", "skywright.instruments.epu"),
            *("--collect-submodules", "skywright.cli", "--copy-metadata", "skywright"),
            *("--hidden-import", "logging.config"),
            *("--add-data", f"{package / MIGRATIONS}{separator}{MIGRATIONS}"),
            start,
        )
    sys.stdout.write(f"{out}: {', '.join(path.name for path in out.iterdir())}\n")


def main() -> None:
    """Read the command line and make the bundle."""
    layout = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    kinds = parser.add_subparsers(dest="kind", required=True)
    made = kinds.add_parser("wheels", help="wheels and an install script")
    made.add_argument("out", type=Path)
    made.add_argument("--platform", default="win_amd64", help="pip's name of it (%(default)s)")
    made.add_argument("--python", default="3.12", help="Python version (%(default)s)")
    made = kinds.add_parser("executable", help="one file for this system")
    made.add_argument("out", type=Path)
    options = parser.parse_args()
    out = options.out.resolve()
    if options.kind == "wheels":
        wheels(out, options.platform, options.python)
    else:
        executable(out)


if __name__ == "__main__":
    main()
