"""From records to results: join by tag, verdict, images by workers, curves over what they find.

Stored and running shots go through the same pipeline.
"""

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Batch
from skywright.analysis.cluster import Submit
from skywright.analysis.inputs import concatenate
from skywright.errors import ConfigError
from skywright.instruments.sacla.analyzed_shot import PROFILE, AnalyzedShot, RegionSet
from skywright.instruments.sacla.frames import CHUNK_SHOTS, Frames
from skywright.instruments.sacla.image_series import Block, ImageSeries
from skywright.instruments.sacla.join import JoinedShot, Record, Refusal, TagJoin
from skywright.instruments.sacla.pixels import HISTOGRAM_BINS
from skywright.instruments.sacla.recording import Recording
from skywright.instruments.sacla.regions import Region
from skywright.instruments.sacla.run_info import RunInfo
from skywright.instruments.sacla.shot_curves import DEFAULT_HITS, Hits, ShotCurves
from skywright.instruments.sacla.shot_images import BLOCK_TAGS, ShotImages
from skywright.instruments.sacla.shots import EQUIPMENT, Verdict
from skywright.instruments.sacla.workers import MISSING, Answer, Chunk, make_workers

logger = logging.getLogger(__name__)

ROW_KEYS = ("sum_ev", "photons", "photon_hist")
"""Columns of a region, found in the image."""


@dataclass
class _Pending:
    """Shots of one block whose images are to be analyzed, and not yet handed to a worker."""

    regions: RegionSet
    block: Block | None = None
    shots: list[AnalyzedShot] = field(default_factory=list)
    places: dict[str, list[int]] = field(default_factory=dict)


class ShotPipeline:
    """Analyzes the shots of a run, and of later runs that are measured in the same way.

    Parameters
    ----------
    info
        The first run.
    regions
        Regions of interest, with unique names.
    edges
        (bins + 1,) ps.
    window
        Tags that the join waits for late records.
    frames
        Where the workers find frames.
    workers
        Number of workers that analyze images (`make_workers`).
    keep_rows
        Keep the values of each shot, for the report; else only statistics, in flat memory.
    block_tags
        Tags in a block. Images are complete up to the last whole block, so a short block shows them
        sooner, and costs more. None: at least the window.
    on_shot
        Called with each shot, accepted or not, in order of their tags, once its images are
        analyzed. Shots without any record are left out.
    submit
        Gives whole blocks to a cluster whose machines see the frames; there are no other workers.
    profiles
        Find the radial profile of each shot, the rows ``profile/DETECTOR``, (n, rings) eV.
    binned_by
        What `edges` are of, one of `BINNED_BY` or a key of ``info.more_values``.
    hits
        What a hit in a region is.
    partial
        Analyze the frames of a shot also if the frame of another detector is missing
        (`AnalyzedShot.is_partial`). They count in the images of their detectors and in the curves
        of their regions. The verdict of the shot is ``no_frame`` all the same.

    Raises
    ------
    ConfigError
        If a region names an unknown detector or has a mask of another shape, or a name is used
        twice.
    """

    def __init__(
        self,
        info: RunInfo,
        regions: Sequence[Region],
        edges: NDArray[np.float64],
        window: int,
        frames: Frames,
        workers: int = 1,
        keep_rows: bool = True,
        block_tags: int | None = None,
        on_shot: Callable[[AnalyzedShot], None] | None = None,
        submit: Submit | None = None,
        profiles: bool = False,
        binned_by: str = "delay",
        hits: Hits = DEFAULT_HITS,
        partial: bool = False,
    ) -> None:
        self.binned_by = binned_by
        self.regions = check_regions(regions, info)
        for region in self.regions:
            try:
                check_have_pixels([region], info)
            except ConfigError as error:  # the report of a region without pixels has zeros
                logger.error("%s; its sums are 0", error)
        self.region_set = RegionSet(0, self.regions)
        self.info, self.edges = info, edges
        self.join: TagJoin[Any] = TagJoin(info.channels, info.run, window, info.grid)
        self.verdicts: Counter[Verdict] = Counter()
        self._earlier: Counter[str] = Counter()
        """Records and shots of the runs before, by reason."""
        self.frames = 0
        self.lost: Counter[str] = Counter()
        self.rows: list[Batch] = []
        block_tags = block_tags or BLOCK_TAGS * max(1, math.ceil(window / BLOCK_TAGS))
        self.recording: Recording | None = None
        """What is recorded now; each shot says to which recording it belongs."""
        images = {
            name: ShotImages(
                tile,
                info.rules_of(name),
                [region for region in self.regions if region.detector == name],
                block_tags,
                profiles,
            )
            for name, tile in info.tiles.items()
        }
        self.hits, self.block_tags = hits, block_tags
        self.curves = self._new_curves()
        self._frames = frames
        self._workers = make_workers(workers, images, frames, submit)
        self._series = ImageSeries(0, 0, {name: each.fresh() for name, each in images.items()})
        self._ending: dict[int, ImageSeries] = {}
        """Series of which no more shots come, and some partial results still do."""
        self.recorded: ImageSeries | None = None
        """The images of the recording, or of the last one."""
        self._keep_rows, self._partial = keep_rows, partial
        self._on_shot = on_shot
        self._leaving: deque[AnalyzedShot] = deque()
        """Shots that `on_shot` has not got yet, in order."""
        self._pending = _Pending(self.region_set)
        self._chunks = 0
        self._in_progress: dict[int, _Pending] = {}
        self._answers: deque[Answer] = deque()
        """Answers of workers that are not processed yet. If one raises, the others stay here."""

    @property
    def images(self) -> dict[str, ShotImages]:
        """The running images by detector, all of the same shots: up to the last whole block."""
        self._series.merge()
        return self._series.images

    def images_of(self, detector: str) -> ShotImages | None:
        """Return the running images of a detector; other detectors may lack one of its blocks.

        None: the run does not have it.
        """
        return self._series.images.get(detector)

    @property
    def rings(self) -> dict[str, int]:
        """Rings of the profile of each shot by detector; empty where it is not computed.

        Unlike `images` it merges nothing, so that any thread may ask without the lock.
        """
        images = self._series.images.items()
        return {name: each.rings.length for name, each in images if each.rings is not None}

    def change_regions(self, regions: Sequence[Region]) -> RegionSet:
        """Sum over other regions from the next shot on; curves begin anew, running images go on.

        Returns
        -------
        RegionSet
            With its number, one above the one before.

        Raises
        ------
        ConfigError
            As for the regions at the start, and if no pixel of its detector is inside a new region:
            its sums would be 0 for ever. On an error the regions do not change. A region may name a
            detector of a present region even if the run lacks that detector.
        """
        checked = check_regions(regions, self.info, {each.detector for each in self.regions})
        check_have_pixels([each for each in checked if each not in self.regions], self.info)
        self._hand_over()
        self.regions = checked
        self.region_set = RegionSet(self.region_set.number + 1, checked)
        self._pending.regions = self.region_set
        self.curves = self._new_curves()
        return self.region_set

    def change_bins(self, edges: NDArray[np.float64], binned_by: str) -> None:
        """Bin otherwise from the next shot on; the curves begin anew."""
        self._hand_over()
        self.edges, self.binned_by = edges, binned_by
        self.change_regions(self.regions)

    def reset_images(self) -> None:
        """Begin the running images anew with the next shot; waits for no worker.

        The images of a recording that has all its shots stay as they are.
        """
        is_full = self.recording is not None and self.recording.is_full
        self._begin_series(0 if is_full else self._series.recording)

    def start_recording(self, number: int, count: int = 0) -> Recording:
        """Record the shots from the next one on; their images are a series of their own.

        Parameters
        ----------
        number
            Of the recording, another one than before.
        count
            Number of shots, accepted or not; 0: until `end_recording`.
        """
        first = 0 if self.join.highest is None else self.info.identity(self.join.highest) + 1
        self.recording = Recording(number, first, self.info.run, count)
        self.recorded = None
        return self.recording

    def end_recording(self) -> None:
        """End it with the newest shot; waits for no worker (`is_recorded`)."""
        self.recording = None
        if self._series.recording:
            self._begin_series(0)

    def is_recorded(self, number: int) -> bool:
        """Return whether all shots of an ended recording are delivered, and in its images."""
        is_delivered = all(shot.recording != number for shot in self._leaving)
        return is_delivered and (self.recorded is None or self.recorded.is_complete)

    def begin(self, info: RunInfo) -> None:
        """Begin a run at its first record; the counts of the runs before go on.

        Parameters
        ----------
        info
            The run; it is measured as the one before (`RunInfo.is_measured_as`).
        """
        if self.join.records:
            self._earlier = Counter(self.counts_of_runs)
            self.verdicts.clear()
        # First the join: who reads the info first gets no tag of the run before with it
        self.join = TagJoin(info.channels, info.run, self.join.window, info.grid)
        self.info = info

    def follow(self, before: "ShotPipeline") -> list[str]:
        """Go on with the counts and the regions of a pipeline that has finished.

        Parameters
        ----------
        before
            Of a run that is measured otherwise. Regions of detectors that this run lacks stay,
            without values.

        Returns
        -------
        list of str
            Names of the regions that are removed: their masks do not fit their detectors.
        """
        shapes = self.info.shapes
        self.regions = tuple(
            each for each in before.regions if each.fits(shapes.get(each.detector))
        )
        self.curves = self._new_curves()
        self._earlier = Counter(before.counts_of_runs)
        self.recording, self.recorded = before.recording, before.recorded
        before._series.is_closed = True  # noqa: SLF001  (its own class)
        self.lost = before.lost.copy()
        self.region_set = RegionSet(before.region_set.number + 1, self.regions)
        self._pending.regions = self.region_set
        return [each.name for each in before.regions if each not in self.regions]

    def wait_for_workers(self) -> None:
        """Wait until the workers take tasks, so that running shots do not have to wait for them."""
        self._workers.wait_until_ready()

    def add(self, record: Record[Any]) -> None:
        """Take in a record."""
        self.join.add(record)
        self._judge(self.join.ready())

    def finish(self) -> None:
        """End the run: analyze what is left, and wait for the workers."""
        self._judge(self.join.finish())
        self._end_block()
        self.flush()

    def flush(self) -> None:
        """As `finish`, but the block is not ended; shots of the next run are added to it."""
        self._judge(self.join.finish())
        self._hand_over()
        self._take_answers(self._workers.answers("all"))
        for series in [*self._ending.values(), self._series]:
            series.merge()
        self._fold()

    def poll(self) -> None:
        """Hand over what has gathered and take what the workers have found; for live displays."""
        self._hand_over()
        self._take_answers(self._workers.answers("none"))
        for series in [*self._ending.values(), self._series]:
            series.merge(1)
        self._fold()

    def close(self) -> None:
        """End the workers."""
        self._workers.close()

    @property
    def refused(self) -> dict[str, int]:
        """Records so far that belong to no shot, by reason."""
        refused = self.join.refused
        return {each.value: self._earlier[each.value] + refused[each] for each in Refusal}

    @property
    def counts(self) -> dict[str, int]:
        """Records and shots so far, of all runs, by reason.

        ``accepted_on`` and the following ones are of the present regions and bins. ``images_lost``
        and ``shots_lost`` are there only if workers died or failed: accepted shots that are missing
        in the images, and accepted shots of which nothing was found.
        """
        curves = self.curves.result()
        return {
            **self.counts_of_runs,
            "accepted_on": int(curves["n_on"]),
            "accepted_off": int(curves["n_off"]),
            "no_timing": int(curves["n_unknown"]),
            "out_of_range": int(curves["n_outside"]),
            **{reason: count for reason, count in self.lost.items() if count},
        }

    @property
    def counts_of_runs(self) -> dict[str, int]:
        """Records and shots so far, of all runs, by reason; without counts of regions and bins."""
        return {reason: self._earlier[reason] + n for reason, n in self._run_counts().items()}

    def _run_counts(self) -> dict[str, int]:
        """Count records and shots of the present run, by reason."""
        join, verdicts = self.join, self.verdicts
        last = self.info.grid.last
        expected = self.info.grid.count_below(last + 1) if last is not None else join.shots_passed
        found = {"records": join.records}
        found |= {reason.value: join.refused[reason] for reason in Refusal}
        found["shots_expected"] = expected
        found |= {verdict.value: verdicts[verdict] for verdict in Verdict}
        # Shots without any record have no verdict.
        found["no_frame"] += max(join.shots_passed - verdicts.total(), 0)
        return found

    def all_rows(self) -> Batch:
        """Return the values of all accepted shots, in order of their tags."""
        if not self.rows:
            return self._batch(_Pending(self.region_set), {})
        rows = concatenate(self.rows)
        return rows.take(np.argsort(rows.identities, kind="stable"))

    def _new_curves(self) -> ShotCurves:
        return ShotCurves(len(self.regions), self.edges.tolist(), self.block_tags, hits=self.hits)

    # ---- from the join to the workers

    def _judge(self, shots: Iterable[JoinedShot[Any]]) -> None:
        rules, keys = self.info.shot_rules, (*EQUIPMENT, *self.info.more_values)
        for shot in shots:
            payloads = shot.payloads
            values = {key: payloads[key] for key in keys if key in payloads}
            frames = {name: payloads[name] for name in self.info.tiles if name in payloads}
            verdict = rules.judge(values, len(frames) == len(self.info.tiles))
            identity, recording = self.info.identity(shot.tag), self.recording
            is_recorded = recording is not None and recording.take(self.info.run, identity)
            judged = AnalyzedShot(
                shot.tag,
                identity,
                self.info.run,
                time.time(),
                verdict,
                values,
                rules.delay(values),
                self.region_set,
                frames,
                recording.number if recording is not None and is_recorded else 0,
            )
            if self._partial and frames and verdict is Verdict.NO_FRAME:
                judged.is_partial = rules.judge(values, True) is Verdict.ACCEPTED
            if self._on_shot is not None:
                self._leaving.append(judged)
            try:
                if verdict is Verdict.ACCEPTED or judged.is_partial:
                    self._accept(judged)
            finally:
                self.verdicts[judged.verdict] += 1
        self._release()

    def _release(self) -> None:
        """Hand on the shots that are complete, in order."""
        while self._on_shot is not None and self._leaving and self._leaving[0].is_complete:
            self._on_shot(self._leaving.popleft())

    def _accept(self, shot: AnalyzedShot) -> None:
        """Put the frames of a shot where workers find them.

        If that fails, nothing of the shot stays behind: without a frame that can be read it has the
        verdict ``no_frame``, and after the error of a worker it is lost.
        """
        try:
            self._make_room(shot)
        except Exception:
            shot.is_lost = True
            self.lost["shots_lost"] += 1
            raise
        pending, places = self._pending, {}
        for name, frame in shot.frames.items():
            try:
                places[name] = self._frames.place(self._chunks, len(pending.shots), name, frame)
            except Exception as error:
                shot.verdict, shot.is_partial = Verdict.NO_FRAME, False
                shot.frames = {key: frame for key, frame in shot.frames.items() if key != name}
                if isinstance(error, ValueError):  # the frame has another shape
                    raise ValueError(f"frame of {name}: {error}") from error
                raise
        for name in self.info.tiles:
            pending.places.setdefault(name, []).append(places.get(name, MISSING))
        pending.shots.append(shot)
        if len(pending.shots) == CHUNK_SHOTS:
            self._hand_over()

    def _make_room(self, shot: AnalyzedShot) -> None:
        """Begin the block of a shot if it is the first one of it, and wait for a free place."""
        if shot.recording != self._series.recording:
            self._begin_series(shot.recording)
        block = self._series.number, shot.identity // self.block_tags
        if block != self._pending.block:
            self._end_block()
            self._pending.block = block
        while not self._frames.has_room(self._chunks):
            self._take_answers(self._workers.answers("one"))

    def _hand_over(self) -> None:
        """Give the pending shots to the worker of their block."""
        pending = self._pending
        if not pending.shots or pending.block is None:
            return
        self._pending = _Pending(self.region_set, pending.block)
        number, self._chunks = self._chunks, self._chunks + 1
        self._in_progress[number] = pending
        self._series.open_blocks.add(pending.block[1])
        self.frames += sum(len(shot.frames) for shot in pending.shots)
        chunk = Chunk(
            _identities(pending), _laser_on(pending.shots), pending.places, pending.regions
        )
        self._take_answers(self._workers.analyze(pending.block, number, chunk))

    def _end_block(self, is_wanted: bool = True) -> None:
        """Hand over what is pending, and ask the worker of its block for the partial result."""
        self._hand_over()
        block, self._pending.block = self._pending.block, None
        if block is not None and block[1] in self._series.open_blocks:
            self._take_answers(self._workers.end_block(block, is_wanted))

    def _begin_series(self, recording: int) -> None:
        """Sum the next shots up in images of their own.

        If the images are not recorded, their last block is not requested from the worker. Nobody
        would see it, and a block of eight tiles would delay the first image of the next shots.
        """
        before = self._series
        self._end_block(is_wanted=before.recording != 0)
        before.is_closed = True
        if not before.is_complete:
            self._ending[before.number] = before
        fresh = {name: images.fresh() for name, images in before.images.items()}
        self._series = ImageSeries(before.number + 1, recording, fresh)
        if recording:
            self.recorded = self._series

    # ---- from the workers to the results

    def _take_answers(self, answers: Iterable[Answer]) -> None:
        self._answers.extend(answers)
        while self._answers:
            answer = self._answers.popleft()
            if answer.chunk is not None:
                self._take_rows(answer.chunk, answer.rows)
            self.lost["images_lost"] += answer.images_lost
            if answer.block is not None and answer.parts is not None:
                number, block = answer.block
                series = self._ending.get(number, self._series)
                series.take(block, answer.parts)
        self._fold()

    def _take_rows(
        self, chunk: int, found: Mapping[str, Mapping[str, NDArray[Any]]] | None
    ) -> None:
        pending = self._in_progress.pop(chunk)
        self._frames.free(chunk)
        if found is None:
            self.lost["shots_lost"] += len(pending.shots)
            for shot in pending.shots:
                shot.is_lost = True
        else:
            rows = self._batch(pending, found)
            if self._on_shot is not None:
                keys = [*ROW_KEYS, *(key for key in rows.data if key.startswith(PROFILE))]
                for k, shot in enumerate(pending.shots):
                    shot.found = {key: rows[key][k] for key in keys}
            if self._keep_rows:
                self.rows.append(rows)
            if pending.regions is self.region_set:
                self.curves.update(rows)
        self._release()

    def _fold(self) -> None:
        """Fold the blocks before the first one that is still under way."""
        self._ending = {k: each for k, each in self._ending.items() if not each.is_complete}
        under_way = [each for each in (*self._ending.values(), self._series) if each.open_blocks]
        for series in under_way:
            series.fold(min(series.open_blocks))
        if under_way:
            self.curves.advance(min(min(each.open_blocks) for each in under_way) * self.block_tags)

    def _batch(self, pending: _Pending, rows: Mapping[str, Mapping[str, Any]]) -> Batch:
        shots, regions = pending.shots, pending.regions
        count, columns = len(shots), len(regions.regions)
        data: dict[str, NDArray[Any]] = {
            "tag": np.array([shot.tag for shot in shots], np.int64),
            "i0": np.array([shot.values["i0"] for shot in shots], float),
            "scanned": np.array(
                [self.info.shot_rules.scanned(shot.values, self.binned_by) for shot in shots], float
            ),
            "laser_on": _laser_on(shots),
            "accepted": np.array([shot.verdict is Verdict.ACCEPTED for shot in shots], bool),
            "regions_number": np.full(count, regions.number),
            "sum_ev": np.full((count, columns), np.nan),
            "photons": np.full((count, columns), -1),
            "photon_hist": np.full((count, columns, HISTOGRAM_BINS), -1),
        }
        for name, images in self._series.images.items():
            if images.rings is not None:
                empty = np.empty((0, images.rings.length))
                data[PROFILE + name] = rows[name]["profile"] if count else empty
        for k, region in enumerate(regions.regions):
            if region.detector in rows:
                position = regions.of(region.detector).index(region)
                for key in ROW_KEYS:
                    data[key][:, k] = rows[region.detector][key][:, position]
        return Batch(_identities(pending), np.full(count, np.nan), data)


def _identities(pending: _Pending) -> NDArray[np.int64]:
    return np.array([shot.identity for shot in pending.shots], np.int64)


def _laser_on(shots: Sequence[AnalyzedShot]) -> NDArray[np.bool_]:
    return np.array([shot.is_laser_on for shot in shots], bool)


def check_regions(
    regions: Sequence[Region], info: RunInfo, away: Collection[str] = ()
) -> tuple[Region, ...]:
    """Return the regions if names are unique, detectors known, and masks of their shape.

    The detectors in `away` are known too.
    """
    names = [region.name for region in regions]
    for region in regions:
        if names.count(region.name) > 1:
            raise ConfigError(f"ROI {region.name}: the name is used twice")
        if region.detector not in {*info.tiles, *away}:
            known = ", ".join(info.tiles) or "none"
            raise ConfigError(
                f"ROI {region.name}: unknown detector {region.detector} (known are {known})"
            )
        if region.mask is not None and region.detector in info.tiles:
            region.pixels(info.tiles[region.detector].bad.shape)  # raises if it does not fit
    return tuple(regions)


def check_have_pixels(regions: Iterable[Region], info: RunInfo) -> None:
    """Check that each region holds a pixel of its detector.

    Raises
    ------
    ConfigError
        If one is beside its detector, as by x and y in the wrong order.
    """
    for region in regions:
        shape = info.shapes.get(region.detector)
        if shape is not None and not region.pixels(shape).any():
            raise ConfigError(
                f"ROI {region.name}: no pixel of {region.detector} is inside, expected corners "
                f"x,y in columns 0..{shape[1] - 1} and rows 0..{shape[0] - 1}"
            )
