"""Scenes: a mount in front of a camera, drawn at random from fixed, wide ranges.

The functions ``_draw_...`` have the ranges, ``docs/reference/loop-accuracy.md`` the main ones.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

import numpy as np

from skywright.errors import ConfigError
from skywright.instruments.loop.twin.mount import Kind, Mount
from skywright.instruments.loop.twin.optics import LightMode, Optics, Side


@dataclass(frozen=True)
class Scene:
    """A mount and the camera that looks at it."""

    mount: Mount
    optics: Optics


_MOUNT_FIELDS = {f.name for f in fields(Mount)}
_OPTICS_FIELDS = {f.name for f in fields(Optics)}


def random_scene(rng: np.random.Generator, **overrides: Any) -> Scene:
    """Draw a scene.

    Parameters
    ----------
    rng : numpy.random.Generator
    **overrides
        Any field of `Mount` or `Optics` to fix. What depends on it is drawn to fit.

    Raises
    ------
    ConfigError
        If a name is neither a field of `Mount` nor of `Optics`, or a word is not known.
    """
    unknown = set(overrides) - _MOUNT_FIELDS - _OPTICS_FIELDS
    if unknown:
        raise ConfigError(
            f"random_scene: unknown field {sorted(unknown)}; use those of Mount and Optics"
        )
    for name, words in (("kind", Kind), ("side", Side), ("light", LightMode)):
        if overrides.get(name, get_args(words)[0]) not in get_args(words):
            expected = ", ".join(get_args(words))
            raise ConfigError(f"random_scene: {name} {overrides[name]!r}: expected {expected}")
    draw = np.random.default_rng(int(rng.integers(2**31)))
    kind = str(draw.choice(["nylon", "mitegen", "pin", "none"], p=[0.5, 0.3, 0.12, 0.08]))
    mount = replace(
        _draw_mount(draw, overrides.get("kind", kind)), **_only(overrides, _MOUNT_FIELDS)
    )
    optics = _draw_camera(draw, mount, overrides)
    optics = replace(
        optics, **_draw_light(draw, mount, overrides.get("light")), **_draw_dirt(draw, optics)
    )
    optics = replace(optics, **_only(overrides, _OPTICS_FIELDS))
    if "tip_um" not in overrides:
        mount = replace(mount, tip_um=_draw_tip(draw, optics))
    return Scene(mount, optics)


def _only(overrides: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: overrides[name] for name in names if name in overrides}


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _draw_mount(rng: np.random.Generator, kind: Kind) -> Mount:
    nylon = kind == "nylon"
    length = _log_uniform(rng, 60.0, 1000.0) if nylon else _log_uniform(rng, 80.0, 700.0)
    width = length * (rng.uniform(0.5, 0.95) if nylon else rng.uniform(0.55, 1.1))
    bent = rng.uniform(10.0, 50.0) if rng.random() < 0.15 else rng.uniform(0.0, 10.0)
    pin = float(rng.choice([480.0, 640.0, 650.0, 700.0, 710.0]))
    thick_base = rng.random() < 0.35
    curled = not nylon and rng.random() < 0.6
    stem = _log_uniform(rng, 100.0, 1800.0) if nylon else rng.uniform(250.0, 1500.0)
    fiber = float(rng.choice([10.0, 20.0])) if nylon else rng.uniform(12.0, 40.0)
    if length < 150.0:
        fiber = min(fiber, 10.0 if nylon else 0.12 * length)
    return Mount(
        kind=kind,
        face_on_deg=rng.uniform(0.0, 180.0),
        loop_length_um=length,
        loop_width_um=width,
        taper=rng.uniform(0.3, 1.0) if nylon else rng.uniform(0.0, 0.6),
        fiber_um=fiber,
        thickness_um=rng.uniform(8.0, 25.0),
        curl_radius_um=rng.uniform(250.0, 600.0) if curled else 0.0,
        stem_um=stem,
        stem_twists=rng.uniform(1.0, 9.0) if rng.random() < 0.8 else 0.0,
        stem_bend_deg=bent if nylon else bent / 3.0,
        bend_direction_deg=rng.uniform(0.0, 360.0),
        pin_um=pin,
        pin_finish=str(rng.choice(["smooth", "frosted", "ragged"], p=[0.5, 0.25, 0.25])),  # type: ignore[arg-type]
        pin_bevel_um=rng.uniform(0.0, 90.0),
        base_um=rng.uniform(800.0, 1500.0) if thick_base else pin,
        base_start_um=rng.uniform(300.0, 2500.0),
        glue_um=stem * rng.uniform(0.1, 0.5) if rng.random() < 0.4 else 0.0,
        tab_um=rng.uniform(350.0, 650.0) if rng.random() < 0.6 else 0.0,
        shape_seed=int(rng.integers(2**31)),
        **_draw_contents(rng, width),
    )


def _draw_contents(rng: np.random.Generator, width: float) -> dict[str, Any]:
    contents: dict[str, Any] = {}
    kind = rng.random()
    if kind < 0.45:
        contents["drop_um"] = width * rng.uniform(0.1, 0.6)
        contents["drop_overfill"] = rng.uniform(0.97, 1.03)
    elif kind < 0.65:
        contents["drop_um"] = width * rng.uniform(0.2, 0.7)
        contents["drop_overfill"] = rng.uniform(1.0, 1.25)
        contents["ice_um"] = width * rng.uniform(0.005, 0.035)
        contents["ice_absorption_per_um"] = _log_uniform(rng, 2.0, 20.0) / width
    if rng.random() < 0.45:
        size = width * rng.uniform(0.1, 0.8)
        shape = rng.uniform(0.4, 1.0, 3)
        if rng.random() < 0.2:
            shape = np.array([1.6, 0.15, 0.15])
        contents["crystal_um"] = tuple(float(v) for v in size * shape)
        contents["crystal_at"] = (rng.uniform(-0.3, 0.5), rng.uniform(-0.3, 0.3))
        contents["crystal_turn_deg"] = (rng.normal(0.0, 30.0), rng.uniform(0.0, 90.0))
        contents["crystal_absorption_per_um"] = rng.choice([0.0005, 0.003, 0.03])
    return contents


def _draw_camera(rng: np.random.Generator, mount: Mount, overrides: Mapping[str, Any]) -> Optics:
    sizes = ((704, 480), (640, 512), (704, 576), (1024, 768), (1280, 1024), (352, 240))
    size = sizes[rng.choice(len(sizes), p=[0.5, 0.12, 0.1, 0.1, 0.1, 0.08])]
    width, height = (overrides.get("width_px", size[0]), overrides.get("height_px", size[1]))
    aspect = {(704, 480): 1.11, (352, 240): 1.11, (704, 576): 0.94}.get((width, height), 1.0)
    side: Side = overrides.get(
        "side", str(rng.choice(["left", "right", "top", "bottom"], p=[0.4, 0.35, 0.15, 0.1]))
    )
    lying = side in ("left", "right")
    along, across = (width, height) if lying else (height, width)
    head = mount.pin_um if mount.kind in ("pin", "none") else mount.loop_length_um
    scale = float(np.clip(head / (along * _log_uniform(rng, 0.06, 1.05)), 0.6, 9.0))
    depth_px = _log_uniform(rng, 60.0, 1500.0)
    optics = Optics(
        width_px=width,
        height_px=height,
        um_per_px_x=scale,
        um_per_px_y=scale * aspect,
        side=side,
        axis_px=across * rng.uniform(0.35, 0.65),
        axial_px=along / 2.0,
        roll_deg=rng.normal(0.0, 0.4),
        psf_px=rng.uniform(0.6, 1.4),
        depth_of_field_um=depth_px * scale,
        focus_um=depth_px * scale * rng.normal(0.0, 0.8),
        exposure_s=float(rng.choice([1 / 250, 1 / 120, 1 / 60, 1 / 30])),
        jpeg_quality=int(rng.integers(55, 96)),
        pattern_seed=int(rng.integers(2**31)),
    )
    return replace(optics, **_only(overrides, _OPTICS_FIELDS))


def _draw_tip(rng: np.random.Generator, optics: Optics) -> tuple[float, float, float]:
    """Draw where the tip is, um: seldom out of the frame."""
    sizes = (optics.width_px, optics.um_per_px_x), (optics.height_px, optics.um_per_px_y)
    (size, um), (other, other_um) = sizes if optics.side in ("left", "right") else sizes[::-1]
    place = rng.uniform(1.02, 1.3) if rng.random() < 0.05 else rng.uniform(0.1, 0.95)
    from_side = place * size
    axial = optics.axial_px if optics.side in ("left", "top") else size - optics.axial_px
    radius = min(0.3 * other * other_um, 600.0) * np.sqrt(rng.random())
    angle = rng.uniform(0.0, 2.0 * np.pi)
    along = float((from_side - axial) * um)
    return along, float(radius * np.cos(angle)), float(radius * np.sin(angle))


def _draw_light(rng: np.random.Generator, mount: Mount, fixed: LightMode | None) -> dict[str, Any]:
    mode = fixed or str(rng.choice(["backlight", "frontlight", "darkfield"], p=[0.72, 0.16, 0.12]))
    color = rng.random() > 0.15
    light: dict[str, Any] = {
        "light": mode,
        "color": color,
        "tint": tuple(float(v) for v in rng.normal(0.0, 0.03, 3)),
        "color_vignette": tuple(float(v) for v in rng.normal(0.0, 0.03, 3)),
        "sample_tint": tuple(float(v) for v in rng.normal(0.0, 0.06, 3)),
        "gradient": rng.uniform(0.0, 0.3),
        "gradient_deg": rng.uniform(0.0, 360.0),
        "vignette": rng.uniform(0.0, 0.8 if mode == "frontlight" else 0.5),
        "mottle": rng.uniform(0.0, 0.02),
    }
    if rng.random() < 0.12:  # a lamp of one color
        lamps = np.array([[-0.3, 0.1, -0.3], [0.1, 0.0, -0.35], [-0.3, -0.05, 0.15]])
        light["tint"] = tuple(float(v) for v in rng.choice(lamps) * rng.uniform(0.3, 1.0))
    if mode == "backlight":
        bright = rng.random() < 0.15
        light |= {"level": rng.uniform(*((235.0, 290.0) if bright else (90.0, 235.0)))}
        light |= {"contrast": rng.uniform(0.7 if bright else 0.5, 1.2)}
        light |= {"stray": light["level"] * rng.uniform(0.0, 0.35)}
        light |= {"reflect": rng.uniform(0.0, 25.0)}
    elif mode == "frontlight":
        light |= {"level": rng.uniform(30.0, 140.0), "reflect": rng.uniform(90.0, 220.0)}
        light |= {"stray": rng.uniform(0.0, 10.0), "contrast": rng.uniform(0.2, 0.8)}
    else:
        light |= {"level": rng.uniform(8.0, 40.0), "reflect": rng.uniform(50.0, 160.0)}
        light |= {"stray": rng.uniform(0.0, 4.0), "contrast": rng.uniform(0.2, 0.8)}
    if mount.kind == "mitegen" and rng.random() < 0.2:
        light["contrast"] = rng.uniform(0.25, 0.4)
        light["level"] = min(light["level"], 200.0)
    return light


def _draw_dirt(rng: np.random.Generator, optics: Optics) -> dict[str, Any]:
    dirt: dict[str, Any] = {
        "dust": int(min(rng.exponential(4.0), 20.0)),
        "read_noise": _log_uniform(rng, 0.5, 4.0),
        "shot_noise": rng.uniform(0.0, 0.06),
        "overlay": rng.random() < 0.25,
        "interlaced": rng.random() < 0.1,
    }
    if rng.random() < 0.12:
        # From a far corner: the nozzle must leave room for the goniometer.
        across, slant = rng.choice([-1.0, 1.0]), rng.uniform(20.0, 60.0)
        far = {"left": 0.0, "right": 180.0, "top": 90.0, "bottom": 270.0}[optics.side]
        enter = np.deg2rad(far + across * slant)
        end = (0.5 + 0.42 * np.cos(enter), 0.5 + 0.42 * np.sin(enter))
        dirt["nozzle"] = (float(end[0]), float(end[1]), float(np.rad2deg(enter) + 180.0))
        beam_stop = rng.random() < 0.3
        width = rng.uniform(0.02, 0.06) if beam_stop else rng.uniform(0.1, 0.3)
        dirt["nozzle_px"] = width * optics.height_px
    if rng.random() < 0.3:
        rows = rng.integers(0, 7, 4) * (rng.random(4) < 0.5)
        dirt["border_px"] = tuple(int(v) for v in rows)
        dirt["border_level"] = int(rng.choice([0, 16, 255]))
    return dirt
