"""A picture in good light, and what our detector sees in it."""

from typing import Any

import numpy as np
import pytest
from support.backends import scene_with

from skywright.instruments.loop.detect import find_loop
from skywright.instruments.loop.detection import Detection
from skywright.instruments.loop.picture import to_gray


@pytest.fixture(scope="module")
def picture() -> np.ndarray[Any, Any]:
    return scene_with("nylon", "left", 5).image


@pytest.fixture(scope="module")
def gray(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return to_gray(picture)


@pytest.fixture(scope="module")
def seen(gray: np.ndarray[Any, Any]) -> Detection:
    return find_loop(gray)
