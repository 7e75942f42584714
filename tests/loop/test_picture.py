"""Bytes of image files to gray arrays, and what broken ones say."""

import contextlib
import io
import struct

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skywright.errors import DataError
from skywright.instruments.loop.picture import decode, picture_size, read_picture


def ramp(height=48, width=64):
    return np.add.outer(np.arange(height), 2 * np.arange(width)).astype(np.uint8)


def encoded(pixels, kind, **options):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_lossless_files_give_the_pixels(kind):
    assert np.array_equal(decode(encoded(ramp(), kind)), ramp())


def test_gray_jpeg_is_the_luminance():
    data = simplejpeg.encode_jpeg(ramp()[:, :, None], quality=98, colorspace="GRAY")
    gray = decode(data)
    assert gray.shape == (48, 64)
    assert gray.dtype == np.uint8
    assert np.abs(gray.astype(int) - ramp()).max() <= 4


def test_color_jpeg_and_png_agree():
    rng = np.random.default_rng(3)
    color = np.repeat(np.repeat(rng.integers(0, 255, (6, 8, 3), np.uint8), 16, 0), 16, 1)
    jpeg = decode(encoded(color, "JPEG", quality=95, subsampling=0))
    png = decode(encoded(color, "PNG"))
    assert np.abs(jpeg.astype(int) - png).max() <= 6


def test_cmyk_jpeg_is_read():
    color = np.dstack([ramp(), ramp(), ramp()])
    out = io.BytesIO()
    Image.fromarray(color).convert("CMYK").save(out, "JPEG", quality=95)
    assert np.abs(decode(out.getvalue()).astype(int) - ramp()).max() <= 8


def test_sixteen_bit_counts_are_scaled_by_the_least_depth_that_holds_them():
    counts = ramp().astype(np.uint16) * 16  # 12 bits
    assert np.abs(decode(encoded(counts, "PNG")).astype(int) - ramp()).max() <= 1


def test_floating_point_pictures_are_0_to_1_or_counts():
    levels = np.linspace(0.0, 1.0, 48 * 64, dtype=np.float32).reshape(48, 64)
    for scale in (1.0, 1023.0):
        pixels = decode(encoded(levels * np.float32(scale), "TIFF")).astype(float)
        np.testing.assert_allclose(pixels, levels * 255.0, atol=1.0)


def test_transparent_parts_are_white():
    pixels = np.dstack([ramp(), ramp(), ramp(), np.full((48, 64), 255, np.uint8)])
    pixels[:10, :, 3] = 0
    gray = decode(encoded(pixels, "PNG"))
    assert (gray[:10] == 255).all()
    assert np.array_equal(gray[10:], ramp()[10:])


@pytest.mark.parametrize("mode", ["P", "L"])
def test_transparent_color_of_a_palette_or_gray_file_is_white(mode):
    picture = Image.fromarray(np.full((48, 64), 100, np.uint8))
    picture.paste(30, (0, 0, 64, 10))
    out = io.BytesIO()
    picture.convert(mode).save(out, "PNG", transparency=30)
    gray = decode(out.getvalue())
    assert (gray[:10] == 255).all()
    assert (gray[10:] == 100).all()


def test_a_damaged_png_is_a_data_error():
    data = bytearray(encoded(ramp(), "PNG"))
    data[data.index(b"IDAT") + 25] ^= 1  # zlib makes a picture of this, another one
    with pytest.raises(DataError, match="frame 7"):
        decode(bytes(data), "frame 7")


def lying(jpeg: bytes, width: int, height: int) -> bytes:
    """Return a JPEG file whose header gives it another size."""
    place = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:place] + struct.pack(">HH", height, width) + jpeg[place + 4 :]


def test_a_header_alone_tells_no_new_size():
    jpeg = encoded(ramp(), "JPEG")
    size = ramp().shape[::-1]
    assert picture_size(jpeg) == picture_size(jpeg[:-100], known=[size]) == size
    assert picture_size(lying(jpeg, 8000, 6000), known=[size]) is None
    assert picture_size(jpeg[:-100]) is None


def test_what_other_readers_of_pillow_raise_is_a_data_error():
    # A header of DDS whose pixel format nobody knows: Pillow raises NotImplementedError.
    header = struct.pack("<4s7I44x8I", b"DDS ", 124, 0x1007, 48, 64, 256, 0, 0, 32, *[0] * 7)
    data = header + bytes(48 * 64 * 4)
    assert picture_size(data) is None
    with pytest.raises(DataError, match="frame 7"):
        decode(data, "frame 7")


@pytest.mark.parametrize("kept", [0, 2, 20, 500, -200])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_cut_off_files_are_data_errors_that_name_the_source(kind, kept):
    rng = np.random.default_rng(0)
    data = encoded(rng.integers(0, 255, (96, 128), np.uint8), kind)
    with pytest.raises(DataError, match="frame 7"):
        decode(data[:kept], "frame 7")


@pytest.mark.parametrize("color", [False, True])
def test_a_jpeg_that_ends_too_early_is_a_data_error_though_it_has_an_end(color):
    data = encoded(np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8), "JPEG")
    half = len(data) // 2
    for damaged in (data[:half] + data[-2:], data[:half] + bytes(200) + data[half + 200 :]):
        with pytest.raises(DataError, match="frame 7"):
            decode(damaged, "frame 7", color)


def test_a_progressive_jpeg_that_lacks_pixels_of_a_scan_is_a_data_error():
    pixels = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    data = encoded(pixels, "JPEG", progressive=True)
    for follows in (b"\xff\xc4", b"\xff\xda"):
        after = data.index(follows, data.index(b"\xff\xda") + 2)
        damaged = data[:after] + bytes(200) + data[after:]
        with pytest.raises(DataError, match=f"extraneous bytes before marker 0x{follows[1]:x}"):
            decode(damaged, "frame 7")


def test_odd_bytes_between_the_parts_of_a_jpeg_do_no_harm():
    data = encoded(ramp(), "JPEG")
    padded = data.replace(b"\xff\xdb", bytes(200) + b"\xff\xdb", 1)
    for odd in (data + bytes(64), data[:-2] + bytes(4) + data[-2:], padded):
        assert np.abs(decode(odd).astype(int) - decode(data)).max() <= 2


def test_a_jpeg_larger_than_any_camera_picture_is_refused_by_its_header():
    data = bytearray(encoded(ramp(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    with pytest.raises(DataError, match="frame 7: 65000 x 65000 pixels"):
        decode(bytes(data), "frame 7")


@given(st.binary(max_size=400), st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"]))
@settings(deadline=None, max_examples=60)
def test_any_bytes_are_a_picture_or_a_data_error(tail, head):
    with contextlib.suppress(DataError):
        assert decode(head + tail).ndim == 2


def test_too_small_and_missing_files(tmp_path):
    with pytest.raises(DataError, match="16 x 16"):
        decode(encoded(ramp(16, 16), "PNG"))
    with pytest.raises(DataError, match="nowhere"):
        read_picture(tmp_path / "nowhere.jpg")


def test_read_picture_reads_a_file(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(ramp(), "PNG"))
    assert np.array_equal(read_picture(path), ramp())
