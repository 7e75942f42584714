"""The files of a simulated visit agree with one another, as those of real visits do."""

import math
import re
import statistics
from collections import defaultdict
from pathlib import Path, PureWindowsPath

import pytest
from epu_trees import written
from support.epu_microscope import acquire

from skywright.instruments.epu.decisions.analysis import CTF_LIMIT_A
from skywright.instruments.epu.twin.visit import RESOLUTION_SPREAD, plan_visit
from skywright.instruments.epu.twin.writer import visit_files


def test_a_square_names_its_image() -> None:
    images: set[str] = set()
    named: dict[str, str] = {}
    for write in visit_files(plan_visit(seed=3, squares=6, imaged=3, holes=4), images=True):
        path = Path(write.path)
        if path.suffix == ".mrc":
            images.add(path.name)
        found = re.search(rb"<GridSquareImagePath[^>]*>([^<]+)<", write.content)
        if path.suffix == ".dm" and found:
            named[path.stem] = PureWindowsPath(found[1].decode()).name
    assert len(set(named.values())) == len(named) == 3
    assert set(named.values()) <= images


def shifts(folder: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Return the beam shift of each area, by hole."""
    found: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    for path in folder.rglob("FoilHole_*_Data_*.xml"):
        _, hole, _, area, *_ = path.stem.split("_")
        x, y = re.search(rb"(?s)<BeamShift.*?_x>([^<]+)<.*?_y>([^<]+)<", path.read_bytes()).groups()
        found[hole][area] = float(x), float(y)
    return found


def test_the_beam_shift_tells_the_acquisition_area(tmp_path: Path, test_data: Path) -> None:
    visit = plan_visit(seed=3, squares=6, imaged=3, holes=4)
    simulated = shifts(written(visit, tmp_path))
    real = shifts(test_data / "epu" / "real-cm40593-1")
    assert (len(simulated), len(real)) == (12, 2)
    for holes in (simulated, real):
        first, *others = holes.values()
        for other in others:
            areas = sorted(first.keys() & other.keys())
            for axis in (0, 1):
                steps = [each[areas[1]][axis] - each[areas[0]][axis] for each in (first, other)]
                assert steps[0] == pytest.approx(steps[1], abs=1e-6)
                assert steps[0] != 0


def test_only_micrographs_are_taken_with_a_beam_shift(tmp_path: Path, test_data: Path) -> None:
    visit = plan_visit(seed=3, squares=6, imaged=3, holes=4)
    for folder in (written(visit, tmp_path), test_data / "epu" / "real-cm40593-1"):
        others = [path for path in folder.rglob("*.xml") if "_Data_" not in path.name]
        assert others
        for path in others:
            assert re.search(rb"(?s)<BeamShift.*?_x>0<.*?_y>0<", path.read_bytes())


def test_the_files_of_a_grid_take_as_long_as_its_night() -> None:
    visit = plan_visit(seed=3, squares=6, imaged=3, holes=4)
    times = {Path(write.path).name: write.time for write in visit_files(visit)}
    taken_s = times["EpuSession.dm"] - 60.0  # the atlas comes first

    def micrographs(seconds: float) -> int:
        return acquire(
            visit.grids[0],
            lambda _, left, __: next((square for square, holes in left.items() if holes), ""),
            seconds,
        ).micrographs

    assert micrographs(taken_s) == len(visit.micrographs())
    assert micrographs(taken_s - 0.1) == len(visit.micrographs()) - 1


def test_estimates_of_the_resolution_scatter_about_the_truth() -> None:
    found = plan_visit(seed=3, imaged=30, holes=30).micrographs()
    errors = [math.log(each.resolution / each.true_resolution) for each in found]
    # The spread of 6000 errors is known to 1 %.
    assert statistics.pstdev(errors) == pytest.approx(RESOLUTION_SPREAD, rel=0.05)
    assert abs(statistics.fmean(errors)) < 0.005
    for is_good in (True, False):
        alike = [each for each in found if each.good == is_good]
        assert all((each.true_resolution <= 4.0) == is_good for each in alike)
        wrong = sum((each.resolution <= CTF_LIMIT_A) != is_good for each in alike)
        assert 0.02 < wrong / len(alike) < 0.12
