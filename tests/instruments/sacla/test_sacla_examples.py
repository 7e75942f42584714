"""The notebooks and the operator's script run with the extra ``sacla`` alone."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sacla_file import make_replay

EXAMPLES = Path(__file__).parents[3] / "examples" / "sacla"
LEAN = Path(__file__).parent / "lean_run.py"


def run_lean(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, LEAN, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", ["point_detectors_and_roi", "whole_detector"])
def test_notebooks_run_from_first_to_last_cell(tmp_path, name):
    code, out, err = run_lean(EXAMPLES / f"{name}.ipynb", cwd=tmp_path)
    assert code == 0, err
    assert "figures 1" in out or "figures 2" in out or "figures 3" in out


def test_notebooks_have_no_outputs():
    for path in EXAMPLES.glob("*.ipynb"):
        assert '"outputs": []' in path.read_text()
        assert "image/png" not in path.read_text()


def test_the_script_without_a_window(tmp_path):
    path = make_replay(tmp_path / "run.h5", 2, 200, detectors=("MPCCD-A",))
    arguments = ["--source", "replay", "--file", path, "--speed", 0, "--headless"]
    code, out, err = run_lean(
        EXAMPLES / "roi_average.py", *arguments, "--png", "roi.png", cwd=tmp_path
    )
    assert code == 0, err
    counts = dict(line.split() for line in out.splitlines())
    assert int(counts["accepted"]) > 50
    pixels = np.asarray(Image.open(tmp_path / "roi.png").convert("L"))
    assert pixels.std() > 5
    assert run_lean(EXAMPLES / "roi_average.py", "--headless", cwd=tmp_path)[0] == 2


@pytest.fixture(name="script")
def load_script():
    spec = importlib.util.spec_from_file_location("roi_average", EXAMPLES / "roi_average.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    module.plt.close("all")


def test_the_script_averages_lets_draw_and_ends_with_its_window(
    tmp_path, script, monkeypatch, capsys
):
    path = make_replay(tmp_path / "run.h5", 2, 600, detectors=("MPCCD-A",))
    drawn, averaged, refreshed = [], [], []
    original = script.average_frames

    def average(source, detector, count):
        averaged.append(count)
        return original(source, detector, count)

    class Selector:
        def __init__(self, axes, on_select):
            drawn.append(on_select)

        def disconnect_events(self):
            pass

    def pause(seconds):
        if len(drawn) == 1:  # the operator draws
            drawn.append("done")
            drawn[0]([(3.0, 3.0), (25.0, 5.0), (15.0, 31.0)])
            return
        refreshed.append(seconds)
        if len(refreshed) == 3:
            script.plt.close("all")

    monkeypatch.setattr(script, "average_frames", average)
    monkeypatch.setattr(script, "PolygonSelector", Selector)
    monkeypatch.setattr(script.plt, "pause", pause)
    # At this pace the file lasts 200 s, longer than the window.
    arguments = ["--source", "replay", "--file", str(path), "--speed", "0.1"]
    assert script.main(arguments) == 0
    assert averaged == [10]
    assert refreshed == [1.0] * 3
    assert "accepted" in capsys.readouterr().out
