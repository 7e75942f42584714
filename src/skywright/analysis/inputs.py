"""Inputs of analyses: batches of members, and the shape and dtype that an array must have."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skywright.errors import DataError


@dataclass(frozen=True)
class Batch:
    """Members of a run: identities, times and data.

    Parameters
    ----------
    identities
        (n,) int64, the identity of each member. What `Analysis.update` gets has the places here,
        see `IdentityOrder`.
    times
        (n,) float64, Unix s, to about 0.2 us; NaN where unknown. An analysis that needs exact times
        names a column of int64 ns among its `inputs`, as `panoseti_ph256` does.
    data
        Arrays by name, (n, ...), with the dtype that they have in their file or events; read-only
        by convention.
    """

    identities: NDArray[np.int64]
    times: NDArray[np.float64]
    data: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in {"times": self.times, **self.data}.items():
            if len(values) != len(self.identities):
                raise DataError(
                    f"batch: {len(values)} values of {name} for {len(self.identities)} identities"
                )

    def __len__(self) -> int:
        return len(self.identities)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.data[name]

    @property
    def nbytes(self) -> int:
        """Bytes of all members' data."""
        return sum(values.nbytes for values in self.data.values())

    def take(self, index: Any) -> "Batch":
        """Return the members that `index` (slice, mask or positions) selects."""
        data = {name: values[index] for name, values in self.data.items()}
        return Batch(self.identities[index], self.times[index], data)


def join_by_identity(pieces: Iterable[Batch], keep: Literal["first", "last"] = "first") -> Batch:
    """Join batches into one, in order of identity, each identity once.

    Parameters
    ----------
    pieces
        At least one.
    keep
        Which row to keep if an identity occurs more than once: "first" or "last".
    """
    whole = concatenate(list(pieces))
    identities = whole.identities
    if (np.diff(identities) > 0).all():
        return whole
    if keep == "first":
        kept = np.unique(identities, return_index=True)[1]
    else:
        kept = len(identities) - 1 - np.unique(identities[::-1], return_index=True)[1]
    return whole.take(kept)


def concatenate(batches: list[Batch]) -> Batch:
    """Put batches with the same columns one after the other.

    An empty list gives an empty batch without columns.
    """
    if not batches:
        return Batch(np.empty(0, np.int64), np.empty(0))
    if len(batches) == 1:  # images are not copied
        return batches[0]
    data = {name: np.concatenate([b[name] for b in batches]) for name in batches[0].data}
    identities = np.concatenate([b.identities for b in batches])
    return Batch(identities, np.concatenate([b.times for b in batches]), data)


def dtype_name(data_key: Mapping[str, Any]) -> str:
    """Return numpy's name of the dtype of a data key; empty if the data key has none.

    A dtype that numpy does not know, or that is not written as text, is returned as text.
    """
    declared = data_key.get("dtype_numpy")
    if isinstance(declared, str):
        with suppress(TypeError, ValueError):
            return np.dtype(declared).name
    return str(declared or "")


@dataclass(frozen=True)
class ArrayInput:
    """Shape and dtype that the data key of an array input must have in its descriptor.

    Parameters
    ----------
    dimensions
        Least number of dimensions.
    dtypes
        numpy's names of the dtypes that fit; empty: all. A data key without a dtype fits.
    least_side
        Least length of the first two dimensions, px.
    """

    dimensions: int = 1
    dtypes: tuple[str, ...] = ()
    least_side: int = 0

    def describe(self) -> str:
        """Return what is required, for an error message."""
        words = [f"{self.dimensions} or more dimensions", " or ".join(self.dtypes)]
        if self.least_side:
            words.append(f"sides of at least {self.least_side} px")
        return ", ".join(filter(None, words))

    def fits(self, data_key: Mapping[str, Any]) -> bool:
        """Return whether a data key of a descriptor can be this input."""
        shape = tuple(data_key.get("shape") or ())
        dtype = dtype_name(data_key)
        return (
            len(shape) >= self.dimensions
            and all(side is None or side >= self.least_side for side in shape[:2])
            and (not self.dtypes or not dtype or dtype in self.dtypes)
        )
