"""Connecting pixels to objects, against the plainest way to do it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skywright.instruments.loop.objects import MOST_OBJECTS, label


def flooded(strength, jump, bridge):
    """Label pixel by pixel: (h, w) int, 0 background, in the order of their first strong pixel."""
    h, w = strength.shape
    labels = np.zeros((h, w), int)
    strong = [tuple(place) for place in np.argwhere(strength == 3)]
    count = 0
    for start in strong:
        if labels[start]:
            continue
        count += 1
        stack = [start]
        labels[start] = count
        while stack:
            i, j = stack.pop()
            rows, columns = (
                slice(max(i - jump, 0), i + jump + 1),
                slice(max(j - jump, 0), j + jump + 1),
            )
            for di, dj in np.argwhere(
                (strength[rows, columns] >= 2) & (labels[rows, columns] == 0)
            ):
                labels[rows.start + di, columns.start + dj] = count
                stack.append((rows.start + di, columns.start + dj))
    return bridged(strength, labels, bridge) if bridge else labels


def bridged(strength, labels, longest):
    """Grow all by rings over pixels of strength 1; what meets becomes the first of both."""
    names = {k: k for k in range(1, labels.max() + 1)}
    owner = labels.copy()
    front = [tuple(place) for place in np.argwhere(owner > 0)]
    for _ in range(longest // 2 + 1):
        grown = []
        for i, j in front:
            for a in range(max(i - 1, 0), min(i + 2, len(owner))):
                for b in range(max(j - 1, 0), min(j + 2, owner.shape[1])):
                    if owner[a, b]:
                        one, other = names[owner[i, j]], names[owner[a, b]]
                        names = {
                            k: min(one, other) if v in (one, other) else v for k, v in names.items()
                        }
                    elif strength[a, b] == 1:
                        owner[a, b] = owner[i, j]
                        grown.append((a, b))
        front = grown
    return np.vectorize(lambda k: names.get(k, 0), otypes=[int])(labels)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(4, 24), st.integers(4, 24)),
    jump=st.integers(1, 3),
    bridge=st.sampled_from([0, 2, 4, 12]),
)
def test_objects_are_those_of_a_plain_flood(seed, shape, jump, bridge):
    rng = np.random.default_rng(seed)
    strength = rng.choice(4, size=shape, p=rng.dirichlet([4, 1, 1, 0.4])).astype(np.uint8)
    labels, stats = label(strength, jump, bridge)
    assert (labels == flooded(strength, jump, bridge)).all()
    for k in range(1, len(stats)):
        here = labels == k
        i, j = np.nonzero(here)
        if not len(i):
            assert not stats[k].any()  # it was joined to another
            continue
        assert stats[k, :2].tolist() == [here.sum(), (here & (strength == 3)).sum()]
        assert stats[k, 2:6].tolist() == [i.min(), i.max(), j.min(), j.max()]
        assert stats[k, [8, 11, 14, 17]].tolist() == [
            here[:, 0].sum(), here[:, -1].sum(), here[0].sum(), here[-1].sum()
        ]  # fmt: skip


@pytest.mark.parametrize("value", [0, 1, 2])
def test_what_is_nowhere_strong_is_nothing(value):
    labels, stats = label(np.full((20, 30), value, np.uint8), 2, 12)
    assert not labels.any()
    assert len(stats) == 1


def test_there_is_an_end_to_objects():
    dots = np.zeros((90, 120), np.uint8)
    dots[::4, ::4] = 3
    labels, stats = label(dots, 2, 12)
    assert labels.max() == MOST_OBJECTS
    assert len(stats) == MOST_OBJECTS + 1
