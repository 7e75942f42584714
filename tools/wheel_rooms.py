"""What hatchling calls when it builds the wheel: the rooms go inside skywright.

A checkout has ``iocs``, ``devices``, ``plans``, ``dashboard`` and ``profile_collection`` at its
top; in a site's environment these names may be taken. Their imports are written anew in the wheel:
``from devices.psss import ...`` becomes ``from skywright.devices.psss import ...``. Names in
strings stay, and pass through `skywright.rooms.importable`.
"""

import ast
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOMS = ("iocs", "devices", "plans", "dashboard", "profile_collection")
"""As in `skywright.rooms`, which the environment of a build does not have."""
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc")


class WheelRooms(BuildHookInterface[Any]):
    """Adds skywright with the rooms inside to a wheel; an editable install has none of it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the files and name them to hatchling."""
        if version == "editable":
            return
        self.made = tempfile.TemporaryDirectory(prefix="skywright-wheel-")
        package = Path(self.made.name) / "skywright"
        root = Path(self.root)
        shutil.copytree(root / "src" / "skywright", package, ignore=LEFT_OUT)
        for room in ROOMS:
            shutil.copytree(root / room, package / room, ignore=LEFT_OUT)
        for path in package.rglob("*.py"):
            path.write_text(inside_skywright(path.read_text("utf-8"), str(path)), "utf-8")
        build_data["force_include"][str(package)] = "skywright"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the files."""
        if version != "editable":
            self.made.cleanup()


def inside_skywright(source: str, file: str) -> str:
    """Return a module's source with its imports of rooms under skywright.

    Parameters
    ----------
    source
        Of the module.
    file
        Its name, for messages.

    Raises
    ------
    SyntaxError
        If it is no Python.
    ValueError
        If it has an import that binds the name of a room, ``import devices.psss``: what uses that
        name would have to be written anew too.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source, file)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and _room(node.module or ""):
            line = lines[node.lineno - 1]
            before, rest = line[: node.col_offset], line[node.col_offset :]
            lines[node.lineno - 1] = before + re.sub(r"^from\s+", "from skywright.", rest)
        elif isinstance(node, ast.Import) and any(_room(each.name) for each in node.names):
            raise ValueError(f"{file}, line {node.lineno}: write `from room import ...`")
    return "".join(lines)


def _room(module: str) -> bool:
    return module.partition(".")[0] in ROOMS
