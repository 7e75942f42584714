"""Draw the frames and signs of `centering.md`: ``python docs/explanations/centering_figure.py``."""

from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from skywright.instruments.loop.centering import fit_center
from skywright.instruments.loop.face import fit_face
from skywright.instruments.loop.geometry import View, observe, to_laboratory

VIEW = View()
TIP_UM = np.array([-400.0, 260.0, -150.0])
AXIS_PX, FACE_DEG, WIDE_UM, THIN_UM = 236.0, 60.0, 300.0, 50.0
ARROW = {"arrowstyle": "-|>", "color": "0.2", "lw": 1.2}
BLUE, RED, GRAY = "#1f5fa8", "#b8322a", "0.55"


def draw_picture(axes: Axes) -> None:
    """Draw what the camera sees: pin from the left, axis, target, along and across."""
    x, y = observe(TIP_UM, 0.0, VIEW, AXIS_PX)
    axes.axhline(AXIS_PX, color=GRAY, ls="-.", lw=1)
    axes.axvline(VIEW.target, color=GRAY, ls=":", lw=1)
    axes.text(560, AXIS_PX - 9, "axis row", color="0.3")
    axes.text(VIEW.target + 8, 466, "target column", color="0.3")
    axes.fill([-0.5, 90, 90, -0.5], [y - 48, y - 48, y + 48, y + 48], color="0.35")
    axes.plot([90, x - 56], [y, y], color="0.35", lw=3)
    turn = np.linspace(0, 2 * np.pi, 100)
    axes.plot(x - 28 + 28 * np.cos(turn), y + 20 * np.sin(turn), color="0.35", lw=3)
    axes.plot(x, y, "o", color=RED, ms=6)
    axes.text(x + 9, y + 5, "tip", color=RED)
    axes.text(8, y + 8, "pin", color="white")
    for start, end, name, place in (
        ((470, 90), (580, 90), "along", (585, 96)),
        ((470, 90), (470, 180), "across", (478, 182)),
    ):
        axes.annotate("", end, start, arrowprops=ARROW)
        axes.text(*place, name)
    axes.set(xlim=(-0.5, 703.5), ylim=(479.5, -0.5), aspect="equal")
    axes.set(xlabel="x, px", ylabel="y, px", title="The picture at phi = 0 (pin from the left)")


def draw_section(axes: Axes) -> None:
    """Draw a cut through the spindle: how (y, z) turn, and what the camera sees of them."""
    sweep = np.arange(0.0, 61.0)
    _, across, beam = to_laboratory(TIP_UM, sweep).T
    axes.plot(beam, across, color=RED, lw=1)
    axes.annotate(
        "", (beam[-1], across[-1]), (beam[-3], across[-3]), arrowprops={**ARROW, "color": RED}
    )
    axes.plot(beam[0], across[0], "o", color=RED)
    axes.text(beam[0] - 12, across[0] + 32, "tip at phi = 0", color=RED, ha="right")
    axes.text(beam[-1] + 14, across[-1], "phi grows", color=RED)
    axes.plot(0, 0, "k+", ms=12)
    axes.text(-12, -14, "axis", ha="right")
    for angle, color, label in ((0.0, BLUE, ""), (30.0, GRAY, " at 30 deg")):
        for name, unit in (("y", (0, 180, 0)), ("z", (0, 0, 180))):
            _, v, w = to_laboratory(unit, angle)
            axes.annotate("", (w, v), (0, 0), arrowprops={**ARROW, "color": color})
            axes.text(1.12 * w, 1.12 * v, name + label, color=color, ha="center", va="center")
    axes.annotate("", (-300, -235), (-460, -235), arrowprops=ARROW)
    axes.text(-460, -265, "camera looks along the beam")
    axes.set(xlim=(-480, 400), ylim=(360, -330), aspect="equal")
    axes.set(xlabel="along the beam, um", ylabel="across (rows grow downwards), um")
    axes.set_title("Seen along the spindle")


def draw_rotation(axes: Axes) -> None:
    """Draw a rotation with a clipped arc and wrong tips, and its fit."""
    rng = np.random.default_rng(4)
    phi = np.arange(90) * 2.0 + 1.0
    tips = observe(TIP_UM, phi, VIEW, AXIS_PX) + rng.normal(0, 1.5, (90, 2))
    tips[12:22] = np.nan
    tips[50:66, 1] -= 25
    tips[50:66, 0] -= 60
    fit = fit_center(phi, tips, VIEW)
    smooth = np.linspace(0, 180, 200)
    axes.plot(smooth, observe(fit.offset_um, smooth, VIEW, fit.axis_row_px)[:, 1], color=BLUE)
    axes.plot(phi[fit.used], tips[fit.used, 1], ".", color="k", label="used")
    axes.plot(phi[~fit.used], tips[~fit.used, 1], "x", color=RED, label="neck taken for the tip")
    axes.axhline(fit.axis_row_px, color=GRAY, ls="-.", lw=1)
    axes.text(2, fit.axis_row_px - 2, "a, the axis row", color="0.3")
    axes.legend(frameon=False, loc="lower right")
    axes.invert_yaxis()
    y, z = fit.offset_um[1:]
    truth = f"true {TIP_UM[1]:.0f}, {TIP_UM[2]:.0f}"
    title = f"y = {y:.0f}, z = {z:.0f} um, sigma {fit.sigma_um:.1f} um ({truth})"
    axes.set(xlabel="phi, deg", ylabel="row of the tip, px", title=title)


def draw_face(axes: Axes) -> None:
    """Draw widths over a rotation and the face."""
    rng = np.random.default_rng(5)
    phi = np.arange(90) * 2.0 + 1.0
    turn = np.radians(phi - FACE_DEG)
    width = np.hypot(WIDE_UM * np.cos(turn), THIN_UM * np.sin(turn)) + rng.normal(0, 10, 90)
    width[70:78] = 330.0 + rng.normal(0, 10, 8)
    face = fit_face(phi, width, VIEW.pixel_um)
    smooth = np.radians(np.linspace(0, 180, 200) - face.face_on_deg)
    seen = np.hypot(face.width_um * np.cos(smooth), face.thickness_um * np.sin(smooth))
    axes.plot(np.linspace(0, 180, 200), seen, color=BLUE)
    axes.plot(phi[face.used], width[face.used], "k.")
    axes.plot(phi[~face.used], width[~face.used], "x", color=RED)
    axes.axvline(face.face_on_deg, color=GRAY, ls=":", lw=1)
    axes.set(xlabel="phi, deg", ylabel="width of the head, um", ylim=(0, None))
    axes.set_title(f"face-on at {face.face_on_deg:.1f} deg (true {FACE_DEG:.0f})")


def main() -> None:
    """Write ``centering.png`` beside this file."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8.4), constrained_layout=True)
    draws = (draw_picture, draw_section, draw_rotation, draw_face)
    for draw, place in zip(draws, axes.ravel(), strict=True):
        draw(place)
    figure.savefig(Path(__file__).with_name("centering.png"), dpi=80)


if __name__ == "__main__":
    main()
