"""The files of a simulated visit agree with one another, as those of real visits do."""

import re
from collections import defaultdict
from pathlib import Path, PureWindowsPath

import pytest
from epu_trees import written

from skywright.instruments.epu.twin.visit import plan_visit
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
