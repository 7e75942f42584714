"""The generators of labeled pictures, and what is done to each picture afterwards."""

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from names import MASKS
from numpy.typing import NDArray
from painter import Canvas, clutter, log_uniform, noise_field, paint
from PIL import Image
from relief import relief
from sample import NO_BOX, NOWHERE, Sample, cut, mirrored, transposed
from scipy.ndimage import gaussian_filter, label
from traced import traced

ROOT = Path(__file__).resolve().parents[2]
TWIN_SIZES = ((352, 240), (384, 307), (448, 304), (480, 400), (576, 460), (640, 436))
PARTS = {"pin": "pin", "stem": "stem", "head": "head", "drop": "head", "ice": "head"}
USUAL = 0.6  # part of the pictures as a good beamline has them; the others are spoiled
SEEN_MIN_PX = 16  # of a mount; with less there is none
CONTENT = ("drop", "ice", "crystal")


def sample_of(generator: str, seed: int) -> Sample:
    """Return a picture of one of `GENERATORS`, its conditions drawn.

    A seed gives the same picture whatever was drawn before.
    """
    rng = np.random.default_rng([seed, sorted(GENERATORS).index(generator)])
    sample = GENERATORS[generator](rng)
    usual = rng.random() < USUAL
    if generator != "other" and rng.random() < (0.2 if usual else 0.5):
        sample = zoomed(rng, sample)
    if generator not in ("twin", "other"):
        sample = posed(rng, sample)
    if generator == "other":
        return sample
    if sample.masks[:3].sum() < SEEN_MIN_PX:
        sample = Sample(sample.gray, sample.masks, other_known=sample.other_known)
    return compressed(rng, sample, 0.4, 6.0, 45) if usual else spoiled(rng, sample)


def twin(rng: np.random.Generator) -> Sample:
    """Render a scene of the 3-D twin."""
    from skywright.instruments.loop.twin.mount import Pose
    from skywright.instruments.loop.twin.render import render
    from skywright.instruments.loop.twin.scene import random_scene

    width, height = TWIN_SIZES[rng.integers(len(TWIN_SIZES))]
    fixed: dict[str, Any] = {"width_px": width, "height_px": height}
    if rng.random() < 0.2:
        fixed["light"] = str(rng.choice(["frontlight", "darkfield"]))
    scene = random_scene(rng, **fixed)
    pose = Pose(phi_deg=float(rng.uniform(0, 360)))
    frame = render(scene, pose, frame_seed=int(rng.integers(2**31)))
    truth, image = frame.truth, np.atleast_3d(frame.image).astype(np.float64)
    gray = image @ np.array([0.299, 0.587, 0.114]) if image.shape[2] == 3 else image[:, :, 0]
    if truth.kind == "none":
        return Sample(gray, np.zeros((5, *gray.shape), bool), other_known=False)
    box = truth.box_px
    if truth.kind == "pin":
        box = _box_of_pin(truth, gray.shape)
    return Sample(
        gray,
        twin_masks(scene, pose),
        truth.kind,
        str(truth.side),
        truth.tip_px,
        truth.pin_end_px if truth.kind != "pin" else NOWHERE,
        truth.crystal_tip_px,
        box if truth.tip_in_view or truth.kind != "pin" else NO_BOX,
        other_known=False,
    )


def _box_of_pin(truth: Any, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Return the box of a bare pin, from the border where it enters to its end."""
    (x, y), half = truth.tip_unclipped_px, truth.width_px / 2
    far = {"left": -0.5, "top": -0.5, "right": shape[1] - 0.5, "bottom": shape[0] - 0.5}
    at = far[truth.side]
    if truth.side in ("left", "right"):
        return min(at, x), y - half, max(at, x), y + half
    return x - half, min(at, y), x + half, max(at, y)


def twin_masks(scene: Any, pose: Any) -> NDArray[np.bool_]:
    """Return the masks of a scene: each part as its geometry projects, loops filled."""
    from skywright.instruments.loop.twin import raster
    from skywright.instruments.loop.twin.optics import projection
    from skywright.instruments.loop.twin.truth import shape_of

    optics, mesh = scene.optics, shape_of(scene).mesh
    size = optics.height_px, optics.width_px
    masks = np.zeros((len(MASKS), *size), bool)
    if mesh is None:
        return masks
    room = max(size) // 3  # a loop that the border cuts is closed outside of it
    large = size[0] + 2 * room, size[1] + 2 * room
    phi = np.deg2rad(pose.phi_deg)
    turn = np.array([np.cos(phi), np.sin(phi)])
    matrix, origin = projection(optics)
    vertex = np.zeros((len(mesh.points), 5))
    across = mesh.points[:, 1] * turn[0] - mesh.points[:, 2] * turn[1]
    vertex[:, :2] = np.stack([mesh.points[:, 0], across], 1) @ matrix.T + origin
    vertex[:, 3] = 1.0
    part_of = mesh.label[mesh.triangles[:, 0]]
    for name in np.unique(mesh.label):
        own = part_of == name
        if not own.any():
            continue
        n = int(own.sum())
        density, light = np.zeros((1, *large), np.float32), np.zeros((1, *large), np.float32)
        raster.rasterize(
            vertex, np.ascontiguousarray(mesh.triangles[own]),
            np.ascontiguousarray(mesh.face_normals[own]), np.zeros(n), np.zeros(n, bool),
            np.zeros(n, np.int32), turn, np.array([-room, -room]) * 1.0, density, light,
        )  # fmt: skip
        drawn = density[0] > 0.5
        if name != "stem":
            drawn = filled(drawn)
        drawn = drawn[room:-room, room:-room]
        if name in PARTS:
            masks[MASKS.index(PARTS[name])] |= drawn
        if name in CONTENT:
            masks[MASKS.index("content")] |= drawn
    masks[1] &= ~masks[0]
    return masks


def filled(drawn: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill the holes; the first pixel is outside.

    `scipy.ndimage.binary_fill_holes` grows the outside step by step, which takes ten times longer.
    """
    outside, _ = label(~drawn)
    return np.asarray(outside != outside[0, 0])


def painter(rng: np.random.Generator) -> Sample:
    """Paint a mount before a plain light."""
    return paint(rng, busy=False)


def composite(rng: np.random.Generator) -> Sample:
    """Paint a mount before a varied background with clutter, or clutter over a twin's picture."""
    if rng.random() < 0.75:
        return paint(rng, busy=True)
    sample = twin(rng)
    canvas = Canvas(rng, sample.gray, front=False)
    canvas.masks = sample.masks.copy()
    alone = sample.kind in ("none", "pin")
    clutter(rng, canvas, before=True, alone=alone, keep=sample.tip)
    return replace(sample, gray=canvas.gray, masks=canvas.masks)


def other(rng: np.random.Generator) -> Sample:
    """Draw a scene of the tests' other renderer: no masks, no boxes; for scores only."""
    sys.path.insert(0, str(ROOT / "tests" / "loop"))
    from other_scenes import other_scene

    gray, kind, side, tip = other_scene(int(rng.integers(2**31)))
    masks = np.zeros((5, *gray.shape), bool)
    shown = "none" if kind == "none" else side
    return Sample(gray.astype(float), masks, kind, shown, tip or NOWHERE, other_known=False)


GENERATORS = {
    "twin": twin,
    "painter": painter,
    "composite": composite,
    "relief": relief,
    "traced": traced,
    "other": other,
}


def posed(rng: np.random.Generator, sample: Sample) -> Sample:
    """Mirror and turn a picture, the mount entering at the left, until it enters at any side."""
    if rng.random() < 0.5:
        sample = mirrored(sample)
    return transposed(sample) if rng.random() < 0.25 else sample


def zoomed(rng: np.random.Generator, sample: Sample) -> Sample:
    """Cut out a part that the mount still enters; shapes of frames vary with it."""
    height, width = sample.gray.shape
    w, h = (int(n * rng.uniform(0.5, 1.0)) for n in (width, height))
    w, h = max(w, 96), max(h, 96)
    x, y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    x = {"left": 0, "right": width - w}.get(sample.side, x)
    y = {"top": 0, "bottom": height - h}.get(sample.side, y)
    part = cut(sample, int(x), int(y), w, h)
    if sample.kind != "none" and part.masks[:3].sum() < 0.002 * w * h:
        return sample
    if sample.side in ("left", "right", "top", "bottom"):
        border = {
            "left": np.s_[:, :, 0], "right": np.s_[:, :, -1],
            "top": np.s_[:, 0], "bottom": np.s_[:, -1],
        }[sample.side]  # fmt: skip
        if not part.masks[:3][border].any():
            return sample
    return part


def spoiled(rng: np.random.Generator, sample: Sample) -> Sample:
    """Light, contrast, polarity, defocus, motion, noise and compression as they come."""
    gray = sample.gray
    height, width = gray.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    if rng.random() < 0.35:
        shade = (
            rng.normal(0, 0.2) * x
            + rng.normal(0, 0.2) * y
            - abs(rng.normal(0, 0.25)) * (x**2 + y**2)
        )
        gray = gray * np.exp(shade)
    if rng.random() < 0.15:
        cx, cy = rng.uniform(-1, 1, 2)
        spot = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / log_uniform(rng, 0.01, 0.5))
        gray = gray + rng.uniform(-60, 160) * spot
    if rng.random() < 0.35:
        gray = gaussian_filter(gray, log_uniform(rng, 0.4, 4.5))
    if rng.random() < 0.15:
        gray = moved(rng, gray)
    if rng.random() < 0.25:
        gray = 255.0 * (np.clip(gray, 0, 255) / 255.0) ** log_uniform(rng, 0.5, 2.0)
    if rng.random() < 0.12:
        gray = 255.0 - gray
    if rng.random() < 0.4:
        level = float(np.median(gray))
        target = float(np.clip(level + rng.normal(0, 40), 8, 247))
        gray = target + (gray - level) * log_uniform(rng, 0.12, 1.4)
    if rng.random() < 0.1:
        gray = gray + rng.uniform(1, 12) * noise_field(rng, gray.shape, log_uniform(rng, 1.2, 4))
    if rng.random() < 0.08:
        gray = np.repeat(gray[::2], 2, axis=0)[:height] if rng.random() < 0.5 else combed(rng, gray)
    return compressed(rng, replace(sample, gray=gray), 0.4, 14.0, 20)


def compressed(
    rng: np.random.Generator, sample: Sample, least: float, most: float, quality: int
) -> Sample:
    """Noise of `least` to `most` gray levels, and JPEG of at least a quality, as they come."""
    gray = sample.gray
    if rng.random() < 0.7:
        gray = gray + rng.normal(0, log_uniform(rng, least, most), gray.shape)
    gray = np.clip(np.round(gray), 0, 255).astype(np.uint8)
    if rng.random() < 0.6:
        data = io.BytesIO()
        Image.fromarray(gray).save(data, "JPEG", quality=int(rng.integers(quality, 95)))
        gray = np.asarray(Image.open(data))
    return replace(sample, gray=gray.astype(np.float64))


def moved(rng: np.random.Generator, gray: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smear a picture along a straight way."""
    way = rng.uniform(2, 14)
    angle = rng.uniform(0, np.pi)
    steps = np.linspace(-0.5, 0.5, int(way) + 2)[:, None] * way * [np.cos(angle), np.sin(angle)]
    rolled = [np.roll(gray, tuple(np.round(s[::-1]).astype(int)), (0, 1)) for s in steps]
    return np.mean(rolled, axis=0)


def combed(rng: np.random.Generator, gray: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shift every second row, as an interlaced encoder does to what moves."""
    out = gray.copy()
    out[::2] = np.roll(gray[::2], int(rng.integers(1, 6)), axis=1)
    return out
