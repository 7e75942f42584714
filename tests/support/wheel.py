"""The wheel, built from this checkout, and a site that has installed it."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

from skywright.rooms import ROOMS

ROOT = Path(__file__).parents[2]


def build_wheel(directory: Path, project: Path = ROOT) -> Path:
    """Build the wheel of this checkout, or of a project in it, in a directory; return its file."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", directory, project]
    subprocess.run([*pip, *build], check=True)
    (found,) = directory.glob("*.whl")
    return found


def make_site(wheel: Path, directory: Path) -> Path:
    """Install the wheel in a directory beside a site's own `plans`, `devices` ...; return it."""
    for room in ROOMS:
        (directory / room).mkdir()
        (directory / room / "__init__.py").write_text("MARK = 'of the site'\n")
    with ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory
