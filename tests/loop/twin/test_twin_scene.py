"""Random scenes: reproducible, within their ranges, every class from every side."""

import ast
from pathlib import Path

import numpy as np
import pytest

import skywright.instruments.loop.twin
from skywright.errors import ConfigError
from skywright.instruments.loop.geometry import SIDES
from skywright.instruments.loop.twin import raster
from skywright.instruments.loop.twin.mount import Mount
from skywright.instruments.loop.twin.render import Pose, render, warm_up
from skywright.instruments.loop.twin.scene import random_scene

SMALL = {"width_px": 352, "height_px": 240}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", ["nylon", "mitegen", "pin", "none"])
def test_every_class_renders_from_every_side(kind, side):
    rng = np.random.default_rng(31)
    scene = random_scene(rng, kind=kind, side=side, **SMALL)
    frame = render(scene, Pose(phi_deg=50.0))
    assert frame.image.shape[:2] == (240, 352)
    assert frame.truth.kind == kind
    assert frame.truth.side == (None if kind == "none" else side)
    assert np.ptp(frame.image) > 3


def test_every_kernel_is_compiled_before_the_first_picture(monkeypatch):
    names = ("shade", "rasterize", "accumulate", "blur", "expose")
    called = []
    for name in names:
        kernel = getattr(raster, name)
        monkeypatch.setattr(
            raster, name, lambda *a, _n=name, _k=kernel: called.append(_n) or _k(*a)
        )
    warm_up()
    assert set(called) == set(names)


def test_same_generator_same_scenes():
    one, two = (random_scene(np.random.default_rng(5)) for _ in range(2))
    assert one == two
    assert one != random_scene(np.random.default_rng(6))


def test_overrides_hold_and_the_rest_fits():
    scene = random_scene(
        np.random.default_rng(1), kind="nylon", side="top", um_per_px_x=2.0, tip_um=(1.0, 2.0, 3.0)
    )
    assert scene.mount.kind == "nylon"
    assert scene.mount.tip_um == (1.0, 2.0, 3.0)
    assert (scene.optics.side, scene.optics.um_per_px_x) == ("top", 2.0)


def test_unknown_override_is_refused():
    with pytest.raises(ConfigError, match="zoom"):
        random_scene(np.random.default_rng(1), zoom=2.0)
    with pytest.raises(ConfigError, match="side 'up': expected left"):
        random_scene(np.random.default_rng(1), side="up")


def test_a_rim_that_leaves_no_aperture_is_refused():
    with pytest.raises(ConfigError, match="fiber_um = 37"):
        Mount("mitegen", fiber_um=37.0, loop_length_um=65.0, loop_width_um=57.0)


def test_scenes_are_as_varied_as_the_table_says():
    rng = np.random.default_rng(77)
    scenes = [random_scene(rng) for _ in range(400)]
    kinds = [scene.mount.kind for scene in scenes]
    assert 0.4 < kinds.count("nylon") / 400 < 0.6
    assert 0.03 < kinds.count("none") / 400 < 0.14
    assert {scene.optics.side for scene in scenes} == set(SIDES)
    assert {scene.optics.light for scene in scenes} == {"backlight", "frontlight", "darkfield"}
    assert {scene.mount.pin_finish for scene in scenes} == {"smooth", "frosted", "ragged"}
    scale = np.array([scene.optics.um_per_px_x for scene in scenes])
    assert scale.min() >= 0.6
    assert scale.max() <= 9.0
    offset = np.array([np.hypot(*scene.mount.tip_um[1:]) for scene in scenes])
    assert offset.max() <= 600.0


def test_most_tips_are_in_view():
    rng = np.random.default_rng(8)
    seen = [
        render(random_scene(rng, kind="nylon", **SMALL), Pose(phi_deg=30.0)).truth.tip_in_view
        for _ in range(40)
    ]
    assert np.mean(seen) >= 0.8


def test_twin_shares_no_code_with_the_analysis():
    folder = Path(skywright.instruments.loop.twin.__file__).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                modules = [name.name for name in node.names]
            ours = {name for name in modules if name.startswith("skywright")}
            assert all(
                name == "skywright.errors"
                or name.startswith(("skywright.acquire.", "skywright.instruments.loop.twin"))
                for name in ours
            ), path.name
