"""The truth of the twin against what its pictures show, and against geometry by hand."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from support.twin_motion import Motion
from support.twin_seen import silhouette, tip_is_covered

from skywright.acquire.trajectory import Axis, Move
from skywright.instruments.loop.geometry import SIDES
from skywright.instruments.loop.picture import encode_jpeg
from skywright.instruments.loop.twin.mount import Mount
from skywright.instruments.loop.twin.optics import Optics
from skywright.instruments.loop.twin.render import (
    Pose,
    render,
    warm_up,
)
from skywright.instruments.loop.twin.scene import Scene
from skywright.instruments.loop.twin.truth import scene_truth

PERFECT = {
    "psf_px": 0.0,
    "depth_of_field_um": 1e12,
    "contrast": 60.0,
    "read_noise": 0.0,
    "shot_noise": 0.0,
    "stray": 0.0,
    "black": 0.0,
    "color": False,
}
MOUNTS = {
    "nylon": Mount("nylon", shape_seed=3),
    "nylon bent": Mount("nylon", stem_bend_deg=35.0, bend_direction_deg=40.0),
    "nylon icy": Mount("nylon", drop_um=150.0, ice_um=12.0, drop_overfill=1.1),
    "mitegen": Mount("mitegen", fiber_um=30.0, tab_um=400.0, stem_um=700.0),
    "mitegen curled": Mount("mitegen", curl_radius_um=300.0, drop_um=80.0),
    "pin": Mount("pin"),
}


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    warm_up()


def camera(side="left", **changes):
    lying = side in ("left", "right")
    middle = {"axis_px": 231.3 if lying else 344.6, "axial_px": 340.2 if lying else 250.7}
    return Optics(side=side, um_per_px_x=3.1, um_per_px_y=3.44, **(PERFECT | middle | changes))


def dark(scene, pose):
    """Rows and columns of the pixels that anything covers, be it by a quarter."""
    return np.nonzero(silhouette(scene, pose) < 0.9)


def by_hand(point_um, optics, phi_deg):
    """Project one point as section 6 of the facts has it, for a camera without roll."""
    x, y, z = point_um
    phi = np.deg2rad(phi_deg)
    across = y * np.cos(phi) - z * np.sin(phi)
    um_x, um_y = optics.um_per_px_x, optics.um_per_px_y
    along = -x if optics.side in ("right", "bottom") else x
    if optics.side in ("left", "right"):
        return optics.axial_px + along / um_x, optics.axis_px + across / um_y
    return optics.axis_px + across / um_x, optics.axial_px + along / um_y


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", MOUNTS)
def test_tip_is_the_far_end_of_what_is_seen(side, name):
    tip_um = (35.0, 60.0, -80.0)
    scene = Scene(replace(MOUNTS[name], tip_um=tip_um, face_on_deg=25.0), camera(side))
    for phi in (0.0, 25.0, 115.0, 200.0):
        truth = render(scene, Pose(phi_deg=phi)).truth
        assert truth.tip_in_view
        assert truth.tip_px == pytest.approx(by_hand(tip_um, scene.optics, phi), abs=1e-9)
        rows, cols = dark(scene, Pose(phi_deg=phi))
        seen, at = {
            "left": (cols.max(), truth.tip_px[0]),
            "right": (cols.min(), truth.tip_px[0]),
            "top": (rows.max(), truth.tip_px[1]),
            "bottom": (rows.min(), truth.tip_px[1]),
        }[side]
        assert abs(seen - at) <= 0.7
        # Across the axis: the tip is among the outermost pixels.
        lying = side in ("left", "right")
        last = (rows if lying else cols)[(cols if lying else rows) == seen]
        across = truth.tip_px[1] if lying else truth.tip_px[0]
        assert last.min() - 1.5 <= across <= last.max() + 1.5


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", [name for name in MOUNTS if name not in ("pin", "nylon bent")])
def test_box_is_the_extent_of_the_head(side, name):
    scene = Scene(replace(MOUNTS[name], tip_um=(100.0, 20.0, 30.0)), camera(side))
    for phi in (0.0, 60.0, 90.0):
        truth = render(scene, Pose(phi_deg=phi)).truth
        rows, cols = dark(scene, Pose(phi_deg=phi))
        x0, y0, x1, y1 = truth.box_px
        # The neck's side is open: stem and pin are cut off by the box itself.
        head = {
            "left": cols >= x0 + 1,
            "right": cols <= x1 - 1,
            "top": rows >= y0 + 1,
            "bottom": rows <= y1 - 1,
        }[side]
        rows, cols = rows[head], cols[head]
        seen = (cols.min(), rows.min(), cols.max(), rows.max())
        neck = {"left": 0, "right": 2, "top": 1, "bottom": 3}[side]
        for i in set(range(4)) - {neck}:
            # Half a pixel, and a corner thinner than the sub-frames' quarter of a pixel.
            assert abs(seen[i] - truth.box_px[i]) <= 0.9
        lying = side in ("left", "right")
        assert truth.width_px == pytest.approx(y1 - y0 if lying else x1 - x0)


@pytest.mark.parametrize("side", SIDES)
def test_pin_is_as_wide_as_told(side):
    optics = camera(side)
    scene = Scene(Mount("pin", pin_um=650.0), optics)
    truth = render(scene, Pose(phi_deg=10.0)).truth
    um = optics.um_per_px_y if side in ("left", "right") else optics.um_per_px_x
    assert truth.width_px == pytest.approx(650.0 / um, abs=0.6)
    assert all(np.isnan(truth.box_px))
    assert truth.pin_end_px == truth.tip_px


def test_face_on_and_edge_on_height():
    mount = Mount("nylon", face_on_deg=37.0, loop_width_um=300.0, fiber_um=20.0)
    scene = Scene(mount, camera())
    heights = []
    for phi in np.arange(0.0, 180.0, 1.0):
        truth = render(scene, Pose(phi_deg=phi)).truth
        heights.append(truth.width_px * scene.optics.um_per_px_y)
    heights = np.array(heights)
    # A tube around a flat ring is as high as the ring seen aslant, and the fiber.
    face = np.deg2rad(np.arange(0.0, 180.0, 1.0) - 37.0)
    expected = (300.0 - 20.0) * np.abs(np.cos(face)) + 20.0
    assert heights.argmax() == 37
    assert heights.argmin() == 127
    assert heights.max() == pytest.approx(300.0, abs=1.0)
    assert heights.min() == pytest.approx(20.0, abs=0.5)
    assert np.abs(heights - expected).max() < 1.5
    assert scene_truth(scene).face_on_deg == 37.0


@pytest.mark.parametrize("kind", ["nylon", "mitegen"])
def test_edge_on_is_a_thin_line_in_the_picture(kind):
    mount = Mount(kind, face_on_deg=10.0, thickness_um=20.0, stem_twists=0.0)
    scene = Scene(mount, camera())
    rows, cols = dark(scene, Pose(phi_deg=100.0))
    x0, _, x1, _ = render(scene, Pose(phi_deg=100.0)).truth.box_px
    inside = (cols > x0) & (cols < x1)
    assert np.ptp(rows[inside]) + 1 == pytest.approx(20.0 / scene.optics.um_per_px_y, abs=1.2)


def test_stages_move_the_sample_in_its_own_frame():
    scene = Scene(Mount(tip_um=(10.0, 40.0, -70.0)), camera())
    pose = Pose(x_um=-10.0, y_um=-40.0, z_um=70.0, phi_deg=123.0)
    truth = render(scene, pose).truth
    assert truth.tip_px == pytest.approx((scene.optics.axial_px, scene.optics.axis_px))
    assert scene_truth(scene, pose).tip_offset_um == pytest.approx((0.0, 0.0, 0.0))
    assert scene_truth(scene).tip_offset_um == pytest.approx((10.0, 40.0, -70.0))
    center = np.array(scene_truth(scene).center_offset_um)
    assert center[0] == pytest.approx(10.0 - 450.0 / 2.0, abs=6.0)
    assert center[1:] == pytest.approx((40.0, -70.0), abs=1.0)


def test_roll_tilts_the_axis_and_moves_tip_and_silhouette_alike():
    scene = Scene(Mount("nylon", tip_um=(600.0, 0.0, 0.0)), camera(roll_deg=2.0))
    truth = render(scene, Pose()).truth
    expected = scene.optics.axis_px + 600.0 * np.sin(np.deg2rad(2.0)) / 3.44
    assert truth.axis_at_tip_px == pytest.approx(expected)
    assert truth.tip_px[1] == pytest.approx(expected)
    rows, cols = dark(scene, Pose())
    assert cols.max() == pytest.approx(truth.tip_px[0], abs=0.8)
    assert np.median(rows[cols == cols.max()]) == pytest.approx(truth.tip_px[1], abs=4.0)


def test_tip_out_of_the_frame_is_nan_and_known():
    optics = camera()
    beyond = (optics.width_px - optics.axial_px + 30.0) * optics.um_per_px_x
    truth = render(Scene(Mount(tip_um=(beyond, 0.0, 0.0)), optics), Pose()).truth
    assert not truth.tip_in_view
    assert np.isnan(truth.tip_px).all()
    assert truth.tip_unclipped_px[0] == pytest.approx(optics.width_px + 30.0)


def test_nothing_is_seen_without_a_mount():
    scene = Scene(Mount("none"), camera())
    frame = render(scene, Pose())
    assert frame.truth.side is None
    assert not frame.truth.tip_in_view
    assert frame.truth.kind == "none"
    assert (silhouette(scene, Pose()) == 1.0).all()


def test_crystal_that_sticks_out_is_told_apart():
    mount = Mount(crystal_um=(300.0, 40.0, 40.0), crystal_at=(0.9, 0.0))
    scene = Scene(mount, camera())
    truth = render(scene, Pose()).truth
    assert truth.crystal_tip_px[0] > truth.tip_px[0] + 20.0
    assert truth.box_with_crystal_px[2] == pytest.approx(truth.crystal_tip_px[0], abs=0.01)
    assert dark(scene, Pose())[1].max() == pytest.approx(truth.crystal_tip_px[0], abs=0.8)


def test_absorption_follows_the_path_through_a_cylinder():
    # A pin is a closed cylinder: Beer's law along the chord, away from its ends.
    from skywright.instruments.loop.twin import parts

    steel = replace(parts.STEEL, absorption_per_um=0.002)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "STEEL", steel)
        mount = Mount("pin", pin_um=600.0, base_um=600.0, shape_seed=987)
        seen = silhouette(Scene(mount, camera(contrast=1.0)), Pose(phi_deg=17.0))
    column = seen[:, 100]
    radius, um = 300.0, 3.44
    across = (np.arange(len(column)) - 231.3) * um
    chord = 2.0 * np.sqrt(np.maximum(radius**2 - across**2, 0.0))
    inside = np.abs(across) < 0.9 * radius
    assert np.abs(column - np.exp(-0.002 * chord))[inside].max() < 0.02
    assert (column[np.abs(across) > radius + 2 * um] == 1.0).all()


def test_smear_is_offset_times_rate_times_exposure():
    # At phi = 0 a point at depth z moves across the axis at z d(phi)/dt.
    optics = camera(exposure_s=1 / 30)
    scene = Scene(Mount(tip_um=(100.0, 0.0, 400.0), face_on_deg=90.0, stem_twists=0.0), optics)
    rate, start = 60.0, 2.0
    phi = Axis(0.0, (Move(-rate * (1.0 + 1 / 60), 200.0, rate, start_time=start - 1.0),))
    motion = Motion(phi=phi)
    end = start + optics.exposure_s
    path = motion.path_over(start, end)
    frame = render(scene, motion.pose_at((start + end) / 2.0), path=path)
    expected = 400.0 * np.deg2rad(rate) * optics.exposure_s / optics.um_per_px_y
    assert frame.truth.phi_deg == pytest.approx(0.0, abs=1e-9)
    assert frame.truth.smear_px == pytest.approx(expected, rel=1e-3)
    column = round(frame.truth.tip_px[0]) - 30
    still = render(scene, Pose()).image[:, column].astype(float)
    moved = frame.image[:, column].astype(float)
    width = [
        np.nonzero(profile.max() - profile > 0.1 * (profile.max() - profile.min()))[0]
        for profile in (still, moved)
    ]
    grown = np.ptp(width[1]) - np.ptp(width[0])
    assert grown == pytest.approx(expected, abs=1.5)
    assert np.mean(width[1]) == pytest.approx(frame.truth.tip_px[1], abs=0.8)


def test_moving_stage_smears_along_the_axis():
    scene = Scene(Mount("pin"), camera())
    path = [Pose(x_um=x) for x in (-31.0, 0.0, 31.0)]
    frame = render(scene, Pose(), path=path)
    assert frame.truth.smear_px == pytest.approx(20.0)
    edge = frame.image[231].astype(float)
    ramp = np.nonzero((edge > 0.05 * edge.max()) & (edge < 0.95 * edge.max()))[0]
    assert np.ptp(ramp) == pytest.approx(18.0, abs=2.0)
    assert ramp.mean() == pytest.approx(frame.truth.tip_px[0], abs=0.7)


def test_interlaced_fields_are_apart_only_when_something_moves():
    scene = Scene(Mount("pin"), camera(interlaced=True))
    path = [Pose(x_um=x) for x in (-62.0, 0.0, 62.0)]
    for move, apart in ((path, 20.0), (None, 0.0)):
        image = render(scene, Pose(), path=move).image.astype(float)
        half = image.max() / 2.0
        edge = [np.argmax(image[row] > half) for row in (230, 231)]
        assert edge[1] - edge[0] == pytest.approx(apart, abs=2.0)


def test_out_of_focus_is_softer_and_in_place():
    sharp = Scene(Mount("pin"), camera(contrast=1.0))
    soft = Scene(Mount("pin"), camera(contrast=1.0, depth_of_field_um=100.0, focus_um=600.0))
    rows = [silhouette(scene, Pose())[231] for scene in (sharp, soft)]
    widths = [np.count_nonzero((row > 0.1) & (row < 0.9)) for row in rows]
    middles = [np.interp(0.5, row[300:400], np.arange(300, 400)) for row in rows]
    assert widths[1] == pytest.approx(2 * 1.28 * 6.0, abs=3.0)
    assert widths[0] <= 2
    assert middles[1] == pytest.approx(middles[0], abs=0.6)


def test_equal_seeds_give_equal_bits():
    scene = Scene(Mount(drop_um=60.0), Optics(dust=5, mottle=0.02, overlay=True))
    one, two, other = (render(scene, Pose(), frame_seed=seed).image for seed in (4, 4, 5))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_another_process_renders_the_same_bits():
    program = (
        "import zlib, numpy as np;"
        "from skywright.instruments.loop.twin.render import Pose, render;"
        "from skywright.instruments.loop.twin.scene import random_scene;"
        "scene = random_scene(np.random.default_rng(12), kind='nylon');"
        "print(zlib.crc32(render(scene, Pose(phi_deg=33.0), frame_seed=9).image.tobytes()))"
    )
    run = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert run[0].stdout == run[1].stdout
    scope = {}
    exec(program.replace("print(", "result = ("), scope)
    assert int(run[0].stdout) == scope["result"]


def test_lamps_off_is_flat_and_dark():
    scene = Scene(Mount(), Optics(level=200.0, reflect=100.0, light="frontlight"))
    image = render(scene, Pose(), light=0.0).image
    assert image.mean() < 6.0
    assert image.std() < 3.0
    assert render(scene, Pose()).image.mean() > 50.0


@pytest.mark.parametrize("light", ["frontlight", "darkfield"])
def test_sample_is_brighter_than_the_ground_in_reflected_light(light):
    optics = camera(light=light, level=20.0, reflect=120.0, contrast=0.5, psf_px=0.8)
    scene = Scene(Mount("nylon", loop_length_um=600.0), optics)
    frame = render(scene, Pose())
    x0, y0, x1, y1 = (round(v) for v in frame.truth.box_px)
    head = frame.image[y0:y1, x0:x1]
    assert np.percentile(head, 95) > 2.0 * np.median(frame.image)


def test_border_text_and_nozzle_are_where_told():
    plain = Optics(level=150.0, read_noise=0.0, shot_noise=0.0)
    scene = Scene(Mount("none"), plain)
    clean = render(scene, Pose()).image
    border = replace(plain, border_px=(2, 1, 0, 3), border_level=255)
    image = render(Scene(Mount("none"), border), Pose()).image
    assert (image[:2] == 255).all()
    assert (image[-1] == 255).all()
    assert (image[:, -3:] == 255).all()
    assert np.array_equal(image[2:-1, :-3], clean[2:-1, :-3])
    text = render(Scene(Mount("none"), replace(plain, overlay=True)), Pose()).image
    changed = np.nonzero((text != clean).any(axis=2))[0]
    assert changed.size > 200
    assert changed.min() > 440 or changed.max() < 40
    nozzle = replace(plain, nozzle=(0.8, 0.2, 135.0))
    image = render(Scene(Mount("none"), nozzle), Pose()).image
    assert image[20, 690].mean() < 0.3 * clean[20, 690].mean()
    assert image[300, 300] == pytest.approx(clean[300, 300], abs=1)


def test_covered_tip_is_told():
    optics = replace(camera(), nozzle=(0.9, 0.5, 180.0), nozzle_px=120.0, border_px=(0, 0, 9, 0))
    free, behind, below_border = (
        render(Scene(Mount(tip_um=(x, 0.0, 0.0)), replace(optics, side=side)), Pose()).truth
        for x, side in ((0.0, "left"), (1000.0, "left"), (1040.0, "right"))
    )
    assert not tip_is_covered(free, optics)
    assert behind.tip_in_view
    assert tip_is_covered(behind, optics)
    assert below_border.tip_px[0] < 8.0
    assert tip_is_covered(below_border, replace(optics, side="right"))


def test_color_and_gray_files():
    import io

    from PIL import Image

    frame = render(Scene(Mount(), Optics(color_vignette=(0.1, 0.0, -0.1))), Pose())
    assert frame.image.shape == (480, 704, 3)
    data = encode_jpeg(frame.image, 80)
    back = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)
    assert np.abs(back - frame.image).mean() < 4.0
    gray = render(Scene(Mount(), Optics(color=False)), Pose()).image
    assert gray.shape == (480, 704)
    assert np.asarray(Image.open(io.BytesIO(encode_jpeg(gray)))).shape == (480, 704)
