"""The type of a column of a stream: learned from its values, wide enough for each of them.

tiled fixes a column's type with its first rows, and what does not fit later becomes text, an
HTTP 500 or another number. So a column is widened here, before it is written, and never narrowed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

INT64 = range(-(2**63), 2**63)
EXACT_IN_FLOAT = 2**53
NUMBER_LENGTH = 26
"""Length of a text column that holds any float64 or 64-bit integer as text (at most 24)."""
_MISSING = {"f": np.nan, "c": np.nan, "M": "NaT", "m": "NaT", "U": "", "S": ""}
"""Missing value, by kind of an array's elements. Integers and booleans have none: where a value is
missing, `widen` makes floats of them, or text if a float cannot hold an integer."""
_SCALARS = ("boolean", "integer", "number", "string")
"""Dtypes of scalars in event-model; each can hold the values of those before it, except integers
beyond `EXACT_IN_FLOAT`, which a number cannot hold."""


@dataclass(frozen=True)
class ColumnType:
    """What a column holds: `kind` is one of event-model's dtypes."""

    kind: str
    dtype: str = ""
    """Element type of an array, as in numpy's ``dtype.str``."""
    shape: tuple[int, ...] = ()
    """Largest shape seen of an array; smaller ones are padded with missing values."""
    large: bool = False
    """Whether there are integers that a float cannot hold."""
    has_scalars: bool = field(default=False, compare=False, repr=False)
    """Of a column of scalars: whether a value, or a missing one, was seen. If not, the type is that
    of the descriptor alone."""
    longest: int = field(default=0, compare=False, repr=False)
    """Length of the longest text seen; columns that differ in it alone are stored alike."""


def declared(data_key: Mapping[str, Any]) -> ColumnType | None:
    """Return the type that a descriptor promises, None if only values can tell.

    Examples
    --------
    >>> declared({"dtype": "number", "shape": [], "source": "x"})
    ColumnType(kind='number', dtype='', shape=(), large=False)
    """
    kind = data_key.get("dtype")
    return ColumnType(kind) if kind in _SCALARS else None


def declared_dtype(data_key: Mapping[str, Any]) -> str:
    """Return the promised element type of an array, empty when none is."""
    promised = data_key.get("dtype_numpy") or data_key.get("dtype_str") or ""
    try:
        return np.dtype(promised).str if isinstance(promised, str) and promised else ""
    except TypeError:
        return ""


def widen(column: ColumnType | None, value: Any, promised: str = "") -> ColumnType:
    """Return the narrowest type that holds `value` and all that `column` does.

    Parameters
    ----------
    column
        What is known so far; None before the first value.
    value
        A value as JSON gives it.
    promised
        Element type declared for an array, used if `column` has no value yet, as far as `value`
        fits into it.
    """
    if column is None and value is None:
        value = []  # no scalar is declared: taken for an array
    if isinstance(value, list | dict):
        return _widen_array(column, value, promised)
    if column is not None and column.kind == "array":
        return _widen_array(column, [] if value is None else value, promised)
    column = _widen_scalar(column or ColumnType(_kind(value)), value)
    return column if column.has_scalars else replace(column, has_scalars=True)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    return "number" if isinstance(value, float) else "string"


def _widen_scalar(column: ColumnType, value: Any) -> ColumnType:
    if value.__class__ is float and column.kind == "number":
        return column
    if column.kind == "string":
        text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
        length = max(len(text), 1)
        return replace(column, longest=length) if length > column.longest else column
    if value is None:
        kind = "number"
    else:
        kind = _kind(value)
        if kind == "integer" and abs(value) > EXACT_IN_FLOAT:
            column = replace(column, large=True)
            kind = "integer" if value in INT64 else "string"
    kind = max(column.kind, kind, key=_SCALARS.index)
    if kind == "number" and column.large:
        kind = "string"  # a float would change the integers
    if kind == column.kind:
        return column
    if kind == "string":
        return _widen_scalar(replace(column, kind=kind, longest=NUMBER_LENGTH), value)
    return replace(column, kind=kind)


def _widen_array(column: ColumnType | None, value: Any, promised: str) -> ColumnType:
    """Return the type of arrays that hold `value` and all that `column` does."""
    if column is not None and column.kind == "array":
        dtype, shape, has_values = column.dtype, column.shape, True
        array = rectangular(value, dtype)
    else:  # until now there were scalars, whose shape is (), or no values
        has_values = column is not None and column.has_scalars
        array = rectangular(value, "" if has_values else promised)
        dtype, shape = _required_dtype(column, array, promised), ()
    ndim = max(len(shape), array.ndim)
    before, now = _with_axes(shape, ndim), _with_axes(array.shape, ndim)
    largest = tuple(map(max, before, now)) if has_values else now
    has_gaps = 0 in largest or (has_values and before != now)
    dtype = _fit_dtype(dtype, array, has_gaps)
    large = column is not None and column.large
    large |= array.dtype.kind in "iu" and not fits(array, np.dtype("<f8"))
    if large and np.dtype(dtype).kind == "f":  # a float would change the integers
        dtype = _as_text(np.dtype(dtype)).str
    return ColumnType("array", dtype, largest, large)


def _with_axes(shape: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """Return a shape with `ndim` axes; those in front have the length 1."""
    return (1,) * (ndim - len(shape)) + shape


def _required_dtype(column: ColumnType | None, array: np.ndarray, promised: str) -> str:
    """Return the element type that the scalars before the first array, or `promised`, require.

    It is empty if only `array`, the first one, decides.
    """
    # Zarr has no objects, structures, long doubles and datetimes without unit.
    if promised[1:2] in ("O", "V") or promised[1:] in ("f16", "c32", "M8", "m8"):
        promised = ""
    if column is None or (promised and not column.has_scalars):
        return promised
    if column.longest:
        return f"<U{column.longest}"
    if column.kind == "boolean":
        return "<U5" if array.dtype.kind == "U" else ""
    return {"integer": "<i8", "number": "<f8"}.get(column.kind, "")


def _fit_dtype(dtype: str, array: np.ndarray, has_gaps: bool) -> str:
    """Return the element type that holds all that `dtype` does, `array`, and NaN if `has_gaps`."""
    if not array.size:
        found = dtype or "<f8"
    elif not dtype:
        found = array.dtype.str
    elif fits(array, np.dtype(dtype)):
        found = dtype
    elif not {"U", "M", "m"}.isdisjoint((np.dtype(dtype).kind, array.dtype.kind)):
        found = np.promote_types(_as_text(np.dtype(dtype)), _as_text(array.dtype)).str
    else:
        found = np.promote_types(dtype, array.dtype).str
    if has_gaps and np.dtype(found).kind in "biu":
        found = "<f8"
    return found


def _as_text(dtype: np.dtype) -> np.dtype:
    return dtype if dtype.kind == "U" else np.dtype(f"<U{NUMBER_LENGTH}")


def fits(array: np.ndarray, dtype: np.dtype) -> bool:
    """Return whether each value of `array` is itself after a cast to `dtype`."""
    if dtype.kind == "U" or array.dtype.kind == "U":
        return dtype.kind == array.dtype.kind and array.dtype.itemsize <= dtype.itemsize
    if array.dtype == dtype or not array.size:
        return True
    if dtype.kind in "iu" and array.dtype.kind in "iu":  # -1 as unsigned and back is -1 again
        limits = np.iinfo(dtype)
        return bool(limits.min <= int(array.min()) and int(array.max()) <= limits.max)
    with np.errstate(all="ignore"):
        cast = array.astype(dtype)
        back = cast.astype(array.dtype)
    if dtype.kind in "mM" and array.dtype.kind == "f":
        back[np.isnat(cast)] = np.nan
    return bool(np.array_equal(back, array, equal_nan=array.dtype.kind == "f"))


def rectangular(value: Any, dtype: str = "") -> np.ndarray:
    """Return nested lists as an array; gaps of ragged ones, and None, are NaN or empty text.

    If an integer cannot be held by a float, and the elements have no common type of integers, all
    elements are text. If `dtype` is one of dates or durations, integers stay integers, and gaps are
    the smallest int64, which is NaT.

    Examples
    --------
    >>> rectangular([[1, 2], [3]])
    array([[ 1.,  2.],
           [ 3., nan]])
    """
    if isinstance(value, dict):
        value = json.dumps(value)
    if (array := _as_numpy_array(value)) is not None:
        return array
    leaves: dict[tuple[int, ...], Any] = {}
    _collect(value, (), leaves)
    depth = max((len(at) for at in leaves), default=1)
    leaves = {at + (0,) * (depth - len(at)): leaf for at, leaf in leaves.items()}
    shape = tuple(max((at[axis] + 1 for at in leaves), default=0) for axis in range(depth))
    known = {at: leaf for at, leaf in leaves.items() if leaf is not None}
    if dtype[1:2] in ("M", "m") and all(
        type(leaf) is int and leaf in INT64 for leaf in known.values()
    ):
        array = np.full(shape, INT64[0])  # NaT
    elif any(_needs_text(leaf) for leaf in known.values()):
        known = {at: str(leaf) for at, leaf in known.items()}
        longest = max(map(len, known.values()))
        array = np.full(shape, "", dtype=f"<U{max(longest, 1)}")
    else:
        array = np.full(shape, np.nan)
    for at, leaf in known.items():
        array[at] = leaf
    return array


def _as_numpy_array(value: Any) -> np.ndarray | None:
    """Return numpy's array of a value; None if numpy makes none, or changes large integers."""
    try:
        array = np.array(value)
    except ValueError:  # ragged
        return None
    is_exact = array.dtype.kind != "f" or not (np.abs(array) >= EXACT_IN_FLOAT).any()
    return array if array.dtype.kind in "biufU" and is_exact else None


def _needs_text(leaf: Any) -> bool:
    """Return whether a float array cannot hold an element."""
    return isinstance(leaf, str) or (isinstance(leaf, int) and abs(leaf) > EXACT_IN_FLOAT)


def _collect(value: Any, at: tuple[int, ...], leaves: dict[tuple[int, ...], Any]) -> None:
    """Add each element of nested lists to `leaves`, by its indices."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            _collect(item, (*at, index), leaves)
    else:
        leaves[at] = json.dumps(value) if isinstance(value, dict) else value


def convert(column: ColumnType, value: Any) -> Any:
    """Return `value` as `column` stores it; a missing one is NaN, NaT or empty text.

    Parameters
    ----------
    column
        A type that `widen` has made wide enough for `value`.
    value
        A value as JSON gives it; None for a missing one.

    Returns
    -------
    float, int, bool, str or ndarray
        An array has the shape of the column, without zero-length axes (an array that is always
        empty is one missing value: Zarr has no chunk of length zero).
    """
    if column.kind == "array":
        return _padded(column, [] if value is None else value)
    if column.kind == "string":
        if value is None:
            return ""
        return value if isinstance(value, str) else json.dumps(value)
    if column.kind == "number":
        return float("nan") if value is None else float(value)
    return value if column.kind == "boolean" else int(value)


def _padded(column: ColumnType, value: Any) -> np.ndarray:
    array = rectangular(value, column.dtype)
    dtype = np.dtype(column.dtype)
    if dtype.kind == "U" and array.dtype.kind != "U":
        missing = array != array  # NaN alone is unequal to itself
        array = array.astype(f"<U{NUMBER_LENGTH}") if array.size else array.astype("<U1")
        array[missing] = ""
    shape = tuple(max(length, 1) for length in column.shape)
    if array.shape == shape:
        return array.astype(dtype)
    filled = np.full(shape, _MISSING.get(dtype.kind, 0), dtype)
    if array.size:
        array = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
        filled[tuple(slice(n) for n in array.shape)] = array
    return filled
