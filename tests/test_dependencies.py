"""Every dependency has its line in docs/dependencies.md, and no line outlives its dependency."""

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OTHERS = {"dask", "starlette"}
"""Given by `dask`, where it is wanted, and by FastAPI."""


def imported(directory: Path) -> Iterator[str]:
    """Yield the top-level modules that an instrument imports, its demos apart."""
    for path in directory.rglob("*.py"):
        if "demos" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (each.name.partition(".")[0] for each in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module.partition(".")[0]


@pytest.mark.parametrize("name", ["loop", "psss", "panoseti", "epu", "sacla"])
def test_an_instrument_imports_what_its_extra_installs(name: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    packages = {key: {re.split(r"[\[<>=]", item)[0] for item in extras[key]} for key in extras}
    installed = packages[name] | (packages["agent"] if name == "epu" else set())
    known = set().union(*packages.values()) - OTHERS
    of_module = packages_distributions()
    modules = set(imported(ROOT / "src/skywright/instruments" / name))
    needed = {each.lower().replace("_", "-") for key in modules for each in of_module.get(key, ())}
    assert needed & known - {"skywright"} <= installed


def test_each_dependency_has_a_line() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {re.split(r"[\[<>=]", item)[0] for group in groups for item in group}
    table = (ROOT / "docs" / "dependencies.md").read_text()
    documented = set(re.findall(r"^\| ([a-z0-9-]+) \|", table, re.MULTILINE)) - {"package"}
    assert documented == declared - {"skywright"}
