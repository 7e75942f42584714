"""An instrument in a package of its own, examples/sixth_instrument, works unchanged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.stack import COMMAND

EXAMPLE = Path(__file__).parents[1] / "examples" / "sixth_instrument"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment in which the package is installed, in a directory of its own."""
    directory = tmp_path_factory.mktemp("sixth")
    source = directory / "source"
    source.mkdir()
    for file in EXAMPLE.rglob("*"):  # pip builds beside the sources
        if file.is_file() and "__pycache__" not in file.parts:
            copy = source / file.relative_to(EXAMPLE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    library = directory / "library"
    offline = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *offline, "--target", library, source], check=True
    )
    others = {name: value for name, value in os.environ.items() if not name.startswith("EPICS_")}
    return {**others, "PYTHONPATH": str(library)}


def run(
    environment: dict[str, str], *arguments: str, directory: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )


def python(environment: dict[str, str], code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_its_demo_runs_and_its_command_reads_the_file(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = run(environment, "demo", "--only", "bpm", "--json", directory=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    (result,) = json.loads(done.stdout)
    assert result["ok"]
    assert result["plan"] == "record_position"
    assert result["truth"]["x_mm"] == pytest.approx(result["result"]["mean_x"], abs=0.01)
    assert len(result["derived_uids"]) == 1
    (file,) = (tmp_path / "demo" / "assets").rglob("bpm-*.h5")
    found = json.loads(run(environment, "bpm", "position", str(file)).stdout)
    assert found["samples"] == result["result"]["samples"]
    assert found["mean_x"] == pytest.approx(result["result"]["mean_x"], abs=1e-4)


def test_it_has_a_command_a_section_a_view_with_a_page_and_an_analysis(
    environment: dict[str, str],
) -> None:
    assert "Beam position monitor" in run(environment, "--help").stdout
    assert "position" in run(environment, "bpm", "--help").stdout
    code = (
        "from skywright.config import load_settings; from dashboard.views import find_views;"
        "from skywright.analysis.named import analysis_class; from dashboard.site import PAGES;"
        "settings = load_settings();"
        "print(settings.bpm.position, settings.iocs['bpm'].module,"
        " '/bpm' in [view.path for view in find_views()], analysis_class('bpm_position').__name__,"
        " PAGES.get_template('skywright_bpm:bpm.html').name)"
    )
    assert python({**environment, "SKYWRIGHT_BPM__POSITION": '{"scale_mm": 3.0}'}, code) == (
        "{'scale_mm': 3.0} skywright_bpm.ioc True BeamPosition skywright_bpm:bpm.html"
    )
