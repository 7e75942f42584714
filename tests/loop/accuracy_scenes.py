"""Scenes of the twin as pictures with truth, and how a detection of one is scored.

The conditions are those of docs/reference/loop-accuracy.md.
"""

from dataclasses import dataclass, replace

import numpy as np
import simplejpeg
from scipy.ndimage import uniform_filter
from support.twin_seen import tip_is_covered

from skywright.instruments.loop.detect import find_loop
from skywright.instruments.loop.twin.mount import Pose
from skywright.instruments.loop.twin.render import render
from skywright.instruments.loop.twin.scene import random_scene

BAD_PX = 25.0
MISS_PX = 999.0


@dataclass(frozen=True)
class Score:
    """One picture: what it shows, whether it counts, and how far the answer is off.

    `what` is "ok", "empty", "beyond" (tip out of the frame) or "covered"; `unusable` says why the
    light does not count, "" if it does. NaN where there is nothing to compare.
    """

    seed: int
    what: str
    unusable: str
    groups: dict
    kind: str
    found: object
    error_px: float = float("nan")
    overlap: float = float("nan")
    width_error_px: float = float("nan")
    side_right: bool = False
    kind_right: bool = False

    @property
    def counts(self):
        return self.what == "ok" and not self.unusable


def as_gray(image, quality):
    """Encode and decode like a camera: (H, W) uint8."""
    color = np.ascontiguousarray(np.atleast_3d(image))
    space = "RGB" if color.shape[2] == 3 else "GRAY"
    data = simplejpeg.encode_jpeg(color, quality=quality, colorspace=space)
    return simplejpeg.decode_jpeg(data, colorspace="GRAY")[:, :, 0]


def score(seed, phi_deg=None, scene=None, **fixed):
    """Render the scene of a seed, find the loop and compare."""
    rng = np.random.default_rng(seed)
    scene = scene or random_scene(rng, **fixed)
    pose = Pose(phi_deg=float(rng.uniform(0, 360)) if phi_deg is None else phi_deg)
    frame = render(scene, pose, frame_seed=seed)
    gray, truth = as_gray(frame.image, scene.optics.jpeg_quality), frame.truth
    found = find_loop(gray)
    tips, boxes = tips_in_view(truth, gray.shape), boxes_in_view(truth, gray.shape)
    base = Score(
        seed=seed,
        what=what_is_seen(truth, tips, scene.optics),
        unusable="" if truth.kind == "none" else unusable(scene, pose, frame, gray, seed),
        groups=groups(scene, truth),
        kind=truth.kind,
        found=found,
        side_right=found.side == truth.side,
        kind_right=found.kind == truth.kind,
    )
    if base.what != "ok":
        return base
    weight = weights_of_error(truth, gray.shape)
    seen = [
        np.hypot(*(weight * (found.tip_x - x, found.tip_y - y)))
        for x, y in tips
        if found.tip_in_view
    ]
    base = replace(base, error_px=float(min(seen, default=MISS_PX)))
    if truth.kind == "pin" or not boxes:
        return base
    lying = truth.side in ("left", "right")
    widths = [box[3] - box[1] if lying else box[2] - box[0] for box in boxes]
    return replace(
        base,
        overlap=max(overlap(found.bbox, box) for box in boxes),
        width_error_px=min(abs(found.width - w) for w in widths) if found.bbox else MISS_PX,
    )


def what_is_seen(truth, tips, optics):
    if truth.kind == "none":
        return "empty"
    if not tips:
        return "beyond"
    return "covered" if tip_is_covered(truth, optics) else "ok"


def groups(scene, truth):
    """Conditions by which the scores are listed."""
    optics, mount = scene.optics, scene.mount
    clutter = [optics.nozzle and "nozzle", optics.overlay and "text", optics.dust > 6 and "dust"]
    head = mount.pin_um if mount.kind in ("pin", "none") else mount.loop_length_um
    part = head / optics.um_per_px_x / optics.width_px
    return {
        "light": optics.light,
        "class": truth.kind,
        "pin finish": mount.pin_finish,
        "ice": "ice" if mount.ice_um else "drop" if mount.drop_um else "dry",
        "clutter": "+".join(c for c in clutter if c) or "clean",
        "magnification": "low" if part < 0.12 else "medium" if part < 0.4 else "high",
        "side": optics.side,
    }


def unusable(scene, pose, frame, gray, seed):
    """Say why the light of a picture does not count, "" if it does."""
    optics, level = scene.optics, gray.mean()
    if (gray >= 254).mean() > 0.6:
        return "saturated"
    if optics.light == "backlight" and not 80 <= level <= 230:
        return "level"
    if optics.light == "darkfield" and np.median(gray) < 5:
        return "level"
    if frame.truth.tip_in_view and stands_out(scene, pose, frame, seed) < 3.0:
        return "faint"
    return ""


def stands_out(scene, pose, frame, seed):
    """Contrast of the tip, mean of 3 x 3 px, over the noise of that mean."""
    optics, truth = scene.optics, frame.truth
    empty = render(replace(scene, mount=replace(scene.mount, kind="none")), pose, frame_seed=seed)
    seen, without = luminance(frame.image), luminance(empty.image)
    width = truth.width_px if np.isfinite(truth.width_px) else 20.0
    y, x = np.mgrid[0 : optics.height_px, 0 : optics.width_px]
    near = np.hypot(x - truth.tip_px[0], y - truth.tip_px[1]) < max(5.0, 0.15 * width)
    contrast = np.percentile(np.abs(uniform_filter(seen - without, 3))[near], 95)
    shot = optics.shot_noise * np.median(without[near])
    noise = np.hypot(optics.read_noise, np.sqrt(max(shot, 0.0))) / 3.0
    return contrast / max(noise, 0.7)  # a gray level's rounding and the JPEG remain


def luminance(image):
    return image.astype(float) if image.ndim == 2 else image @ np.array([0.299, 0.587, 0.114])


def tips_in_view(truth, shape):
    """Tips that count, with and without a crystal that sticks out; none if it is out of view."""
    height, width = shape
    return [
        (x, y)
        for x, y in (truth.tip_px, truth.crystal_tip_px)
        if truth.tip_in_view and -0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5
    ]


def weights_of_error(truth, shape):
    """Weights of the error in x and y: the middle of a pin's end face is not told if it is cut."""
    if truth.kind != "pin":
        return np.ones(2)
    across = 1 if truth.side in ("left", "right") else 0
    middle, half, size = truth.tip_px[across], truth.width_px / 2, shape[1 - across]
    whole = middle - half >= 0 and middle + half <= size - 1
    return np.ones(2) if whole else np.array([1.0, 0.0] if across == 1 else [0.0, 1.0])


def boxes_in_view(truth, shape):
    """Boxes that count, with and without the crystal, cut by the frame."""
    height, width = shape
    cut = [
        (max(b[0], 0), max(b[1], 0), min(b[2], width - 1), min(b[3], height - 1))
        for b in (truth.box_px, truth.box_with_crystal_px)
        if np.isfinite(b[0])
    ]
    return [b for b in cut if b[2] - b[0] >= 1 and b[3] - b[1] >= 1]


def overlap(a, b):
    """Intersection over union of two boxes; 0 without a box."""
    if a is None:
        return 0.0
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return width * height / (sum(area) - width * height)
