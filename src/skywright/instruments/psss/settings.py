"""Settings with which a picture of the spectrometer camera is processed."""

import hashlib
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skywright.arguments import TEXT_MAX
from skywright.errors import ConfigError

BackgroundMode = Literal["clipped", "signed", "none"]
Smoothing = Literal["savgol", "none"]
Fit = Literal["gaussian", "robust"]
Weighting = Literal["auto", "uniform", "noise"]
CHOICES: dict[str, Any] = {
    "background_mode": BackgroundMode,
    "smoothing": Smoothing,
    "fit": Fit,
    "weighting": Weighting,
}
"""Settings whose value is one of a few words, and the type with these words."""
PULSES_MAX = 10_000
"""Maximum number of pulses averaged for a background."""
NAME_BYTES_MAX = 512
"""Maximum length of a background's name in UTF-8, bytes: files of spectra have room for it."""


@dataclass(frozen=True, eq=False)
class Settings:
    """Settings of the processing. An object never changes; `dataclasses.replace` makes another.

    Parameters
    ----------
    roi
        Rows [ymin, ymax) of the picture that are summed; (0, 0): all rows.
    background
        Background as it was measured, (rows, columns); None: none is subtracted. It is kept as
        uint16, int64, float32 or float64, the first of these that holds its values exactly. What is
        subtracted is `background_used`.
    background_name
        Label of the background, at most 512 bytes of UTF-8 without control characters.
    background_mode
        clipped: max(pixel - background, 0) for each pixel, as in the old service. A background with
        fractions is rounded, to 0 or more. Where there is no light, the sum of a column is too
        large by 0.4 times a pixel's noise for each row.
        signed: pixel - background. none: the background is not subtracted.
    smoothing
        savgol: before the fit the spectrum is smoothed by a Savitzky-Golay filter of 51 columns and
        order 3, with a polynomial at the ends. none: it is not smoothed.
    fit
        gaussian: least squares. robust: Huber's loss, without distant spikes and saturated columns,
        on the spectrum that is not smoothed, whatever `smoothing` says.
    weighting
        Weights of the columns in the gaussian fit. uniform: all are equal. noise: from the noise
        of each column, which is estimated from the spectrum. auto: noise if the residuals of the
        uniform fit are nothing but noise, else uniform. With `smoothing` it is always uniform.
    axis
        Photon energy of each column, (columns,) eV, rising or falling; None: figures are in pixels.
    signal_per_row
        A spectrum has a signal only if its maximum - minimum is above this number of counts times
        the rows of the whole picture (1.5 in the old service).
    saturation
        Least value of a saturated pixel, such as 4095 of a 12-bit camera. None or 0: the greatest
        value of an integer dtype; pixels of a floating-point dtype are then never saturated.

    Raises
    ------
    ConfigError
        If a value is not allowed. The message names the setting.
    """

    roi: tuple[int, int] = (0, 0)
    background: NDArray[Any] | None = field(default=None, repr=False)
    background_name: str = ""
    background_mode: BackgroundMode = "clipped"
    smoothing: Smoothing = "savgol"
    fit: Fit = "gaussian"
    weighting: Weighting = "auto"
    axis: NDArray[np.float64] | None = field(default=None, repr=False)
    signal_per_row: float = 1.5
    saturation: float | None = None
    background_used: NDArray[Any] | None = field(init=False, repr=False)
    """What is subtracted before the sum, computed from `background` and `background_mode`."""

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {"roi": checked_roi(self.roi)}
        check_name(self.background_name)
        for name, literal in CHOICES.items():
            if getattr(self, name) not in literal.__args__:
                raise ConfigError(
                    f"{name}: {getattr(self, name)!r} is none of {', '.join(literal.__args__)}"
                )
        if self.background is not None:
            checked["background"] = as_background(self.background)
        if self.axis is not None:
            checked["axis"] = _axis(self.axis)
        least = self.signal_per_row
        if not _is_level(least):
            raise ConfigError(f"signal_per_row: {least!r} is not a number of counts, 0 or more")
        checked["background_used"] = _used(checked.get("background"), self.background_mode)
        checked["saturation"] = _saturation(self.saturation)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def is_same(self, other: "Settings") -> bool:
        """Return whether every setting has an equal value."""
        return all(
            _equal(getattr(self, each.name), getattr(other, each.name))
            for each in fields(self)
            if each.init  # the others are computed from these
        )

    @cached_property
    def background_digest(self) -> str:
        """`digest_of` of the background; empty if there is none."""
        return "" if self.background is None else digest_of(self.background_name, self.background)


def checked_roi(roi: Any) -> tuple[int, int]:
    """Return the rows (ymin, ymax) of a ROI.

    Raises
    ------
    ConfigError
        If they are not 0 <= ymin < ymax, or both 0, in whole rows.
    """
    try:
        ymin, ymax = (int(edge) for edge in roi)
        whole = all(int(edge) == edge and not isinstance(edge, bool) for edge in roi)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"roi: {roi!r} is not a pair of rows (ymin, ymax)") from error
    if not whole or not (0 <= ymin < ymax < 2**31 or ymin == ymax == 0):
        raise ConfigError(
            f"roi: {roi!r} is not (ymin, ymax) with 0 <= ymin < ymax in whole rows; (0, 0) is the "
            "whole picture"
        )
    return ymin, ymax


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one is other or (one.dtype == other.dtype and np.array_equal(one, other))
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return False
    return bool(one == other)


def check_name(name: Any) -> None:
    """Check that a background's name can be stored in HDF5 and published by every endpoint.

    Raises
    ------
    ConfigError
        If it cannot.
    """
    if not isinstance(name, str):
        raise ConfigError(f"background_name: {name!r} is not text")
    size = len(name.encode(errors="replace"))
    if size > NAME_BYTES_MAX:
        raise ConfigError(f"background_name: has {size} bytes, at most {NAME_BYTES_MAX} are kept")
    odd = next((c for c in name if unicodedata.category(c) in ("Cc", "Cs")), None)
    if odd is not None:
        raise ConfigError(f"background_name: {name!r}: control characters are not allowed")


def as_background(background: ArrayLike) -> NDArray[Any]:
    """Return the pixels of a background as `Settings` keep them, read-only.

    Parameters
    ----------
    background
        (rows, columns) of finite numbers.

    Returns
    -------
    numpy.ndarray
        uint16, int64, float32 or float64, the first of these that holds the values exactly.

    Raises
    ------
    ConfigError
        If the background is something else.
    """
    try:
        given = np.asarray(background)
    except ValueError as error:
        raise ConfigError(f"background: {error}; expected rows of equal length") from error
    if given.ndim != 2 or given.dtype.kind not in "buif" or not given.size:
        raise ConfigError(
            f"background: shape {given.shape}, dtype {given.dtype}; expected (rows, columns) of "
            "numbers"
        )
    if given.dtype.kind == "f" and not np.isfinite(given).all():
        raise ConfigError("background: has values that are not finite; measure it again")
    kept = np.ascontiguousarray(given, dtype=_dtype_for(given))
    if kept is background and kept.flags.writeable:
        kept = kept.copy()
    kept.flags.writeable = False
    return kept


def digest_of(name: str, pixels: NDArray[Any]) -> str:
    """Return the SHA-256, hexadecimal, of a background's name, shape, dtype and pixels."""
    digest = hashlib.sha256(repr((name, pixels.shape, pixels.dtype.str)).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _used(background: NDArray[Any] | None, mode: BackgroundMode) -> NDArray[Any] | None:
    """Return the pixels to subtract, read-only.

    With ``clipped`` they are whole numbers, as in the old service, which is also faster. With
    ``signed`` the fractions of a mean picture count.
    """
    if background is None or mode == "none":
        return None
    if mode == "signed" or background.dtype.kind != "f":
        return background
    used = np.clip(np.rint(background), 0, 2**62)
    used = used.astype(np.uint16 if used.max() <= np.iinfo(np.uint16).max else np.int64)
    used.flags.writeable = False
    return used


def _dtype_for(values: NDArray[Any]) -> type[np.generic]:
    """Return the smallest of the dtypes of `kernels` that holds all values exactly."""
    if values.dtype == np.uint16:
        return np.uint16
    if values.dtype.kind == "f" and not (values == np.rint(values)).all():
        return np.float32 if (values.astype(np.float32) == values).all() else np.float64
    low, high = values.min(), values.max()
    if low >= 0 and high <= np.iinfo(np.uint16).max:
        return np.uint16
    return np.int64 if low > -(2.0**62) and high < 2.0**62 else np.float64


def _is_level(value: Any) -> bool:
    return type(value) is not bool and isinstance(value, int | float) and 0 <= value < math.inf


def _saturation(level: Any) -> float | None:
    if level is not None and not _is_level(level):
        raise ConfigError(f"saturation: {level!r} is no pixel value; 0: the dtype's greatest")
    return level or None


def _axis(axis: ArrayLike) -> NDArray[np.float64]:
    try:
        given = np.asarray(axis, np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"axis: {error}; expected (columns,) of numbers") from error
    steps = np.diff(given) if given.ndim == 1 else np.zeros(1)
    if not (np.isfinite(given).all() and ((steps > 0).all() or (steps < 0).all())):
        raise ConfigError(
            f"axis: shape {given.shape}; expected (columns,) finite, rising or falling throughout"
        )
    kept = np.array(given)
    kept.flags.writeable = False
    return kept


def axis_of(
    coefficients: Sequence[float] | NDArray[np.float64], columns: int
) -> NDArray[np.float64]:
    """Return the energies of the columns, (columns,) eV, for a polynomial of the column number.

    Raises
    ------
    ConfigError
        If the coefficients are no numbers, or the energies are not finite, or neither rise nor fall
        throughout.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            powers = np.asarray(coefficients, np.float64)
            return _axis(np.polynomial.polynomial.polyval(np.arange(float(columns)), powers))
    except (ConfigError, TypeError, ValueError) as error:
        raise ConfigError(
            f"energy axis: coefficients {list(coefficients)!r:.{TEXT_MAX}}: expected finite "
            "energies that rise, or fall, throughout the picture"
        ) from error
