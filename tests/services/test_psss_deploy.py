"""Unit, container and conda recipe: one version, flags that exist, dependencies as declared."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest

from skywright.instruments.psss.cli.app import serve_arguments

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "psss"
CAMERA = "SARFE10-PSSS059"
"""Name of an instance of the unit."""
CONDA_NAMES = {"lz4": "python-lz4", "prometheus-client": "prometheus_client"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    described: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return described


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("Containerfile", r'image\.version="([^"]+)"'),
        ("Containerfile", r"skywright-psss:(\S+)"),
        ("skywright-psss@.service", r"skywright-psss:(\d\S*)"),
        ("skywright-psss@.service", r"skywright-psss-kernels-?([^:]*):"),
        ("conda/meta.yaml", r'set version = "([^"]+)"'),
        ("../../compat/psss_processing/pyproject.toml", r'^version = "([^"]+)"'),
    ],
)
def test_versions_are_equal(project: dict[str, Any], file: str, pattern: str) -> None:
    found = re.findall(pattern, (DEPLOY / file).read_text(), re.MULTILINE)
    assert found
    assert set(found) == {project["version"]}


def test_the_units_command_line_is_accepted() -> None:
    environment = dict(
        line.split("=", 1)
        for line in (DEPLOY / "psss.env").read_text().splitlines()
        if line and not line.startswith("#")
    )
    unit = (
        (DEPLOY / "skywright-psss@.service").read_text().replace("%i", CAMERA).replace("\\\n", " ")
    )
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    given = command.split(" serve ", 1)[1].split()
    words = []
    for word in given:
        name = word.strip("${}")
        words += environment[name].split() if word.startswith("$") else [word]
    args = serve_arguments(words)
    assert args.prefix == CAMERA
    assert args.auto_start
    assert args.put_pvs
    assert "Restart=always" in unit


def test_the_container_is_asked_on_the_services_port() -> None:
    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    (asks,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", text, re.MULTILINE)
    _, *words = json.loads(asks)
    with http.server.HTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {**os.environ, "PSSS_REST_PORT": str(server.server_port)}
        subprocess.run([sys.executable, *words], env=environment, check=True)
        server.shutdown()


def test_the_unit_never_runs_beside_the_unit_of_the_old_service() -> None:
    unit = (DEPLOY / "skywright-psss@.service").read_text().replace("%i", CAMERA)
    settings = dict(re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE))
    assert settings["Conflicts"] == "psss_SARFE10-PSSS059.service"
    # Without an order systemd may start this one before the other one has stopped.
    assert settings["Conflicts"] in settings["After"].split()


def test_the_recipe_has_the_declared_dependencies(project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"]
    declared = {
        CONDA_NAMES.get(name, name) + " " + bound
        for line in (*project["dependencies"], *extras["psss"], *extras["epics"])
        for name, bound in [re.fullmatch(r"([\w.-]+)(?:\[.*\])?(>=.*)", line).groups()]  # type: ignore[union-attr]
    }
    recipe = (DEPLOY / "conda" / "meta.yaml").read_text()
    run = recipe.partition("  run:")[2].partition("\ntest:")[0]
    listed = set(re.findall(r"- (\S+ >=\S+)", run)) - {"python >=3.11"}
    assert listed == declared
    scripts = set(re.findall(r"- (\S+ = \S+)", recipe))
    assert scripts == {f"{name} = {entry}" for name, entry in project["scripts"].items()}
