"""From what is found in each picture of a rotation to one answer: votes, cleaning, fits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skywright.errors import DataError
from skywright.instruments.loop.centering import AxisPrior, Center, Reason, fit_center
from skywright.instruments.loop.detection import Detection, border_gaps
from skywright.instruments.loop.face import Face, fit_face
from skywright.instruments.loop.geometry import (
    SIDES,
    Floats,
    Side,
    View,
    to_laboratory,
    to_picture,
    to_view,
)

Texts = NDArray[np.str_]
EDGE_PX = 2.0  # a tip so near the border may be where the frame cuts the sample
CUT_EDGE_PX = 10.0  # the same where the silhouette is known to leave the frame
BAR_PART = 0.1  # of the frame: so near a border a bar of text may cut a head
HEAD_SPREAD = 0.15  # a head keeps its length over a turn within this part and 3 px
HEAD_MAJORITY, HEAD_SHARE = 0.6, 0.3  # of the boxes: agree beyond doubt, must agree at least
# A tip is where the outline ends as seen, not a point of matter: blur and light shift it, more at
# a wide, blunt end. Per coordinate, parts of a pixel and of the width; scored on rendered scenes.
TIP_ERROR_PX, TIP_ERROR_OF_WIDTH = 0.2, 0.02
SEEN_MIN = 0.1  # of the frames show a mount, or there is none; detectors err in 3 %
NEAR_PX = 20.0
"""Tips of one mount are seen at one place along the spindle, but for roll and tilt, within this."""
OTHER_SIDE = 0.8
"""Part of the pictures with a mount that must show it enter from another side to believe that."""
END_SHARE = 0.25
"""Part of the pictures that must agree on the end of a mount."""
MAJORITY = 0.5  # of the boxes: they are wrong more often than tips, with dirt beside the head
WANDERS = 0.05
"""The middle of a silhouette may lie this part of the largest width off its circle: a head that
leans or is thick at one side has no point that is in the middle of all views. Boxes that differ by
some of this agree. With less, right views were left out, and middles came out 20 um off."""
OF_FIT, OF_EDGES = 0.35, 0.3
"""Error of the middle: these parts of the error that the fit tells without a lean, and of the
larger error that is expected of the edges. Fitted to 119 rotations, whole, over a third and with a
third of the pictures (seeds 23000 to 23239 of `tests/support/loop_starts.py`)."""
OF_FIT_WITH_LEAN = 0.7
"""The first of these where the lean is known: maximum likelihood over 201 rotations (seeds 75000 to
75119, and the bent stems of 75200 to 75999)."""
OF_LEAN = 0.1, 0.03
"""Third and fifth harmonic of the middle of a head that leans, parts of the lean, as the geometry
of heads has them; not fitted to rotations. Root mean squares are 0.06 and 0.03 for flat teardrops
half to as wide as long that lean by 5 to 50 deg in any direction, up to twice that for the most
tapered ones. Films that are rolled about the spindle by 20 to 80 deg to either side have 0.07 to
0.17 and 0.04 to 0.09."""
ERROR_MIN_PX, UNKNOWN_ERROR_PX = 0.5, 5.0
"""Of a box in one picture: no box is known better; one whose error is not told."""


@dataclass(frozen=True)
class Series:
    """Detections in n pictures of a rotation, px; shapes are (n,) unless given."""

    phi_deg: Floats
    """Angle of the spindle when each picture was exposed."""
    tip_px: Floats
    """(n, 2): x, y of the tip, NaN where none is seen."""
    bbox_px: Floats
    """(n, 4): xmin, ymin, xmax, ymax of the head, NaN where unknown."""
    error_px: Floats
    """(n, 4): expected absolute errors of `bbox_px`, NaN where unknown."""
    width_px: Floats
    """Extent of the head across the spindle, NaN where unknown."""
    kind: Texts
    """As in `Detection`; empty where unknown ("none": nothing was seen)."""
    kind_odds: Floats
    """Weight of `kind` in the vote, at least 0: added up, log odds of independent pictures."""
    side: Texts
    """As in `Detection`; empty where unknown."""
    score: Floats
    """0..1, weight in the vote for the side."""
    clipped: NDArray[np.bool_]
    """The silhouette leaves the frame elsewhere than on the pin side."""
    beyond: NDArray[np.bool_]
    """The mount reaches past the far border."""

    def __len__(self) -> int:
        return len(self.phi_deg)


@dataclass(frozen=True)
class SeriesFit:
    """What a rotation tells."""

    tip: Center
    """The tip of the sample: what `offset_um` of the command line is."""
    middle: Center
    """The middle of the loop's box; its own `ok` says whether it is known."""
    face: Face
    kind: str
    """Class of the mount by vote; empty if unknown."""
    kind_share: float
    """Part of the votes for it."""
    view: View
    """As given, with the side by vote where it was open."""
    reason: Reason
    why: str
    """Why the tip is not known, or the sample is no loop; empty if all is well."""

    @property
    def ok(self) -> bool:
        """Whether the tip is known and the sample is a loop."""
        return self.reason is Reason.KNOWN


def from_detections(phi_deg: ArrayLike, detections: Sequence[Detection]) -> Series:
    """Make a series from n angles, deg, and n detections; `DataError` if their numbers differ."""
    phi = np.asarray(phi_deg, dtype=np.float64).ravel()
    if len(phi) != len(detections):
        raise DataError(f"series: {len(phi)} angles for {len(detections)} detections")
    nowhere = (np.nan,) * 4
    boxes = [d.bbox or nowhere for d in detections]
    errors = [d.head_errors or nowhere for d in detections]
    return Series(
        phi_deg=phi,
        tip_px=np.array([(d.tip_x, d.tip_y) for d in detections], dtype=np.float64).reshape(-1, 2),
        bbox_px=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        error_px=np.array(errors, dtype=np.float64).reshape(-1, 4),
        width_px=np.array([d.width for d in detections], dtype=np.float64),
        kind=np.array([d.kind for d in detections], dtype="U8"),
        kind_odds=np.maximum([d.kind_odds for d in detections], 0.0),
        side=np.array([d.side or "" for d in detections], dtype="U8"),
        score=np.array([d.score for d in detections], dtype=np.float64),
        clipped=np.array([d.clipped for d in detections], dtype=np.bool_),
        beyond=np.array([d.tip_sign == "+" and d.kind != "none" for d in detections], np.bool_),
    )


def fit_series(
    series: Series, view: View, axis: AxisPrior | None = None, side: Side | None = None
) -> SeriesFit:
    """Say where the sample is, what it is and where its face is.

    Parameters
    ----------
    view
        Its `side` holds if nothing better is known.
    axis
        Row of the spindle where it is known; else it is a result.
    side
        Border through which the pin enters; None takes a vote.
    """
    voted = vote(series.side, series.score)[0]
    elected = next((border for border in SIDES if border == voted), view.side)
    view = replace(view, side=side or elected)
    repeated = duplicates(series)
    other = (series.side != "") & (series.side != view.side)
    cut = cut_by_frame(series, view)
    tip_px = np.where((repeated | other | cut)[:, None], np.nan, series.tip_px)
    kind, share = vote(series.kind, np.where(series.kind == "none", 0.0, series.kind_odds))
    box_px, face = _head(series, view, repeated | other, kind)
    fit_box = partial(fit_middle, series.phi_deg, box_px, series.error_px, view, axis)
    middle = fit_box()
    width_px = face.width_um / view.pixel_um if np.isfinite(face.width_um) else 0.0
    found = np.isfinite(series.width_px).any()
    shift = np.hypot(TIP_ERROR_PX, TIP_ERROR_OF_WIDTH * width_px) if found else 0.0
    tip = fit_center(series.phi_deg, tip_px, view, axis, point_sigma_px=float(shift))
    to_tip_um = tip.offset_um - middle.offset_um
    if tip.ok and middle.ok and to_tip_um[1:].any():
        middle = fit_box(to_tip_um=to_tip_um, start=middle)
    reason, why = _judge(series, tip, kind, int(cut.sum()), view.side, elected)
    return SeriesFit(
        tip=tip,
        middle=middle,
        face=face,
        kind=kind,
        kind_share=share,
        view=view,
        reason=reason,
        why=why,
    )


def keep_outermost(series: Series, view: View) -> tuple[Series, int]:
    """Blank what shows an end nearer to the pin than the end on which many pictures agree.

    A faint loop is missed in some views, and the end of its stem or pin found instead. False tips
    beyond the true end are few and scattered.

    Return the series with tip, boxes, width, class and side unknown where a nearer end was found,
    and the number of these pictures.
    """
    along = to_view(series.tip_px, view)[:, 0]
    seen = np.isfinite(along) & (series.side == view.side)
    near = NEAR_PX * view.pixel_um
    places = along[seen]
    agree = (np.abs(places[:, None] - places[None, :]) < near).mean(axis=0) if seen.any() else None
    if agree is None or seen.sum() < 4 or not (agree >= END_SHARE).any():
        return series, 0
    end = float(places[agree >= END_SHARE].max())
    blank = seen & (along < end - 2.0 * near)
    lost = np.where(blank, np.nan, 1.0)
    kept = replace(
        series,
        tip_px=series.tip_px * lost[:, None],
        bbox_px=series.bbox_px * lost[:, None],
        width_px=series.width_px * lost,
        kind=np.where(blank, "", series.kind),
        side=np.where(blank, "", series.side),
    )
    return kept, int(blank.sum())


def vote(labels: Texts, weight: Floats) -> tuple[str, float]:
    """Return the label of the largest total weight and its share; empty labels do not vote."""
    totals = {
        str(label): float(weight[labels == label].sum()) for label in np.unique(labels) if label
    }
    if not totals or max(totals.values()) <= 0.0:
        return "", 0.0
    best = max(totals, key=lambda label: totals[label])
    return best, totals[best] / sum(totals.values())


def duplicates(series: Series) -> NDArray[np.bool_]:
    """Mark frames, (n,) bool, that repeat an earlier one: same angle, same tip, same box."""
    rows = np.column_stack([series.phi_deg, series.tip_px, series.bbox_px])
    _, first = np.unique(np.nan_to_num(rows, nan=-1e9), axis=0, return_index=True)
    repeated = np.ones(len(series), np.bool_)
    repeated[first] = False
    return repeated


def cut_by_frame(series: Series, view: View) -> NDArray[np.bool_]:
    """Mark tips, (n,) bool, that may be where the frame cuts the sample, not its end."""
    margin = np.where(series.clipped, CUT_EDGE_PX, EDGE_PX)
    return _near_border(np.hstack([series.tip_px, series.tip_px]), margin, margin, view)


def whole_heads(box_px: Floats, view: View) -> NDArray[np.bool_]:
    """Mark boxes that hold the head alone, by its length, which a turn does not change.

    Seen edge-on, a head is as thin as its stem, and a box may take stem and pin for it. So where
    the boxes (n, 4), NaN where unknown, disagree, the shortest length that `HEAD_SHARE` of them
    have is that of the head; all boxes are marked, (n,) bool, if there is no such length.
    """
    first = 1 if view.vertical else 0
    length = box_px[:, first + 2] - box_px[:, first]
    known = np.isfinite(length)
    if not known.any():
        return known
    spread = HEAD_SPREAD * length + 3.0
    agree = np.abs(length[:, None] - length[None, :]) < spread[None, :]  # samples x candidates
    share = agree[known].mean(axis=0)
    most = float(np.max(share[known]))
    needed = most if most >= HEAD_MAJORITY else min(HEAD_SHARE, most)
    candidates = np.flatnonzero(known & (share >= needed))
    shortest = candidates[np.argmin(length[candidates])]
    # The candidate with most company near the shortest is in the middle of its cluster.
    near = candidates[agree[candidates, shortest]]
    middle = near[np.argmax(share[near])]
    return known & agree[:, middle]


def _head(series: Series, view: View, drop: NDArray[np.bool_], kind: str) -> tuple[Floats, Face]:
    """Return the boxes of whole heads, (n, 4) px, NaN where there is none; and fit the face."""
    # That a silhouette leaves the frame is not enough to call its head cut by a border, or by an
    # overlay's bar along it: its pin may leave, or the bar it hangs on.
    across, down = BAR_PART * view.width_px, BAR_PART * view.height_px
    cut = series.clipped & _near_border(series.bbox_px, across, down, view)
    whole = whole_heads(series.bbox_px, view) & ~(drop | cut | series.beyond)
    width = np.where(whole, series.width_px, np.nan) * view.pixel_um
    # A head that a picture takes for a pin has lost its outline, and its width with it.
    width[series.kind == "pin"] = np.nan
    face = fit_face(series.phi_deg, width, view.pixel_um)
    if kind == "pin":
        face = Face("no face: a bare pin is round")
    return np.where(whole[:, None], series.bbox_px, np.nan), face


def fit_middle(
    phi_deg: Floats,
    box_px: Floats,
    error_px: Floats,
    view: View,
    axis: AxisPrior | None,
    *,
    to_tip_um: Floats | None = None,
    start: Center | None = None,
) -> Center:
    """Fit the middle of a loop's box over a rotation.

    Parameters
    ----------
    phi_deg : (n,) float64
        Angle of the spindle at each picture.
    box_px, error_px : (n, 4) float64
        xmin, ymin, xmax, ymax of the head alone, NaN where unknown or not to be used; and their
        expected absolute errors, NaN where unknown.
    view, axis
        As for `fit_center`.
    to_tip_um : (3,) float64
        From the middle to the tip; None where it is not known. The lean is its part across the
        spindle: 0 for a flat head that stands straight on it. Third and fifth harmonic of the
        middle are expected to be some parts of the lean, `OF_LEAN`.
    start
        As for `fit_center`; needed with `to_tip_um`.

    Notes
    -----
    Seen along the spindle, a head has the support function h(phi), and its middle is seen at
    (h(phi) - h(phi + pi)) / 2: the odd harmonics of h. The first of them is the place of the
    middle. The others are 0 for a head that is symmetric about a point, and grow with the lean of
    one that is not, as a teardrop. They are not orthogonal to the first where views are missing:
    those along the edge of a thin head, in which boxes are often wrong.

    A picture counts by the expected error of its box across the spindle. A side of a mount that is
    faint is faint in most views, and missed in all of them alike: such errors are not seen in how
    well the views agree, and no number of views lowers them. So a part of the expected error of
    the edges is added to the error of the center. Without a lean the error that the fit gives is
    too large: that the middle wanders with the angle looks to it like errors that last over many
    views. With a lean the wandering is fitted, and more of the error counts.

    Where the neck of a head that leans is not seen, its box is shorter, and the middle of the box
    is nearer to the tip: along the spindle, and across it by the lean. So the middles are moved
    along the direction to the tip, to one place along the spindle. They are not moved if the tip is
    less than a quarter of the box's length in front of the middle.
    """
    first = 0 if view.vertical else 1
    across = error_px[:, first::2]
    own_px = np.nan_to_num(0.5 * np.hypot(*across.T), nan=UNKNOWN_ERROR_PX)
    extent = box_px[:, first + 2] - box_px[:, first]
    seen = np.isfinite(extent)
    widest_px = float(np.percentile(extent[seen], 90)) if seen.any() else 0.0
    known = across[seen & np.isfinite(across).all(axis=1)]
    middle_px, lean_um = 0.5 * (box_px[:, :2] + box_px[:, 2:]), 0.0
    if to_tip_um is not None and start is not None and start.circle_um is not None:
        lean_um = float(np.hypot(*to_tip_um[1:]))
        length_um = float(np.nanmedian(box_px[:, 3 - first] - box_px[:, 1 - first])) * view.pixel_um
        if to_tip_um[0] > length_um / 4.0:
            _, cos, sin = start.circle_um[1]  # along the spindle, if it is rolled or tilted
            angle = np.deg2rad(phi_deg) * view.phi_sign
            along = to_view(middle_px, view)[:, 0] - cos * np.cos(angle) - sin * np.sin(angle)
            slope = to_laboratory(to_tip_um, phi_deg, view.phi_sign)[:, 1] / to_tip_um[0]
            off = (along - np.nanmedian(along)) * slope
            middle_px = middle_px - to_picture(np.outer(off, [0.0, 1.0]), view)
    return fit_center(
        phi_deg,
        middle_px,
        view,
        axis,
        point_sigma_px=OF_EDGES * float(np.median(known.max(axis=1))) if len(known) else 0.0,
        trust=1.0 / np.hypot(ERROR_MIN_PX, own_px),
        least_inliers=MAJORITY,
        unit_px=max(1.0, WANDERS * widest_px),
        fit_part=OF_FIT_WITH_LEAN if lean_um else OF_FIT,
        odd_sigma_um=[part * lean_um for part in OF_LEAN] if lean_um else (),
        start=start,
    )


def _near_border(
    box_px: Floats, across: Floats | float, down: Floats | float, view: View
) -> NDArray[np.bool_]:
    """Mark boxes that come within N pixels of a border other than the pin's."""
    x0, y0, x1, y1 = box_px.T
    gaps = border_gaps(x0, y0, x1, y1, view.width_px - 1, view.height_px - 1)
    margins = {"left": across, "right": across, "top": down, "bottom": down}
    return np.any([gaps[name] < margins[name] for name in SIDES if name != view.side], axis=0)


def _judge(
    series: Series, tip: Center, kind: str, cut: int, side: Side, elected: Side
) -> tuple[Reason, str]:
    """Say what the sample's state adds to what the fit says."""
    n = len(series)
    if n == 0:
        return Reason.NO_FRAMES, "no frames: the series is empty"
    nothing = int((series.kind == "none").sum())
    if nothing > (1.0 - SEEN_MIN) * n:
        return Reason.NO_PIN, f"no pin: nothing is seen in {nothing} of {n} frames"
    if kind == "pin":
        pins = int((series.kind == "pin").sum())
        return Reason.NO_LOOP, f"no loop: {pins} of {n} frames show a bare pin"
    if tip.reason is Reason.KNOWN:
        return tip.reason, ""
    other = int((series.side == elected).sum())
    most = max(OTHER_SIDE * int((series.side != "").sum()), MAJORITY * n)
    if elected != side and other > most:
        seen = f"the pin enters from the {elected} in {other} of {n} frames, not from the {side}"
        return Reason.OTHER_SIDE, f"{Reason.OTHER_SIDE}: {seen}; is the camera calibrated so?"
    beyond = int(series.beyond.sum())
    notes = []
    if beyond:
        notes.append(f"the mount reaches past the far border in {beyond} of {n} frames")
    if cut:
        notes.append(f"the tip leaves the frame in {cut} of {n}")
    if beyond > 0.5 * n and not tip.n_given:
        return Reason.NOT_IN_VIEW, f"{Reason.NOT_IN_VIEW}: {notes[0]}; move the sample back"
    return tip.reason, "; ".join([tip.why, *notes])
