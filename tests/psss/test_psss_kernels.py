import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import savgol_filter

from skywright.instruments.psss.kernels import CLIPPED, PLAIN, SIGNED, as_words, column_sums
from skywright.instruments.psss.smoothing import filter_of, smooth_into

INTEGERS = [
    order + name for name in ("u2", "u4", "u8", "i2", "i4", "i8") for order in ("<", ">")
] + ["u1", "i1", "?"]
FLOATS = ["<f4", ">f4", "<f8", ">f8", "<f2"]
BACKGROUNDS = ("none", "u2", "i8", "f4", "f8")
PAIRS = [
    (dtype, background)
    for dtype in INTEGERS + FLOATS
    for background in BACKGROUNDS
    # 64 bits less a fraction fit in no dtype.
    if not (dtype[1:] in ("u8", "i8") and background.startswith("f"))
]


def draw_picture(dtype, rng, shape=(37, 61)):
    """Return pixels over the whole range of an integer dtype, quarters for floats."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) > 0.5
    if dtype.kind == "f":
        return (rng.integers(-400, 900, shape) / 4).astype(dtype)
    info = np.iinfo(dtype)
    # Small enough that the exact sum fits in 64 bits.
    share = 256 if dtype.itemsize == 8 else 1
    native = dtype.newbyteorder("=")
    picture = rng.integers(info.min // share, info.max // share, shape, native, endpoint=True)
    return picture.astype(dtype)


def draw_background(kind, rng, shape=(37, 61)):
    if kind == "none":
        return None
    values = rng.integers(-900 if kind == "i8" else 0, 900, shape)
    return (values / 8 if kind.startswith("f") else values).astype(kind)


def exact_sums(image, background, mode):
    """Sum with Python's numbers, which do not overflow."""
    pixels = image.astype(object)
    if background is None or mode == PLAIN:
        return pixels.sum(axis=0)
    above = pixels - background.astype(object)
    return (np.maximum(above, 0) if mode == CLIPPED else above).sum(axis=0)


@pytest.mark.parametrize("mode", [PLAIN, CLIPPED, SIGNED])
@pytest.mark.parametrize(("dtype", "background_kind"), PAIRS)
def test_sums_are_exact(dtype, background_kind, mode):
    """Every dtype, byte order, background and mode, against sums without limits."""
    rng = np.random.default_rng(5)
    image, background = draw_picture(dtype, rng), draw_background(background_kind, rng)
    sums, peaks = column_sums(image, background, mode)
    assert (sums.astype(object) == exact_sums(image, background, mode)).all()
    if image.dtype.str[1:] not in ("u8", "b1"):
        assert (peaks.astype(object) == image.astype(object).max(axis=0)).all()


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "u1", ">i4", "<f4"])
@pytest.mark.parametrize(
    "cut",
    [
        np.s_[5:20],
        np.s_[:, 3:40],
        np.s_[::2, ::3],
        np.s_[::-1, ::-1],
        np.s_[36:37, :],
    ],
)
def test_strides_do_not_matter(dtype, cut):
    rng = np.random.default_rng(6)
    image = draw_picture(dtype, rng)[cut]
    background = np.ascontiguousarray(draw_background("u2", rng)[cut])
    for mode in (PLAIN, CLIPPED, SIGNED):
        sums, _ = column_sums(image, background, mode)
        assert (sums.astype(object) == exact_sums(image, background, mode)).all()


def test_transposed_and_odd_addresses():
    rng = np.random.default_rng(7)
    image = draw_picture("u2", rng)
    at_odd = np.frombuffer(b"x" + image.tobytes(), np.uint8)[1:].view(np.uint16)
    assert not at_odd.flags.aligned
    at_odd = at_odd.reshape(image.shape)
    for picture in (image.T, np.asfortranarray(image), at_odd):
        assert (column_sums(picture)[0] == picture.sum(axis=0)).all()


def test_greatest_values_of_64_bits():
    """Pixels past the sign bit are not taken as negative."""
    image = np.array([[2**64 - 1, 5], [0, 2**63]], np.uint64)
    background = np.array([[7, 7], [7, 7]], np.uint16)
    assert column_sums(image)[0].tolist() == [2**64 - 1, 2**63 + 5]
    assert column_sums(image, background, CLIPPED)[0].tolist() == [2**64 - 8, 2**63 - 7]


def test_more_rows_than_32_bits_hold():
    image = np.full((70_001, 3), 65535, np.uint16)
    background = np.zeros_like(image)
    assert column_sums(image)[0].tolist() == [70_001 * 65535] * 3
    assert column_sums(background, image, SIGNED)[0].tolist() == [-70_001 * 65535] * 3


@pytest.mark.parametrize(
    ("image", "background", "mode", "dtype"),
    [
        ("u1", None, PLAIN, np.uint32),
        ("u2", "u2", CLIPPED, np.uint32),
        ("u2", "u2", SIGNED, np.int64),
        ("u4", "u2", CLIPPED, np.uint64),
        ("u8", None, PLAIN, np.uint64),
        ("i2", None, PLAIN, np.int64),
        ("u2", "f4", CLIPPED, np.float64),
        ("f4", None, PLAIN, np.float64),
    ],
)
def test_dtype_of_the_sums(image, background, mode, dtype):
    below = None if background is None else np.zeros((2, 3), background)
    assert column_sums(np.ones((2, 3), image), below, mode)[0].dtype == dtype


def test_any_number_of_threads_gives_the_same():
    """The old service lost counts with two threads: frames in parallel, one background."""
    rng = np.random.default_rng(8)
    images = [rng.integers(0, 4000, (600, 640), np.uint16) for _ in range(4)]
    background = rng.integers(90, 110, (600, 640), np.uint16)
    expected = [exact_sums(image, background, CLIPPED).astype(np.uint32) for image in images]
    wrong = []

    def work(number):
        for turn in range(20):
            image = (number + turn) % 4
            if (column_sums(images[image], background, CLIPPED)[0] != expected[image]).any():
                wrong.append((number, turn))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_nan_pixel_spoils_its_column_only():
    image = np.ones((20, 5), np.float32)
    image[3, 2] = np.nan
    for mode in (CLIPPED, SIGNED):
        sums, _ = column_sums(image, np.zeros((20, 5), np.uint16), mode)
        assert np.isnan(sums).tolist() == [False, False, True, False, False]


def test_words_are_not_copied():
    image = np.zeros((4, 6), np.uint16)
    found = as_words(image)
    assert found is not None
    assert np.shares_memory(found[0], image)
    assert image.flags.writeable
    swapped = as_words(image.astype(image.dtype.newbyteorder()))
    assert swapped is not None
    assert swapped[1] is True
    assert sys.byteorder == "little" or as_words(image)[1] is False


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 70),
    dtype=st.sampled_from(["<u2", ">u2", "u1", "<i2", ">i4"]),
    mode=st.sampled_from([PLAIN, CLIPPED, SIGNED]),
    seed=st.integers(0, 2**32 - 1),
)
def test_sums_of_any_shape(rows, columns, dtype, mode, seed):
    rng = np.random.default_rng(seed)
    image = draw_picture(dtype, rng, (rows, columns))
    background = draw_background("u2", rng, (rows, columns))
    sums, _ = column_sums(image, background, mode)
    assert (sums.astype(object) == exact_sums(image, background, mode)).all()


def smooth(spectrum):
    smoothed = np.empty_like(spectrum)
    smooth_into(spectrum, *filter_of(len(spectrum)), smoothed)
    return smoothed


@pytest.mark.parametrize("columns", [2560, 101, 52, 51])
def test_smoothing_is_that_of_scipy(columns):
    spectrum = np.random.default_rng(9).normal(3e5, 1e5, columns)
    assert smooth(spectrum) == pytest.approx(savgol_filter(spectrum, 51, 3), rel=1e-10)


@pytest.mark.parametrize("columns", [50, 49, 6, 5])
def test_narrow_spectra_are_smoothed_with_the_widest_window(columns):
    spectrum = np.random.default_rng(9).normal(3e5, 1e5, columns)
    window = columns - 1 + columns % 2
    assert 2 * len(filter_of(columns)[0]) - 1 == window
    assert smooth(spectrum) == pytest.approx(savgol_filter(spectrum, window, 3), rel=1e-10)


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_spectra_of_a_few_columns_stay(columns):
    spectrum = np.arange(float(columns))
    assert (smooth(spectrum) == spectrum).all()
