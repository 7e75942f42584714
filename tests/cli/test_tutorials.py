"""The tutorials, typed as they stand: their Python blocks run as a script of a session."""

import json
import re
from pathlib import Path

import pytest
from support.stack import run

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
FOUND = {
    "first-centered-loop": "[list(pictures.shape), done.ok, done.residual_um, len(done.uids)]",
    "first-spectra": "[list(spectra.shape), len(set(ids.tolist())), found['n_frames'],"
    " found['n_good']]",
}
ELSEWHERE = {"first-live-view"}
"""Tried without a session, in ``tests/instruments/panoseti/test_view.py``."""

pytestmark = pytest.mark.timeout(400)  # a test may start the whole beamline


def test_each_tutorial_is_tried() -> None:
    assert sorted({*FOUND, *ELSEWHERE}) == sorted(path.stem for path in TUTORIALS.glob("*.md"))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("first-centered-loop", marks=pytest.mark.soak),  # a minute
        "first-spectra",
    ],
)
def test_a_tutorial_does_what_it_says(name: str, beamline: dict[str, str], tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (TUTORIALS / f"{name}.md").read_text(), re.S)
    script = tmp_path / "typed.py"
    script.write_text(
        "\n".join([*blocks, "import json", f"print('FOUND', json.dumps({FOUND[name]}))"])
    )
    done = run("session", str(script), **beamline)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND"))
    found = json.loads(line.removeprefix("FOUND"))
    if name == "first-spectra":
        assert found[:3] == [[500, 2560], 500, 500]
        assert found[3] > 400  # the background has no light in it
    else:
        shape, ok, residual_um, passes = found
        assert shape == [3, 480, 704]
        assert ok
        assert residual_um < 10.0
        assert passes >= 1
