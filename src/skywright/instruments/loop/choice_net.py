"""A small network that looks again at the things between which the evidence does not decide.

Trained by `tools/train_choice_net.py` on scenes of the twin. Four convolutions look at what would
be the head, three at that with stem and pin; what is left of both, averaged over 2 x 2, is joined
with the evidence and goes through two dense layers. It sees which way a pin's streaks run, and that
a bubble has no stem.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.loop.background import Field
from skywright.instruments.loop.candidates import Thing
from skywright.instruments.loop.kind_crop import crop
from skywright.instruments.loop.layers import Network, judge, load

CLOSE_ODDS, MOST_LOOKS = 5.0, 4  # rivals are within these odds of the likeliest; number of them
SAME_END_PX = 6.0  # things of one side that end so near each other are not worth a look
SURE_ODDS = 3.0  # against there being no mount


def network() -> Network:
    """Load the weights that come with the package."""
    return load("choice_net.npz")


def look_again(
    gray: NDArray[np.uint8], field: Field, things: Sequence[Thing], odds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weigh the rivals anew where it is not clear which thing is the mount.

    Parameters
    ----------
    gray : (H, W) uint8
    field
        Light of the picture.
    things
        At least one, from `skywright.instruments.loop.candidates.find_things`.
    odds : (things,) float64
        Logarithm of the probability of each over that of there being no mount, by its evidence.

    Returns
    -------
    (things,) float64
        The same with the network's say.
    """
    rivals = _rivals(things, odds)
    first = things[rivals[0]].outline
    if odds[rivals[0]] > SURE_ODDS and not any(
        things[k].outline.side != first.side
        or abs(things[k].outline.reach - first.reach) * field.step_px > SAME_END_PX
        for k in rivals
    ):
        return odds
    said = {likeness(things[k]): answer(gray, field, things[k]) for k in rivals}
    return odds + [said.get(likeness(thing), 0.0) for thing in things]


def answer(gray: NDArray[np.uint8], field: Field, thing: Thing) -> float:
    """Return what to add to the odds of a thing.

    Parameters
    ----------
    gray, field
        As for `look_again`.
    thing
        The one to look at.

    Returns
    -------
    float
    """
    cut = crop(gray, thing.outline, thing.parts, field)
    numbers = np.array([*thing.evidence.values(), *cut.extras], np.float32)
    return float(judge(network(), cut.head, cut.view, numbers)[0])


def _rivals(things: Sequence[Thing], odds: NDArray[np.float64]) -> list[int]:
    """Return the likeliest and those near it, of things that look alike the first."""
    out: dict[tuple[str, int, int, int, int], int] = {}
    for k in np.argsort(-odds, kind="stable").tolist():
        if len(out) == MOST_LOOKS or odds[k] <= odds.max() - CLOSE_ODDS:
            break
        out.setdefault(likeness(things[k]), k)
    return list(out.values())


def likeness(thing: Thing) -> tuple[str, int, int, int, int]:
    """Return what things have in common that have one outline, by whatever way it was found."""
    line = thing.outline
    return line.side, line.start, line.reach, int(line.low.sum()), int(line.high.sum())
