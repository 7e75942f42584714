"""Every dependency has its line in docs/dependencies.md, and no line outlives its dependency."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_each_dependency_has_a_line() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {re.split(r"[\[<>=]", item)[0] for group in groups for item in group}
    table = (ROOT / "docs" / "dependencies.md").read_text()
    documented = set(re.findall(r"^\| ([a-z0-9-]+) \|", table, re.MULTILINE)) - {"package"}
    assert documented == declared - {"skywright"}
