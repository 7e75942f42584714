"""Gray levels of pictures."""

import math

import numpy as np
import pytest

from skywright.analysis import Batch
from skywright.analysis.picture_statistics import PictureStatistics
from skywright.errors import ConfigError


def test_pixels_above_full_scale_are_in_the_last_range() -> None:
    pictures = np.array([[[0, 255, 3000]], [[1, 2, 65_535]]], np.uint16)
    analysis = PictureStatistics()
    analysis.update(Batch(np.arange(2), np.zeros(2), {"image": pictures}))
    histogram = analysis.result()["histogram"]
    assert histogram[[0, 1, 2, 255]].tolist() == [1, 1, 1, 3]
    assert histogram.sum() == pictures.size


@pytest.mark.parametrize("full_scale", [0.0, -5.0, math.nan, math.inf])
def test_a_scale_without_levels_is_refused(full_scale: float) -> None:
    with pytest.raises(ConfigError, match=f"full_scale {full_scale:g}: expected a number above 0"):
        PictureStatistics(full_scale)
