"""Which way the streaks of a bare pin run that fills a corner of the picture.

Its outline enters through two borders, and does not tell which of its edges is its end. A pin
reflects light in streaks along its axis: the grey level changes across it and hardly along it, in
a silhouette by a grey level or less, which the mean over the whole pin shows.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.loop.background import Field
from skywright.instruments.loop.candidates import Thing
from skywright.instruments.loop.seg_net import KINDS, Map
from skywright.instruments.loop.silhouette import Outline, seen_from

RIVAL_ODDS = 10.0  # so near the likeliest a pin may be it by its streaks
WEIGHT, MOST = 2.0, 2.0  # of `anisotropy` in the log odds; what of it counts
FIRST, LAST = 0.08, 0.85  # parts of the reach between which streaks are looked for
RIM, LEAST_RIM = 0.06, 2  # of the width, and pixels of the field, left out beside an edge
LEAST_SIZE = 6  # pixels of the field
JUST_SEEN = 0.05  # grey levels squared: of compression and uneven light


def weigh_streaks(
    field: Field, seen: Map, things: Sequence[Thing], odds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weigh bare pins that enter through different borders by their streaks.

    Parameters
    ----------
    field
        The picture.
    seen
        What the network of the masks says of it: it counts as far as that shows a bare pin.
    things
        From `skywright.instruments.loop.candidates.find_things`.
    odds : (things,) float64
        Logarithm of the probability of each over that of there being no mount.

    Returns
    -------
    (things,) float64
        The same with what the streaks say, if pins enter through two borders or more.
    """
    pins = [
        k
        for k, thing in enumerate(things)
        if thing.evidence["plain"] and odds[k] > odds.max() - RIVAL_ODDS
    ]
    if len({things[k].outline.side for k in pins}) < 2:
        return odds
    weight = WEIGHT * math.exp(seen.kinds[KINDS.index("pin")])
    weighed = odds.copy()
    for k in pins:
        weighed[k] += weight * np.clip(anisotropy(field, things[k].outline), -MOST, MOST)
    return weighed


def anisotropy(field: Field, outline: Outline) -> float:
    """Compare how the grey level changes across a pin and along it.

    Parameters
    ----------
    field
        The picture.
    outline
        Of the pin.

    Returns
    -------
    float
        Logarithm of the variance across, of the means along, over that along, of the means across,
        both without their slope and what noise makes of them. 0 of what is too small to tell.
    """
    gray = seen_from(outline.side, field.deviation + field.light)
    u0, u1 = int(FIRST * outline.reach), int(LAST * outline.reach)
    low, high = outline.low[u0:u1], outline.high[u0:u1]
    if u1 - u0 < LEAST_SIZE or not (high > low).all():
        return 0.0
    v0, v1 = int(np.quantile(low, 0.9)), int(np.quantile(high, 0.1)) + 1
    rim = max(int(RIM * (v1 - v0)), LEAST_RIM)
    v0 += rim if v0 > 0 else 0
    v1 -= rim if v1 < outline.across else 0
    if v1 - v0 < LEAST_SIZE:
        return 0.0
    inside = gray[v0:v1, u0:u1].astype(np.float64)
    across = _variance(inside.mean(axis=1), field.noise**2 / inside.shape[1])
    along = _variance(inside.mean(axis=0), field.noise**2 / inside.shape[0])
    return math.log((across + JUST_SEEN) / (along + JUST_SEEN))


def _variance(profile: NDArray[np.float64], noise: float) -> float:
    """Variance about a straight line, without that of the noise."""
    places = np.linspace(-1.0, 1.0, len(profile))
    rest = profile - np.polyval(np.polyfit(places, profile, 1), places)
    return max(float(rest.var()) - noise, 0.0)
