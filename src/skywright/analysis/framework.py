"""The analysis framework: statistics of a run that do not depend on how its members arrive.

A member is a frame, pulse, shot or packet. Its identity is its frame number, pulse id or tag. Where
identities can restart, the callers of this module replace them by places (`IdentityOrder`).
Identities are divided into blocks of fixed size; a block may be divided further by the settings
numbers of its members. A block's statistic is computed from its members in order of identity, and
blocks are folded in block order. So any order, repetition and assignment of whole blocks to workers
gives the same bits. Members that come too late for their block, or out of order in an `ordered`
analysis, are refused and counted (`Analysis.refused`).

The states of a block:

======  ==================================  ================================  =================
state   begins with                         what is kept                      members that come
======  ==================================  ================================  =================
open    its first member                    rows of its members (`ordered`:   are added
                                            their statistic)
closed  `Analysis.close`, `merge`           its statistic and the identities  are refused
                                            of its members
folded  `Analysis.advance`                  nothing of its own: it is part    are refused
                                            of one statistic of all folded
                                            blocks
======  ==================================  ================================  =================

`Analysis.split` moves blocks, closed, into another partial result; this object forgets them.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from skywright.analysis.inputs import ArrayInput, Batch, join_by_identity
from skywright.errors import DataError
from skywright.files.columns import Column, ColumnCaster

BlockKey = tuple[int, int]
"""Number of a block (identity // block size), and its settings number; blocks are in the order of
their keys. Without `Analysis.block_setting` the settings number is 0."""

Statistic = TypeVar("Statistic")
"""Type of the statistic of one block, or of several blocks folded."""

RESTART_BLOCKS = 10
"""Identities of successive members that differ by more than this number of blocks are a restart of
the identities, or a wild one. Members that come out of order differ by less."""


@dataclass(frozen=True)
class _Block(Generic[Statistic]):
    """The identities of a block's members, and their statistic."""

    identities: NDArray[np.int64]
    statistic: Statistic

    def is_preferred_to(self, other: "_Block[Statistic]") -> bool:
        """Return whether this has more members than `other`, or as many and larger identities."""
        mine, others = len(self.identities), len(other.identities)
        return (mine, self.identities.tolist()) > (others, other.identities.tolist())


class Analysis(ABC, Generic[Statistic]):
    """An analysis and its partial result over the members that it has seen.

    A subclass names its `inputs`, `columns` and `results` and defines `measure`, `statistic` (or
    `extend`, if it is `ordered`), `fold` and `summarize`; all but `extend` must be pure functions.
    This class does the rest: `update`, `merge` and `result`; `advance` limits the memory use.
    A block with missing identities is computed from the members that exist.

    Parameters
    ----------
    **parameters
        The analysis's own parameters, JSON values, as they go into the derived run.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    inputs: ClassVar[Sequence[str]]
    """Data keys that each member must have; ``image`` stands for ``<device>_image``."""
    optional: ClassVar[Sequence[str]] = ()
    """Further data keys, given to `measure` if the stream has them."""
    arrays: ClassVar[Mapping[str, ArrayInput]] = {}
    """Shape and dtype that array inputs must have, by input. They exclude data keys that only end
    like the input, such as the count ``n_flat_image`` for ``image``."""
    stream: ClassVar[str] = "members"
    """Name of the derived run's stream with the columns, for example ``pulses``."""
    columns: ClassVar[Sequence[Column]] = ()
    """Columns of `measure`, one row per member; the last part of a path is the name."""
    results: ClassVar[Sequence[Column]] = ()
    """Results of `summarize`: scalars (text: dtype ``<U``) and arrays, with the attributes
    ``units`` and ``description``."""
    scalar_period_s: ClassVar[float] = 0.1
    """Least time between two events of a derived run with the scalar results, s. A new row of the
    array results comes with an event too."""
    array_period_s: ClassVar[float] = 1.0
    """Least time between two rows of the array results on disk, s: long for large arrays."""
    block_size: ClassVar[int] = 64
    """Identities in a block. An open block keeps the rows of its members."""
    block_setting: ClassVar[str] = ""
    """Name under which `measure` returns the settings number of each member, (n,) integers; empty:
    there is none. Members with different settings, such as regions of interest, have different
    numbers and are therefore in different blocks. If it is also an input, identities may restart
    where it increases (`IdentityOrder`)."""
    ordered: ClassVar[bool] = False
    """True: the members of a block come in order of identity, and `extend` adds them a batch at a
    time, so an open block stores only its statistic: for running images."""
    keep: ClassVar[Literal["first", "last"]] = "first"
    """Which row is used if an identity occurs twice in an open block; "first" if `ordered`."""
    pictures: ClassVar[int] = 0
    """Number of members of which `draw` makes pictures at the end of a run."""
    skips: ClassVar[bool] = True
    """True: a live analysis skips members when it is behind. False: it analyzes all members,
    however long that takes after the end of the run. The end of the session interrupts it."""
    identity: ClassVar[str] = "frame_number"
    """Data key of the identity, without its device prefix, which is that of the first input."""
    time: ClassVar[str] = "frame_time"
    """Data key of the time of each member, Unix s; its device prefix is that of the first input."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls.ordered and cls.keep == "last":
            raise TypeError(f'analysis {cls.__name__}: ordered = True requires keep = "first"')

    def __init__(self, **parameters: Any) -> None:
        self.parameters = parameters
        self.refused = 0
        """Number of times that a member was not used: it was marked late, its block was closed or
        folded before it came, it came out of order (`ordered`), or `merge` did not take its block.
        The result may still contain it, from another version of the block."""
        self._open: dict[BlockKey, list[Batch]] = {}
        self._growing: dict[BlockKey, _Block[Statistic]] = {}  # open, of an ordered analysis
        self._closed: dict[BlockKey, _Block[Statistic]] = {}
        self._computed: dict[BlockKey, _Block[Statistic]] = {}  # open blocks as they are now
        self._folded: Statistic | None = None
        self._folded_members = 0
        self._watermark: int | None = None  # number of the first block that is not folded

    @property
    def recorded_parameters(self) -> Mapping[str, Any]:
        """The parameters for documents: without logins, because many people can read documents."""
        return self.parameters

    # What a subclass defines --------------------------------------------------------------------

    def measure(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Measure each member by itself: (n, ...) rows, by name; nothing by default.

        The rows of a member must be the same bits whatever other members are in the batch. The
        rows include all `columns`, and other values that `statistic` needs.
        """
        return {}

    def statistic(self, members: Batch) -> Statistic:
        """Compute a block's statistic from the rows of its members, in order of identity."""
        raise NotImplementedError(f"{type(self).__name__}.statistic")

    def extend(self, statistic: Statistic | None, members: Batch) -> Statistic:
        """Add members to a block's statistic (None: the block's first), in order of identity.

        Only an `ordered` analysis defines it. `members` has their inputs and their rows of
        `measure`. The result must not depend on how the members are cut into batches. `extend` may
        change `statistic` in place.
        """
        raise NotImplementedError(f"{type(self).__name__}.extend")

    def compact(self, statistic: Statistic) -> Statistic:
        """Reduce the statistic of a block in `split`, before the caller sends it away."""
        return statistic

    @abstractmethod
    def fold(self, prefix: Statistic | None, statistic: Statistic) -> Statistic:
        """Add the next block to the folded blocks before it (None: none); change no argument."""

    @abstractmethod
    def summarize(self, state: Statistic | None) -> Mapping[str, Any]:
        """Turn the folded blocks (None: there are none) into the declared `results`."""

    def warm_up(self) -> None:
        """Compile and load what `measure` needs, so that the first frame does not wait."""

    def draw(self, batch: Batch) -> Mapping[str, bytes]:
        """Draw the members of `batch` for people; return the contents of files by file name."""
        return {}

    # Members and results ------------------------------------------------------------------------

    def update(
        self, batch: Batch, late: NDArray[np.bool_] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Add members to the open blocks.

        Parameters
        ----------
        batch
            Members with the declared inputs, in any order; those of an `ordered` analysis in order
            of identity, within each block.
        late
            (n,) bool, True for members that came too late (`find_late`): their columns are
            returned, but they are not in the result.

        Returns
        -------
        dict
            The rows of the declared columns, (n, *shape) each, in the batch's order.

        Raises
        ------
        DataError
            If `measure` gives no settings numbers or lacks a declared column, or if one has the
            wrong shape or a value that does not fit.
        """
        rows = self.measure(batch)
        columns = {c.name: _checked_rows(self, c, rows, len(batch)) for c in self.columns}
        inputs = batch.data if self.ordered else {}
        measured = Batch(batch.identities, batch.times, {**inputs, **rows, **columns})
        if late is not None and late.any():
            self.refused += int(late.sum())
            measured = measured.take(~late)
        for key, piece in self._cut(measured):
            if key in self._closed or self._is_folded(key):
                self.refused += len(piece)
            elif self.ordered:
                self._grow(key, piece)
            else:
                self._open.setdefault(key, []).append(piece)
                self._computed.pop(key, None)
        return columns

    def merge(self, other: Self) -> Self:
        """Add the blocks of another partial result, which is not changed; return self.

        This closes all open blocks of this object. Of a block that both have, the version with more
        members is used; if the versions differ, the members of the unused one count as refused, and
        so do members of blocks that are folded here. If `advance` was called on both objects, the
        folded members of `other` are refused. If it was called on `other` only, its folded blocks
        are used, and the members that this object has in their range are refused.
        """
        self.refused += other.refused
        if other._watermark is not None:
            if self._watermark is not None:
                self.refused += other._folded_members
            else:
                self._adopt_folded(other)
        self.close()
        for key, block in other._blocks().items():
            if key in other._growing:  # it changes in place when members follow
                block = copy.deepcopy(block)
            if self._is_folded(key):
                self.refused += len(block.identities)
                continue
            mine = self._closed.get(key)
            if mine is None:
                self._closed[key] = block
            elif not np.array_equal(mine.identities, block.identities):
                winner, loser = (block, mine) if block.is_preferred_to(mine) else (mine, block)
                self._closed[key] = winner
                self.refused += len(loser.identities)
        return self

    def result(self) -> dict[str, Any]:
        """Return the declared results over the members so far, as numpy scalars and arrays.

        Raises
        ------
        DataError
            If `summarize` gives other results than declared, or a value that does not fit.
        """
        state = self._folded
        for _, block in sorted(self._blocks().items()):
            state = self.fold(state, block.statistic)
        found = self.summarize(state)
        if found.keys() != {c.name for c in self.results}:
            raise DataError(
                f"analysis {self.name}: summarize gave {sorted(found)}, "
                f"declared are {sorted(c.name for c in self.results)}"
            )
        return {c.name: _checked_value(self, c, found[c.name]) for c in self.results}

    def snapshot(self) -> Self:
        """Return a copy that later merges and folds do not change; the statistics are shared.

        Use it for an analysis that is only merged: `update` may change open blocks in place.
        """
        copied = copy.copy(self)
        copied._closed = dict(self._closed)  # noqa: SLF001  (its own class)
        return copied

    # Bookkeeping --------------------------------------------------------------------------------

    def settings_numbers(
        self, data: Mapping[str, NDArray[Any] | None]
    ) -> NDArray[np.integer[Any]] | None:
        """Return the settings number of each member, (n,) integers.

        Return None if `data` has none, or not one integer for each member.
        """
        numbers = data.get(self.block_setting)
        is_known = numbers is not None and numbers.ndim == 1 and numbers.dtype.kind in "iu"
        return numbers if is_known else None

    @property
    def members(self) -> int:
        """Number of members that `result` is computed from."""
        blocks = self._blocks().values()
        return self._folded_members + sum(len(block.identities) for block in blocks)

    def fresh(self) -> Self:
        """Return the same analysis, with no members."""
        return type(self)(**self.parameters)

    def advance(self, identity: int) -> None:
        """Fold the blocks before that of `identity`; call it when all their members have arrived.

        Members of these blocks that still come are refused.
        """
        watermark = identity // self.block_size
        if self._watermark is not None and watermark <= self._watermark:
            return
        self._watermark = watermark
        for key in sorted(key for key in self._keys() if self._is_folded(key)):
            block = self._take(key)
            self._folded = self.fold(self._folded, block.statistic)
            self._folded_members += len(block.identities)

    def close(self) -> Self:
        """Close every block; return self."""
        self._closed = self._blocks()
        self._open = {}
        self._growing = {}
        self._computed = {}
        return self

    def split(self, identity: int) -> Self:
        """Remove the blocks before that of `identity`; return them, closed, as a partial result.

        A worker sends it to the process that merges. Call it when all members of these blocks have
        arrived: a later member would start a second version of its block.
        """
        part = self.fresh()
        below = [key for key in self._keys() if key[0] < identity // self.block_size]
        blocks = {key: self._take(key) for key in sorted(below)}
        part._closed = {  # noqa: SLF001
            key: _Block(block.identities, self.compact(block.statistic))
            for key, block in blocks.items()
        }
        return part

    def _cut(self, members: Batch) -> Iterator[tuple[BlockKey, Batch]]:
        """Yield the members of each block, in block order."""
        blocks = members.identities // self.block_size
        settings = self._measured_settings(members)
        for block, setting in np.unique(np.stack([blocks, settings], axis=1), axis=0).tolist():
            of_block = (blocks == block) & (settings == setting)
            yield (block, setting), members if of_block.all() else members.take(of_block)

    def _measured_settings(self, members: Batch) -> NDArray[np.int64]:
        """Return the settings number of each member, (n,); zeros without `block_setting`."""
        if not self.block_setting:
            return np.zeros(len(members), np.int64)
        numbers = self.settings_numbers(members.data)
        if numbers is None:
            values = members.data.get(self.block_setting)
            got = "nothing" if values is None else f"{values.dtype} of shape {values.shape}"
            raise DataError(
                f"analysis {self.name}: settings number {self.block_setting}: measure gave "
                f"{got}, expected one integer per member"
            )
        return numbers.astype(np.int64)

    def _grow(self, key: BlockKey, piece: Batch) -> None:
        """Add members to an open block of an ordered analysis; refuse what is out of order."""
        known = self._growing.get(key)
        last = known.identities[-1] if known else np.iinfo(np.int64).min
        highest_before = np.maximum.accumulate(np.concatenate(([last], piece.identities)))[:-1]
        fits = piece.identities > highest_before
        self.refused += int((~fits).sum())
        if not fits.any():
            return
        piece = piece if fits.all() else piece.take(fits)
        if known is None:
            self._growing[key] = _Block(piece.identities, self.extend(None, piece))
        else:
            identities = np.concatenate((known.identities, piece.identities))
            self._growing[key] = _Block(identities, self.extend(known.statistic, piece))

    def _keys(self) -> set[BlockKey]:
        return self._open.keys() | self._growing.keys() | self._closed.keys()

    def _is_folded(self, key: BlockKey) -> bool:
        return self._watermark is not None and key[0] < self._watermark

    def _block(self, key: BlockKey) -> _Block[Statistic]:
        """Return a block as it is now; an open one may change later."""
        if key in self._closed:
            return self._closed[key]
        if key in self._growing:
            return self._growing[key]
        if key not in self._computed:
            members = join_by_identity(self._open[key], self.keep)
            self._open[key] = [members]  # repeats are not kept
            self._computed[key] = _Block(members.identities, self.statistic(members))
        return self._computed[key]

    def _blocks(self) -> dict[BlockKey, _Block[Statistic]]:
        return {key: self._block(key) for key in self._keys()}

    def _take(self, key: BlockKey) -> _Block[Statistic]:
        """Return a block and forget it."""
        block = self._block(key)
        for blocks in (self._open, self._growing, self._closed, self._computed):
            blocks.pop(key, None)
        return block

    def _adopt_folded(self, other: Self) -> None:
        self._folded, self._watermark = other._folded, other._watermark
        self._folded_members = other._folded_members
        for key in [key for key in self._keys() if self._is_folded(key)]:
            self.refused += len(self._take(key).identities)


def find_late(
    identities: NDArray[np.int64], block_size: int, highest: int | None = None
) -> tuple[NDArray[np.bool_], int]:
    """Mark the members whose block is two or more below the highest block so far.

    It depends on the sequence alone, not on how it is cut into batches, so that live and stored
    frames count alike.

    Parameters
    ----------
    identities
        (n,) int64, n > 0, in the order of the file.
    block_size
        Block size of the analysis.
    highest
        Highest identity before these; None at the start.

    Returns
    -------
    late : (n,) bool
        True for these members.
    highest : int
        Highest identity now.
    """
    reached = np.maximum.accumulate(identities)
    if highest is not None:
        reached = np.maximum(reached, highest)
    return identities // block_size < reached // block_size - 1, int(reached[-1])


@dataclass
class IdentityOrder:
    """Gives the members of a stream a place in one order, also if their identities restart.

    Identities may restart with new settings: at an accelerator a new run can restart its tags. A
    difference of more than `RESTART_BLOCKS` between successive identities is also taken for a
    restart: the sender has restarted, or one identity is wild. The place of a member is its
    identity plus a shift, a multiple of the block size. The shift changes at a restart so that the
    next members come just behind all earlier ones and are not late. It does not change if they
    restart in the highest block or the one below it: then only the settings number separates them.

    Parameters
    ----------
    block_size
        Block size of the analysis.

    Attributes
    ----------
    highest
        Highest place so far; None at the start.
    setting
        Highest settings number so far; None at the start.
    shift
        Place minus identity of the present members.
    block
        Identity // block size of the last member; None at the start.
    """

    block_size: int
    highest: int | None = field(default=None, init=False)
    setting: int | None = field(default=None, init=False)
    shift: int = field(default=0, init=False)
    block: int | None = field(default=None, init=False)

    def place(
        self, identities: NDArray[np.int64], settings: NDArray[np.integer[Any]] | None
    ) -> NDArray[np.int64]:
        """Return the places of the next members.

        Parameters
        ----------
        identities
            (n,) in the order of the file.
        settings
            (n,) settings numbers of the members; None: there are none.
        """
        places = np.empty_like(identities)
        blocks = identities // self.block_size
        cuts = sorted({*self._rises(settings), *self._jumps(blocks)})
        for number, (start, stop) in enumerate(pairwise([0, *cuts, len(identities)])):
            if start == stop:
                continue
            if number and self.highest is not None:
                block = int(blocks[start]) + self.shift // self.block_size
                last = self.highest // self.block_size
                if not last - 1 <= block <= last + RESTART_BLOCKS:
                    # Leave one block free: this member need not have the lowest identity
                    self.shift += (last + 2 - block) * self.block_size
            first = int(identities[start])  # the shift alone may exceed int64
            places[start:stop] = (identities[start:stop] - first) + (first + self.shift)
            self.note_places(places[start:stop])
        return places

    def note_places(self, places: NDArray[np.int64]) -> None:
        """Note members whose places are known already, (n,) int64: only `highest` may change."""
        if len(places):
            highest = int(places.max())
            self.highest = highest if self.highest is None else max(highest, self.highest)

    def _jumps(self, blocks: NDArray[np.int64]) -> list[int]:
        """Return the positions where the block is far from that of the member before."""
        if not len(blocks):
            return []
        before = np.concatenate(([blocks[0] if self.block is None else self.block], blocks[:-1]))
        self.block = int(blocks[-1])
        return np.flatnonzero(np.abs(blocks - before) > RESTART_BLOCKS).tolist()

    def _rises(self, settings: NDArray[np.integer[Any]] | None) -> list[int]:
        """Return the positions where the settings number exceeds all earlier ones."""
        if settings is None or not len(settings):
            return []
        reached = np.maximum.accumulate(settings.astype(np.int64))
        before = np.iinfo(np.int64).min if self.setting is None else self.setting
        self.setting = max(int(reached[-1]), before)
        reached_before = np.concatenate(([before], np.maximum(reached[:-1], before)))
        return np.flatnonzero(reached > reached_before).tolist()


def whole_blocks(identities: NDArray[np.int64], block_size: int) -> list[tuple[int, int]]:
    """Cut a sequence into the shortest slices that hold whole blocks.

    Parameters
    ----------
    identities
        (n,) int64, in the order of the file.
    block_size
        Block size of the analysis.

    Returns
    -------
    list of (start, stop)
        No block has members in two slices.
    """
    blocks = identities // block_size
    if not len(blocks):
        return []
    highest_before = np.maximum.accumulate(blocks)[:-1]
    lowest_after = np.minimum.accumulate(blocks[::-1])[::-1][1:]
    cuts = np.flatnonzero(highest_before < lowest_after) + 1
    edges = [0, *cuts.tolist(), len(blocks)]
    return list(pairwise(edges))


def _checked_rows(
    analysis: Analysis[Any], column: Column, rows: Mapping[str, NDArray[Any]], count: int
) -> NDArray[Any]:
    name, shape = column.name, (count, *column.shape)
    if name not in rows or np.shape(rows[name]) != shape:
        got = f"shape {np.shape(rows[name])}" if name in rows else "nothing"
        raise DataError(
            f"analysis {analysis.name}: column {name}: measure gave {got}, expected {shape}"
        )
    return _cast(analysis, column, np.asarray(rows[name]))


def _checked_value(analysis: Analysis[Any], column: Column, value: Any) -> Any:
    shape = np.shape(value)
    if shape != column.shape:
        raise DataError(
            f"analysis {analysis.name}: result {column.name} has shape {shape}, "
            f"declared is {column.shape}"
        )
    return _cast(analysis, column, np.asarray(value)[np.newaxis])[0]


def _cast(analysis: Analysis[Any], column: Column, values: NDArray[Any]) -> NDArray[Any]:
    """Return values, (n, ...), as the column's type; `DoesNotFitError` if one does not fit it."""
    caster = ColumnCaster(f"analysis {analysis.name}")
    cast = caster.cast(column, values)
    caster.check(len(values))
    return cast
