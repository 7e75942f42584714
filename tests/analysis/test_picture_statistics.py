"""Grey levels of pictures."""

import numpy as np

from skywright.analysis import Batch
from skywright.analysis.picture_statistics import PictureStatistics


def test_pixels_above_full_scale_are_in_the_last_range() -> None:
    pictures = np.array([[[0, 255, 3000]], [[1, 2, 65_535]]], np.uint16)
    analysis = PictureStatistics()
    analysis.update(Batch(np.arange(2), np.zeros(2), {"image": pictures}))
    histogram = analysis.result()["histogram"]
    assert histogram[[0, 1, 2, 255]].tolist() == [1, 1, 1, 3]
    assert histogram.sum() == pictures.size
