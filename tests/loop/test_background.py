"""What of a picture is not the scene: an encoder's border lines, and bars with text."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from skywright.instruments.loop.background import border_rows


def with_bar(gray, height, level=0, text="SAMPLE CAM 3   2026-11-22 03:14:15", size=10):
    """Put a bar of a level over the first rows, text of the opposite level in it."""
    strip = Image.new("L", (gray.shape[1], height), level)
    font = ImageFont.load_default(size)
    ImageDraw.Draw(strip).text((6, 1), text, fill=255 - level, font=font)
    return np.concatenate([np.asarray(strip), gray[height:]])


def scene(light=200.0, shape=(480, 704), seed=0):
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(light, 2.0, shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("light", [60.0, 120.0, 190.0])
@pytest.mark.parametrize(("h", "w", "height"), [(240, 352, 16), (480, 704, 19), (768, 1024, 27)])
def test_a_bar_with_text_is_no_part_of_the_scene(h, w, height, light, level):
    gray = with_bar(scene(light, (h, w)), height, level, size=height - 6)
    assert border_rows(gray) == (height + 2, h, 0, w)
    assert border_rows(np.ascontiguousarray(gray[::-1])) == (0, h - height - 2, 0, w)


def test_a_bar_that_a_mount_comes_out_of_is_one_too():
    gray = scene(60.0)
    gray[:90, 300:380] = 140
    assert border_rows(with_bar(gray, 19))[0] == 21


def test_text_without_a_bar_is_left_in_the_picture():
    gray = scene(120.0)
    drawn = with_bar(gray, 19, level=0)
    there = np.arange(480)[:, None] < 19
    gray = np.where(there & (drawn > 110), 250, gray).astype(np.uint8)
    assert border_rows(gray) == (0, 480, 0, 704)


def test_what_is_dark_beside_a_pin_along_the_border_is_no_bar():
    y, x = np.mgrid[0:480, 0:704]
    gray = scene(7.0)
    gray[(y > 24) & (x < 650)] = 190  # in dark field, with a gap to the upper border
    assert border_rows(gray)[0] == 0
    gray = scene(230.0)
    gray[(y < 20) & (x < 650)] = 12  # a silhouette along it, nine tenths of the picture long
    assert border_rows(gray)[0] == 0


def test_a_narrow_border_is_still_found():
    gray = scene()
    gray[:4], gray[:, -6:] = 0, 0
    assert border_rows(gray) == (6, 480, 0, 696)
