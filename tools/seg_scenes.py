"""Pictures with masks of the mount, of twin and drawings, for `train_seg_net.py`.

The mask is the mount's silhouette, filled, as the twin's geometry projects it, whatever light,
dirt or occluders make of it in the picture.
"""

import zlib
from dataclasses import replace
from typing import Any

import numpy as np

SIDES = ("none", "left", "right", "top", "bottom")
HEAD_PARTS = ("head", "drop", "ice", "crystal")
MASK_SIDE_PX = 352
ROOM = 0.3  # of the frame: so far beyond it a loop's outline is drawn, that it can be filled
TURNS = 3
SIZES, SIZE_PARTS = ((352, 240), (480, 384), (704, 480), (640, 512)), (0.5, 0.25, 0.2, 0.05)
NONE_PART, FRONT_PART = 0.1, 0.35


def pictures_of(seed: int) -> list[dict[str, Any]]:
    """Return pictures of a scene at angles drawn evenly, most of them changed."""
    from skywright.instruments.loop.twin.render import render
    from skywright.instruments.loop.twin.scene import random_scene
    from skywright.instruments.loop.twin.trajectory import Pose

    rng = np.random.default_rng(seed)
    width, height = SIZES[rng.choice(len(SIZES), p=SIZE_PARTS)]
    fixed: dict[str, Any] = {"width_px": width, "height_px": height}
    if rng.random() < NONE_PART:
        fixed["kind"] = "none"
    if rng.random() < FRONT_PART:
        fixed["light"] = str(rng.choice(["frontlight", "darkfield"]))
    scene = random_scene(rng, **fixed)
    if rng.random() < 0.15:
        dirt = random_scene(rng).optics
        nozzles = [random_scene(rng).optics for _ in range(12)]
        nozzle = next((o for o in nozzles if o.nozzle and o.side == scene.optics.side), dirt)
        scene = replace(
            scene,
            optics=replace(
                scene.optics, nozzle=nozzle.nozzle, nozzle_px=nozzle.nozzle_px, overlay=dirt.overlay
            ),
        )
    rows = []
    for k in range(TURNS):
        pose = Pose(phi_deg=float(rng.uniform(0, 360)))
        frame = render(scene, pose, frame_seed=seed * 10 + k)
        parts, tip = mask_of(scene, pose), frame.truth.tip_unclipped_px
        image = np.atleast_3d(frame.image)
        gray = image.mean(2) if image.shape[2] == 3 else image[:, :, 0].astype(np.float64)
        side = SIDES.index(frame.truth.side or "none")
        rows.append(packed(rng, seed, gray, parts, side, tip, k > 0))
        rows[-1]["kind"] = frame.truth.kind
    return rows


def mask_of(scene: Any, pose: Any) -> Any:
    """Return (H, W) uint8: 1 where the mount is, 2 its head, holes filled."""
    from skywright.instruments.loop.twin import raster
    from skywright.instruments.loop.twin.optics import projection
    from skywright.instruments.loop.twin.truth import shape_of

    optics = scene.optics
    room = int(ROOM * max(optics.width_px, optics.height_px))
    size = optics.height_px + 2 * room, optics.width_px + 2 * room
    mesh = shape_of(scene).mesh
    out = np.zeros(size, np.uint8)
    if mesh is None:
        return out[room:-room, room:-room]
    phi = np.deg2rad(pose.phi_deg)
    turn = np.array([np.cos(phi), np.sin(phi)])
    matrix, origin = projection(optics)
    vertex = np.zeros((len(mesh.points), 5))
    across = mesh.points[:, 1] * turn[0] - mesh.points[:, 2] * turn[1]
    vertex[:, :2] = np.stack([mesh.points[:, 0], across], 1) @ matrix.T + origin
    vertex[:, 3] = 1.0
    head = [k for k, name in enumerate(mesh.labels) if name in HEAD_PARTS]
    of_head = np.isin(mesh.label[mesh.triangles[:, 0]], head)
    drawn = []
    for part in (np.ones(len(of_head), bool), of_head):
        n = int(part.sum())
        density, light = np.zeros((1, *size), np.float32), np.zeros((1, *size), np.float32)
        raster.rasterize(
            vertex, np.ascontiguousarray(mesh.triangles[part]),
            np.ascontiguousarray(mesh.face_normals[part]), np.zeros(n), np.zeros(n, bool),
            np.zeros(n, np.int32), turn, np.array([-room, -room]) * 1.0, density, light,
        )  # fmt: skip
        drawn.append(filled(density[0] > 0.5))
    out[drawn[0] | drawn[1]] = 1
    out[drawn[1]] = 2
    return out[room:-room, room:-room]


def filled(mask: Any) -> Any:
    """Close gaps and fill holes, both on blocks as fine as the masks that are kept."""
    from scipy.ndimage import label, maximum_filter, minimum_filter

    step = max(1, round(max(mask.shape) / (1 + 2 * ROOM) / MASK_SIDE_PX))
    h, w = (n // step for n in mask.shape)
    blocks = mask[: h * step, : w * step].reshape(h, step, w, step).max(axis=(1, 3))
    closed = minimum_filter(maximum_filter(blocks.view(np.uint8), 3), 3)
    holes, count = label(closed == 0)
    solid = np.ones(count + 1, bool)
    for border in (holes[0], holes[-1], holes[:, 0], holes[:, -1]):
        solid[border] = False
    solid[0] = True
    out = np.zeros_like(mask)
    large = np.repeat(np.repeat(solid[holes], step, 0), step, 1)
    out[: h * step, : w * step] = large
    return out


def drawing_of(seed: int) -> dict[str, Any]:
    """Return a plain drawing, pin at any side, changed like the twin's pictures."""
    from kind_drawings import drawing_with_mask

    rng = np.random.default_rng(seed)
    kind = "nylon" if seed % 2 else "mitegen"
    gray, parts, tip = drawing_with_mask(rng, kind)
    side = int(rng.integers(1, 5))
    width = gray.shape[1]
    x, y = tip
    if side == 2:
        gray, parts, tip = gray[:, ::-1], parts[:, ::-1], (width - 1 - x, y)
    elif side == 3:
        gray, parts, tip = gray.T, parts.T, (y, x)
    elif side == 4:
        gray, parts, tip = gray.T[::-1], parts.T[::-1], (y, width - 1 - x)
    if side > 2 and rng.random() < 0.8:  # a usual frame
        low = int(np.clip(tip[1] - rng.uniform(0.2, 0.8) * 264, 0, gray.shape[0] - 264))
        low = gray.shape[0] - 264 if side == 4 else 0
        gray, parts, tip = gray[low : low + 264], parts[low : low + 264], (tip[0], tip[1] - low)
    row = packed(rng, seed, gray.astype(np.float64), parts, side, tip, rng.random() < 0.6)
    return {**row, "kind": kind}


def packed(
    rng: Any, seed: int, gray: Any, parts: Any, side: int, tip: Any, change: bool
) -> dict[str, Any]:
    """Change a picture if wanted, and pack it with its truth."""
    import simplejpeg

    if change:
        gray, parts, tip = changed(rng, gray, parts, side, tip)
    gray = np.clip(np.round(gray), 0, 255).astype(np.uint8)
    height, width = gray.shape
    step = max(1, round(max(height, width) / MASK_SIDE_PX))
    inside = -0.5 <= tip[0] <= width - 0.5 and -0.5 <= tip[1] <= height - 0.5
    small = np.ascontiguousarray(parts[step // 2 :: step, step // 2 :: step])
    data = simplejpeg.encode_jpeg(
        np.ascontiguousarray(gray[:, :, None]), quality=int(rng.integers(60, 96)), colorspace="GRAY"
    )
    return {
        "seed": seed,
        "jpeg": data,
        "mask": zlib.compress(small.tobytes()),
        "shape": small.shape,
        "side": side if parts.any() else 0,
        "tip": tuple(tip) if inside else None,
        "changed": change,
    }


def unpacked(row: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return picture, (H, W) uint8, and truth of a row that also says of which kind it is."""
    import simplejpeg

    gray = simplejpeg.decode_jpeg(row["jpeg"], colorspace="GRAY")[:, :, 0]
    kind = row["kind"] if row["side"] else "none"
    tip = row["tip"]
    return gray, {"kind": kind, "side": SIDES[row["side"]], "tip": tip, "ctip": tip}


def changed(rng: Any, gray: Any, parts: Any, side: int, tip: Any) -> tuple[Any, Any, Any]:
    """Stretch, cut, occlude, light, invert, blur: what other cameras do, and worse."""
    from scipy.ndimage import gaussian_filter

    height, width = gray.shape
    if rng.random() < 0.35:
        gray, parts, tip = stretched(rng, gray, parts, side, tip)
        height, width = gray.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    gray = gray.copy()
    if rng.random() < 0.35:
        occlude(rng, gray, x, y)
    if rng.random() < 0.3:
        gray = gaussian_filter(gray, np.exp(rng.uniform(-0.7, 1.2)) * max(height, width) / 700)
    if rng.random() < 0.5:
        slopes = rng.normal(0, 0.25, 5)
        shade = slopes[0] * x + slopes[1] * y + slopes[2] * x * y
        shade = shade - np.abs(slopes[3]) * (x**2 + y**2) + slopes[4] * np.sin(2 * x + 2 * y)
        gray = gray * np.exp(shade)
    if rng.random() < 0.25:  # glare
        for _ in range(rng.integers(1, 4)):
            cx, cy, size = *rng.uniform(-1, 1, 2), np.exp(rng.uniform(-3, -0.3))
            spot = np.exp(
                -0.5 * (((x - cx) / size) ** 2 + ((y - cy) / size / rng.uniform(0.4, 2)) ** 2)
            )
            gray = gray + rng.uniform(20, 200) * spot
    if rng.random() < 0.3:
        gray = 255.0 * (np.clip(gray, 0, 255) / 255.0) ** np.exp(rng.uniform(-0.6, 0.6))
    if rng.random() < 0.1:
        gray = 255.0 - gray
    if rng.random() < 0.35:
        level = np.median(gray)
        gray = level + (gray - level) * np.exp(rng.uniform(-1.2, 0.4)) + rng.uniform(-40, 40)
    if rng.random() < 0.3:
        gray = gray + rng.normal(0, np.exp(rng.uniform(0, 2.2)), gray.shape)
    return np.clip(gray, 0, 255), parts, tip


def stretched(rng: Any, gray: Any, parts: Any, side: int, tip: Any) -> tuple[Any, Any, Any]:
    """Cut a part out at the pin side and stretch it to another frame."""
    height, width = gray.shape
    part = rng.uniform(0.55, 1.0, 2)
    w, h = (np.array([width, height]) * part).astype(int)
    x0, y0 = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    if side in (1, 2):  # else it would float
        x0 = 0 if side == 1 else width - w
    elif side in (3, 4):
        y0 = 0 if side == 3 else height - h
    w1, h1 = [(704, 480), (640, 512), (352, 240), (640, 480), (512, 512), (480, 600)][
        rng.choice(6, p=[0.35, 0.15, 0.15, 0.15, 0.1, 0.1])
    ]
    columns = np.clip(((np.arange(w1) + 0.5) * w / w1).astype(int), 0, w - 1) + x0
    rows = np.clip(((np.arange(h1) + 0.5) * h / h1).astype(int), 0, h - 1) + y0
    pick = np.ix_(rows, columns)
    place = ((tip[0] + 0.5 - x0) * w1 / w - 0.5, (tip[1] + 0.5 - y0) * h1 / h - 0.5)
    return gray[pick], parts[pick], place


def occlude(rng: Any, gray: Any, x: Any, y: Any, bars: bool = True) -> None:
    """Draw what is no mount: bars, spots, cones from a corner, lines, letters' boxes."""
    for _ in range(rng.integers(1, 4)):
        level, kind = rng.uniform(0, 255), rng.integers(0 if bars else 1, 5)
        opacity = rng.uniform(0.3, 1.0)
        cx, cy, a = *rng.uniform(-1, 1, 2), rng.uniform(0, np.pi)
        along, over = (x - cx) * np.cos(a) + (y - cy) * np.sin(a), None
        over = -(x - cx) * np.sin(a) + (y - cy) * np.cos(a)
        if kind == 0:
            at = (np.abs(along) < rng.uniform(0.02, 0.2)) & (np.abs(over) < rng.uniform(0.01, 0.1))
        elif kind == 1:
            at = np.hypot(along, over * rng.uniform(0.6, 1.5)) < np.exp(rng.uniform(-4.5, -2))
        elif kind == 2:  # a cone that enters from beyond a border
            corner = rng.uniform(-1, 1)
            px, py = (corner, rng.choice([-1, 1])) if rng.random() < 0.6 else (
                rng.choice([-1, 1]), corner)  # fmt: skip
            to = np.arctan2(-py + rng.normal(0, 0.3), -px + rng.normal(0, 0.3))
            u = (x - px) * np.cos(to) + (y - py) * np.sin(to)
            v = -(x - px) * np.sin(to) + (y - py) * np.cos(to)
            at = (u < rng.uniform(0.05, 0.6)) & (
                np.abs(v) < rng.uniform(0.02, 0.25) * (1 - 0.5 * u)
            )
        elif kind == 3:
            at = np.abs(over) < rng.uniform(0.002, 0.008)
        else:
            at = (np.abs(y - rng.choice([-0.94, 0.94])) < 0.03) & (np.abs(x - cx) < 0.35)
            at &= (np.sin(60 * x + 9 * cx) > -0.2) & (np.sin(150 * y) > -0.5)
        gray[at] += opacity * (level - gray[at])
