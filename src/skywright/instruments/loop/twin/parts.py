"""The parts of a mount as meshes, in the frame of the mount: see `mount`."""

from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from skywright.instruments.loop.twin.mesh import Floats, Material, Mesh, Warp, hull, section, sweep
from skywright.instruments.loop.twin.mount import Mount

NYLON = Material(0.002, rim=1.0, rim_power=2.0, albedo=0.5, specular=0.6, scatter=0.9)
POLYMER = Material(0.006, rim=1.0, rim_power=4.0, albedo=0.12, specular=0.3, scatter=0.7)
STEEL = Material(0.3, albedo=0.35, specular=1.6, scatter=0.15, opaque=True)
FROSTED = Material(0.05, albedo=0.5, specular=0.15, scatter=0.3, grain=0.6, opaque=True)


def bend(mount: Mount) -> Warp:
    """Return the map that curls the polymer about x and bends the stem into a circular arc."""
    beta = np.deg2rad(mount.stem_bend_deg)
    direction = np.deg2rad(mount.bend_direction_deg)
    side = np.array([0.0, np.cos(direction), np.sin(direction)])
    length = max(mount.stem_um, 1.0)

    def warp(points: Floats) -> Floats:
        out = np.array(points, dtype=float)
        if mount.kind == "mitegen" and mount.curl_radius_um > 0.0:
            radius = mount.curl_radius_um
            angle = np.clip(out[..., 1] / radius, -1.4, 1.4)
            out[..., 1] = (radius - out[..., 2]) * np.sin(angle)
            out[..., 2] = radius - (radius - out[..., 2]) * np.cos(angle)
        if abs(beta) < 1e-6:
            return out
        s, q = out[..., 0], out @ side
        on_arc = np.clip(s / length, 0.0, 1.0)
        angle, beyond = beta * on_arc, s - length * on_arc
        along = length / beta * np.sin(angle) + beyond * np.cos(angle)
        aside = length / beta * (1.0 - np.cos(angle)) + beyond * np.sin(angle)
        out = out + (aside + q * (np.cos(angle) - 1.0))[..., None] * side
        out[..., 0] = along - q * np.sin(angle)
        return out

    return warp


def _facets(extent_um: float, pixel_um: float, low: int, high: int) -> int:
    """Return how many facets an extent needs, a multiple of 4."""
    return 4 * int(np.clip(extent_um / (2.0 * pixel_um) / 4.0, low // 4, high // 4))


def _noise(shape: tuple[int, ...], along: float, around: float, rng: np.random.Generator) -> Floats:
    """Return unit noise (..., S, n), periodic over n, correlated over a given number of facets."""
    raw = rng.standard_normal(shape)
    sigmas = [0.0] * (len(shape) - 2) + [along, around]
    noise = gaussian_filter(raw, sigmas, mode="wrap")
    return noise / noise.std()


def _bar(
    label: str, material: Material, x: Floats, y: Floats, z: Floats, *more: Any, **options: Any
) -> Mesh:
    """Sweep a part along x whose half widths are y and z, (S,) um; the rest is as of `sweep`."""
    path, across, normal = np.zeros((3, len(x), 3))
    path[:, 0], across[:, 1], normal[:, 2] = x, y, z
    return sweep(label, material, path, across, normal, *more, **options)


def pin(mount: Mount, pixel_um: float, rng: np.random.Generator) -> Mesh:
    """Return the pin, its end at x = 0, reaching 25 mm back through any border of the view."""
    radius = mount.pin_um / 2.0
    smooth = mount.pin_finish == "smooth"
    grain_um = max(2.0 * pixel_um, mount.pin_um / 40.0)
    sides = 32 if smooth else _facets(2.0 * np.pi * mount.pin_um, grain_um, 32, 72)
    step = mount.pin_um / 8.0 if smooth else np.pi * mount.pin_um / sides
    # Facets grow slowly away from the end; the last one is out of every view.
    growth = 0.015
    near = -mount.pin_bevel_um - step / growth * ((1.0 + growth) ** np.arange(110) - 1.0)
    near = near[: 16 if smooth else 110]
    ramp = mount.base_start_um + np.array([-0.01, 0.02, 0.25]) * mount.base_um
    x = np.unique(np.concatenate([near, -ramp, np.array([-25000.0, 0.0])]))
    widen = [radius, 0.97 * mount.base_um / 2.0, mount.base_um / 2.0]
    r = np.interp(-x, ramp, widen)
    r[-1] = radius - mount.pin_bevel_um
    # The path runs from the end of the pin backwards, so that center 0 is on the end face.
    x, r = x[::-1], r[::-1]
    outline = section(sides)
    displace = np.zeros((len(x), sides, 3))
    if not smooth:
        height = {"frosted": 0.008, "ragged": 0.03}[mount.pin_finish] * mount.pin_um
        # Lumps stick out: the lower part of the noise is cut. Frost is thickest at the end.
        lumps = np.clip(_noise((2, len(x), sides), 0.9, 0.9, rng), -0.4, 2.0)
        lumps *= (height * (0.3 + 0.7 * np.exp(x / 400.0)))[:, None]
        displace[..., 1:] = lumps[0, :, :, None] * outline
        displace[..., 0] = 0.4 * lumps[1] * (x > -50.0 - mount.pin_bevel_um)[:, None]
    material = STEEL if smooth else FROSTED
    return _bar("pin", material, x, r, r, outline, rng, displace=displace)


def _outline(angle: Floats, length_um: float, width_um: float, taper: float) -> Floats:
    """Return the points (S, 2) of a teardrop at angles 0..2 pi; 0 is the neck, at x = 0."""
    power = 1.5 * taper
    widest = np.arccos(-power / (2.0 + power))
    highest = np.sin(widest) * np.sin(widest / 2.0) ** power
    x = length_um / 2.0 * (1.0 - np.cos(angle))
    y = width_um / 2.0 * np.sin(angle) * np.abs(np.sin(angle / 2.0)) ** power / highest
    return np.stack([x, y], axis=1)


def _inside(mount: Mount, angle: Floats) -> Floats:
    """Return the line (S, 2) that liquid reaches: the middle of nylon, or the polymer's edge."""
    rim, length, width = mount.fiber_um, mount.loop_length_um, mount.loop_width_um
    if mount.kind == "nylon":
        near, far, sides, taper = 0.0, rim / 2.0, rim, mount.taper
    else:
        near, far, sides, taper = 0.12 * length + rim, rim, 2.0 * rim, 0.7 * mount.taper
    line = _outline(angle, length - near - far, width - sides, taper)
    return line + np.array([mount.stem_um + near, 0.0])


def _stations(extent_um: float, pixel_um: float) -> int:
    """Return how many stations an extent needs, odd so that one is in the middle."""
    return 2 * int(np.clip(extent_um / (5.0 * pixel_um) / 2.0, 20, 64)) + 1


def _round_the_loop(mount: Mount, pixel_um: float) -> Floats:
    """Return angles 0..2 pi from neck to neck, four times as dense at the tip, which is truth."""
    even = np.linspace(0.0, 2.0 * np.pi, _stations(2.5 * mount.loop_length_um, pixel_um))
    return even + 0.75 * np.sin(even)


def _tube(path: Floats, radius: float) -> tuple[Floats, Floats]:
    """Return the half axes of a round tube along a path that lies near the (x, y) plane."""
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    across = np.cross(np.array([0.0, 0.0, 1.0]), tangent)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    return across * radius, np.cross(tangent, across) * radius


def nylon(mount: Mount, pixel_um: float, warp: Warp, rng: np.random.Generator) -> list[Mesh]:
    """Return the ring and the two twisted strands of the stem, and glue."""
    radius = mount.fiber_um / 2.0
    sides = _facets(np.pi * mount.fiber_um, pixel_um, 8, 12)
    angle = _round_the_loop(mount, pixel_um)
    x, y = _inside(mount, angle).T
    # At the neck the ring meets the strands of the stem, one radius to either side.
    y = y + radius * np.cos(angle / 2.0) ** 7
    ring = np.stack([x, y, 0.0 * x], axis=1)
    half_axes = _tube(ring, radius)
    meshes = [sweep("head", NYLON, ring, *half_axes, section(sides), rng, warp=warp, joined=True)]
    into_pin = 8.0
    length = mount.stem_um + into_pin
    count = int(np.clip(length / (6.0 * pixel_um), 12 + 10 * mount.stem_twists, 128))
    s = np.linspace(0.0, 1.0, count)
    for phase in (0.0, np.pi):
        twist = phase + 2.0 * np.pi * mount.stem_twists * (1.0 - s)
        strand = np.stack(
            [-into_pin + length * s, radius * np.cos(twist), radius * np.sin(twist)], axis=1
        )
        half_axes = _tube(strand, radius)
        meshes.append(
            sweep("stem", NYLON, strand, *half_axes, section(sides), rng, warp=warp, joined=True)
        )
    return meshes + _glue(mount, mount.fiber_um, warp, rng)


def _glue(mount: Mount, thin_um: float, warp: Warp, rng: np.random.Generator) -> list[Mesh]:
    if mount.glue_um <= 0.0:
        return []
    t = np.linspace(0.0, 1.0, 12)
    radius = thin_um / 2.0 + (0.3 * mount.pin_um - thin_um / 2.0) * (1.0 - t) ** 2
    x = -5.0 + mount.glue_um * t
    glue = Material(0.004, rim=1.0, albedo=0.2, specular=0.6, scatter=0.7)
    return [_bar("stem", glue, x, radius, radius, section(24), rng, warp=warp)]


def polymer(mount: Mount, pixel_um: float, warp: Warp, rng: np.random.Generator) -> list[Mesh]:
    """Return the rim around the aperture, neck and tab as one plate, and the tab's number."""
    half = mount.thickness_um / 2.0
    angle = _round_the_loop(mount, pixel_um)
    outer = _outline(angle, mount.loop_length_um, mount.loop_width_um, mount.taper)
    outer += (mount.stem_um, 0.0)
    inner = _inside(mount, angle)
    center, across, up = np.zeros((3, len(angle), 3))
    center[:, :2], across[:, :2], up[:, 2] = (outer + inner) / 2.0, (outer - inner) / 2.0, half
    head = sweep("head", POLYMER, center, across, up, section(16, 6.0), rng, warp=warp, joined=True)
    neck = float(np.clip(0.25 * mount.loop_width_um, 1.5 * mount.fiber_um, 150.0))
    s = np.linspace(-600.0, mount.stem_um + 0.06 * mount.loop_length_um, 48)
    width = np.full(len(s), neck / 2.0)
    width += 0.2 * neck * np.exp(-((np.maximum(mount.stem_um - s, 0.0) / neck) ** 2))
    if mount.tab_um > 0.0:
        into = np.clip((0.5 * mount.stem_um - s) / (0.5 * mount.tab_um), 0.0, 1.0)
        width = np.maximum(width, mount.tab_um / 2.0 * np.sqrt(1.0 - (1.0 - into) ** 2))
    thick = np.full(len(s), half)
    plate = _bar("stem", POLYMER, s, width, thick, section(32, 6.0), rng, warp=warp, joined=True)
    return [head, plate, *_number(mount, warp, rng)]


def _number(mount: Mount, warp: Warp, rng: np.random.Generator) -> list[Mesh]:
    """Return an etched number across the tab, of seven-segment digits."""
    size = 0.14 * mount.tab_um
    start = 0.5 * mount.stem_um - 0.35 * mount.tab_um
    if mount.tab_um <= 0.0 or start < size:
        return []
    corner = np.array([(i, j) for i in (0, 1) for j in (0, 1, 2)], float) * (size, size)
    bars = ((0, 3), (1, 4), (2, 5), (0, 1), (1, 2), (3, 4), (4, 5))
    etched = Material(0.0, rim=0.5, rim_power=1.0, albedo=0.1, specular=0.4, scatter=0.5)
    meshes = []
    for digit in range(3):
        for a, b in bars:
            if rng.random() < 0.35:
                continue
            ends = np.zeros((4, 3))
            for axis, sign in ((0, -1.0), (1, 1.0)):
                line = np.linspace(corner[a][1 - axis], corner[b][1 - axis], 4)
                ends[:, axis] = sign * line
            ends += (start, (digit - 1.5) * 1.6 * size, mount.thickness_um / 2.0)
            half = 0.1 * size
            meshes.append(
                sweep("stem", etched, ends, *_tube(ends, half), section(8), rng, warp=warp)
            )
    return meshes


def contents(mount: Mount, pixel_um: float, warp: Warp, rng: np.random.Generator) -> list[Mesh]:
    """Return drop or ice, and the crystal."""
    meshes = []
    if mount.drop_um > 0.0 or mount.ice_um > 0.0:
        meshes.append(_drop(mount, pixel_um, warp, rng))
    if min(mount.crystal_um) > 0.0:
        meshes.append(_crystal(mount, warp, rng))
    return meshes


def _drop(mount: Mount, pixel_um: float, warp: Warp, rng: np.random.Generator) -> Mesh:
    frozen = mount.ice_um > 0.0
    fine = 0.5 if frozen else 1.0
    count = _stations(mount.loop_length_um, fine * pixel_um)
    sides = _facets(2.5 * mount.loop_width_um, 2.0 * fine * pixel_um, 24, 64 if frozen else 40)
    angle = np.linspace(0.0, np.pi, count)
    x, y = _inside(mount, angle).T
    middle = (x[0] + x[-1]) / 2.0
    x, y = middle + (x - middle) * mount.drop_overfill, np.maximum(y * mount.drop_overfill, 0.0)
    thick = max(mount.drop_um, mount.fiber_um, 2.0 * mount.ice_um) / 2.0
    z = thick * (y / y.max()) ** 0.7
    displace = None
    material = Material(0.0004, rim=1.4, rim_power=4.0, albedo=0.03, specular=0.9, scatter=0.5)
    if frozen:
        material = Material(
            mount.ice_absorption_per_um,
            rim=0.5,
            albedo=0.45,
            specular=0.3,
            scatter=0.6,
            grain=0.25,
            opaque=mount.ice_absorption_per_um > 0.02,
        )
        y += 0.5 * mount.ice_um * np.sin(angle)
        # Spikes are as wide as high, and at least a pixel or two: else the tip would be where
        # nothing is seen.
        along, around = mount.loop_length_um / count, 2.5 * mount.loop_width_um / sides
        spike = max(0.5 * mount.ice_um, 1.5 * pixel_um)
        noise = _noise((count, sides), max(0.9, spike / along), max(0.9, spike / around), rng)
        spikes = mount.ice_um * np.maximum(noise, -0.5)
        displace = np.zeros((count, sides, 3))
        displace[..., 1:] = spikes[:, :, None] * section(sides)
        displace[..., 0] = -spikes * np.cos(angle)[:, None]
    label = "ice" if frozen else "drop"
    return _bar(label, material, x, y, z, section(sides), rng, warp=warp, displace=displace)


def _crystal(mount: Mount, warp: Warp, rng: np.random.Generator) -> Mesh:
    """Return a block or needle with random bevels."""
    signs = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)], float)
    corners = np.concatenate(
        [signs * (1.0, 1.0, 0.55), signs * (0.8, 1.0, 1.0), signs * (0.95, 0.6, 0.95)]
    )
    corners *= 1.0 + 0.06 * rng.standard_normal(corners.shape)
    corners *= np.asarray(mount.crystal_um) / 2.0
    flat, roll = mount.crystal_turn_deg
    corners = Rotation.from_euler("xz", [roll, flat], degrees=True).apply(corners)
    corners[:, 0] += mount.stem_um + mount.loop_length_um / 2.0 * (1.0 + mount.crystal_at[0])
    corners[:, 1] += mount.loop_width_um / 2.0 * mount.crystal_at[1]
    absorption = mount.crystal_absorption_per_um
    material = Material(absorption, rim=1.0, albedo=0.15, specular=1.0, scatter=0.9)
    return hull("crystal", material, corners, rng, warp)
