"""Pixels of one module: pedestal, noise and spectra of pulse heights; means of movies."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Analysis, Batch
from skywright.errors import ConfigError
from skywright.files.columns import Column
from skywright.instruments.panoseti.clock import SEC, estimate_offset, in_step
from skywright.instruments.panoseti.frames import QUADRANTS, missing_pixels
from skywright.instruments.panoseti.gaps import Gaps, count_gaps, packets_of
from skywright.instruments.panoseti.pff_layout import FIELDS
from skywright.instruments.panoseti.products import PRODUCTS, QUABOS, Product

SIDE = 32
PIXELS = SIDE * SIDE
CLOCK_PACKETS = 8
"""Packets of each board that a block of frames gives to the estimate of the clocks' offsets."""
CLOCK_BLOCKS = 128
"""Most blocks, spread over the run, whose packets are kept for that estimate."""
BIN_ADC, FIRST_ADC, BINS = 4, -512, 1024
"""Histograms of pulse heights: -512 to 3584 ADC; the first and last bin hold what is beyond."""
HOT, DEAD = 3.0, 0.3
"""A pixel is hot above 3 times, dead below 0.3 times the median of its module."""
PER_PIXEL = (SIDE, SIDE)
ADC = {"units": "ADC"}


class Clocks(NamedTuple):
    """Packets of successive blocks that tell how far the boards' clocks are from UTC."""

    sample: NDArray[np.int64]
    """(B, 4, CLOCK_PACKETS, 5) header numbers, zeros where there are fewer packets."""
    stride: int
    """Every N-th block is in the sample."""
    blocks: int
    locked: NDArray[np.int64]
    """(4,) packets whose clock is in step with UTC."""

    def with_next(self, other: "Clocks") -> "Clocks":
        """Add the block that follows."""
        sample, stride = self.sample, self.stride
        if self.blocks % stride == 0:
            sample = np.concatenate([sample, other.sample])
        if len(sample) > CLOCK_BLOCKS:
            sample, stride = sample[::2], 2 * stride
        return Clocks(sample, stride, self.blocks + 1, self.locked + other.locked)

    def results(self, packets: NDArray[np.int64]) -> dict[str, Any]:
        """Return the state of the clocks; `packets` (4,) is the number of each board's packets."""
        offsets = [
            estimate_offset(self.sample[:, board].reshape(-1, len(FIELDS)))
            for board in range(QUABOS)
        ]
        with np.errstate(invalid="ignore"):
            locked = self.locked / packets
        return {
            "n_unlocked": (packets - self.locked).sum(),
            "clock_locked": locked,
            "clock_seconds": np.array(
                [offset.seconds if offset.packets else np.nan for offset in offsets]
            ),
            "clock_offset_ns": np.array(
                [offset.offset_ns if offset.packets else np.nan for offset in offsets]
            ),
        }


COMMON_RESULTS = (
    Column("seconds", "<f8", attrs={"units": "s", "description": "first to last frame"}),
    Column("n_lost", "<i8", attrs={"description": "packets, by their counters"}),
    Column("board_lost", "<i8", (QUABOS,), attrs={"description": "packets"}),
    Column(
        "hot",
        "|u1",
        PER_PIXEL,
        attrs={"description": "1: noise above 3 x, or counts far above, the median"},
    ),
    Column("dead", "|u1", PER_PIXEL, attrs={"description": "1: below 0.3 x their median"}),
    Column("n_hot", "<i8", attrs={"description": "pixels"}),
    Column("n_dead", "<i8", attrs={"description": "pixels"}),
    Column("n_unlocked", "<i8", attrs={"description": "packets of clocks not in step with UTC"}),
    Column("clock_locked", "<f8", (QUABOS,), attrs={"description": "part of packets in step"}),
    Column(
        "clock_seconds",
        "<f8",
        (QUABOS,),
        attrs={"units": "s", "description": "whole seconds from board to UTC; NaN: no packets"},
    ),
    Column(
        "clock_offset_ns",
        "<f8",
        (QUABOS,),
        attrs={"units": "ns", "description": "arrival minus board, after clock_seconds"},
    ),
)


def sample_clocks(numbers: NDArray[np.int64], quabo: NDArray[np.int64]) -> Clocks:
    """Take the clocks of one block; arguments as those of `count_gaps`."""
    sample = np.zeros((1, QUABOS, CLOCK_PACKETS, len(FIELDS)), np.int64)
    locked = np.zeros(QUABOS, np.int64)
    for board in range(QUABOS):
        sent = packets_of(board, numbers, quabo)
        if len(sent):
            rows = np.linspace(0, len(sent) - 1, min(len(sent), CLOCK_PACKETS)).astype(int)
            sample[0, board, : len(rows)] = sent[rows]
            locked[board] = in_step(sent).sum()
    return Clocks(sample, 1, 1, locked)


class Span(NamedTuple):
    """First and last time of frames, ns; zeros where none has a time."""

    first: int
    last: int

    @property
    def seconds(self) -> float:
        """Time from the first frame to the last one, s."""
        return (self.last - self.first) / 1e9

    def with_next(self, other: "Span") -> "Span":
        """Add other frames."""
        return span_of(np.array([*self, *other], np.int64))


def span_of(times: NDArray[np.int64]) -> Span:
    """Return the first and last time; zeros, of frames without one, do not count."""
    dated = times[times > 0]
    return Span(int(dated.min()), int(dated.max())) if len(dated) else Span(0, 0)


State = TypeVar("State", bound=tuple[Any, ...])
"""What is kept of frames: numbers, which are added up, and parts that know how they go on."""


class FrameAnalysis(Analysis[State]):
    """Base of the analyses of one product of a module: a subclass names its `product`.

    Its own name is that of the product, unless it gives another one.
    """

    stream = "frames"
    time = "none"
    block_size = 1024
    product: ClassVar[Product]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        kind = cls.product.name
        if "name" not in vars(cls):
            cls.name = f"panoseti_{kind}"
        cls.inputs = tuple(f"{kind}_{part}" for part in ("image", "header", "quabo", "time"))
        cls.identity = f"{kind}_number"

    def rows(self, batch: Batch) -> tuple[NDArray[Any], NDArray[np.bool_], dict[str, Any]]:
        """Return the images, which of their pixels are there, and what a block is made of."""
        found = {name.split("_")[1]: batch[name] for name in self.inputs}
        there = ~missing_pixels(found["header"][:, :, SEC] > 0, self.product)
        return found["image"], there, found

    def no_members(self) -> Batch:
        """Return what a block without frames is made of."""
        product, none = self.product, np.zeros(0, np.int64)
        image = np.zeros((0, product.side, product.side), product.dtype)
        header = np.zeros((0, product.quabos, len(FIELDS)), np.int64)
        data = {"image": image, "header": header, "quabo": none, "time": none}
        return Batch(none, none.astype(float), data)

    def fold(self, prefix: State | None, statistic: State) -> State:
        """Add the next block."""
        if prefix is None:
            return statistic
        return type(prefix)(
            *(
                before.with_next(block) if hasattr(before, "with_next") else before + block
                for before, block in zip(prefix, statistic, strict=True)
            )
        )

    def common_results(
        self, state: Any, hot: NDArray[np.bool_], dead: NDArray[np.bool_]
    ) -> dict[str, Any]:
        """Return the `COMMON_RESULTS` of a state and of the pixels that are hot or dead."""
        return {
            "seconds": state.time_ns.seconds,
            "n_lost": state.gaps.lost.sum(),
            "board_lost": state.gaps.lost,
            "hot": hot.reshape(PER_PIXEL),
            "dead": dead.reshape(PER_PIXEL),
            "n_hot": hot.sum(),
            "n_dead": dead.sum(),
            **state.clocks.results(state.gaps.packets),
        }


class Pulses(NamedTuple):
    """What is kept of pulse-height frames."""

    frames: int
    histogram: NDArray[np.int64]
    """(1024, BINS) of each pixel's ADC."""
    largest: NDArray[np.int64]
    """(4, BINS) of each board's brightest pixel."""
    triggers: NDArray[np.int64]
    """(1024,) frames in which the pixel is its board's brightest."""
    time_ns: Span
    gaps: Gaps
    clocks: Clocks


class PulseHeights(FrameAnalysis[Pulses]):
    """Pedestal, noise, spectra, rates and lost packets of the ph256 frames of one module.

    Pedestal and noise come from each pixel's histogram: the median, and its distance to the 15.87
    percentile. Light adds to the upper side only, so pulses hardly widen them.
    """

    version = "4"
    product: ClassVar[Product] = PRODUCTS["ph256"]
    columns = (
        Column("largest", "<i4", attrs={**ADC, "description": "brightest pixel"}),
        Column("mean", "<f8", attrs={**ADC, "description": "mean of the boards that are there"}),
    )
    results: ClassVar[Sequence[Column]] = (
        Column("n_pulses", "<i8", attrs={"description": "frames"}),
        Column("rate", "<f8", attrs={"units": "Hz", "description": "of packets of all boards"}),
        Column("board_rates", "<f8", (QUABOS,), attrs={"units": "Hz"}),
        Column("pedestal", "<f8", PER_PIXEL, attrs={**ADC, "description": "median; or NaN"}),
        Column("noise", "<f8", PER_PIXEL, attrs={**ADC, "description": "standard deviation"}),
        Column("noise_median", "<f8", attrs={**ADC, "description": "of the pixels"}),
        Column("relative_gain", "<f8", PER_PIXEL, attrs={"description": "noise over its median"}),
        Column("triggers", "<i8", PER_PIXEL, attrs={"description": "frames that it triggered"}),
        Column("spectrum", "<i8", (BINS,), attrs={"description": "of all pixels"}),
        Column("largest_spectrum", "<i8", (QUABOS, BINS), attrs={"description": "brightest pixel"}),
        Column("spectrum_edges", "<f8", (BINS + 1,), attrs=ADC),
        *COMMON_RESULTS,
    )

    def measure(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Find the brightest pixel of each frame."""
        image, there, found = self.rows(batch)
        count = np.maximum(there.sum(axis=(1, 2)), 1)
        pixels = np.where(there, image, np.iinfo(image.dtype).min).reshape(len(batch), -1)
        return {
            "largest": pixels.max(axis=1).astype(np.int32),
            "mean": np.where(there, image, 0).sum(axis=(1, 2), dtype=np.int64) / count,
            **found,
        }

    def statistic(self, members: Batch) -> Pulses:
        """Fill the histograms of a block."""
        image, header = members["image"], members["header"]
        quabo, times = members["quabo"].astype(np.int64), members["time"]
        histogram = np.zeros(PIXELS * BINS, np.int64)
        largest = np.zeros((QUABOS, BINS), np.int64)
        triggers = np.zeros(PIXELS, np.int64)
        for board in range(QUABOS):
            boards = self._of_board(image, header, quabo, board).reshape(-1, 256)
            if not len(boards):
                continue
            place = np.arange(PIXELS).reshape(SIDE, SIDE)[QUADRANTS[board]].ravel()
            bins = np.clip((boards.astype(np.int64) - FIRST_ADC) // BIN_ADC, 0, BINS - 1)
            histogram += np.bincount((place * BINS + bins).ravel(), minlength=len(histogram))
            brightest = boards.argmax(axis=1)
            triggers += np.bincount(place[brightest], minlength=PIXELS)
            heights = bins[np.arange(len(bins)), brightest]
            largest[board] = np.bincount(heights, minlength=BINS)
        return Pulses(
            len(members), histogram.reshape(PIXELS, BINS), largest, triggers, span_of(times),
            count_gaps(header, quabo), sample_clocks(header, quabo),
        )  # fmt: skip

    def summarize(self, state: Pulses | None) -> Mapping[str, Any]:
        """Turn the histograms into pedestal, noise and flags; NaN where there is nothing."""
        state = state or self.statistic(self.no_members())
        low, pedestal = (percentile(state.histogram, q) for q in (0.1587, 0.5))
        noise = pedestal - low
        middle = median_of(noise)
        seconds = state.time_ns.seconds
        rates = state.gaps.packets / seconds if seconds > 0 else np.full(QUABOS, np.nan)
        return {
            "n_pulses": state.frames,
            "rate": rates.sum(),
            "board_rates": rates,
            "pedestal": pedestal.reshape(PER_PIXEL),
            "noise": noise.reshape(PER_PIXEL),
            "noise_median": middle,
            "relative_gain": (noise / middle).reshape(PER_PIXEL),
            "triggers": state.triggers.reshape(PER_PIXEL),
            "spectrum": state.histogram.sum(axis=0),
            "largest_spectrum": state.largest,
            "spectrum_edges": FIRST_ADC + BIN_ADC * np.arange(BINS + 1.0),
            **self.common_results(state, noise > HOT * middle, noise < DEAD * middle),
        }

    def _of_board(
        self, image: NDArray[Any], header: NDArray[Any], quabo: NDArray[np.int64], board: int
    ) -> NDArray[Any]:
        """Return the images of one board, (n, 16, 16), of frames in which it is there."""
        if self.product.quabos == 1:
            return image[(quabo == board) & (header[:, 0, SEC] > 0)]
        rows, columns = QUADRANTS[board]
        return image[header[:, board, SEC] > 0, rows, columns]


class GroupedPulseHeights(PulseHeights):
    """The same of ph1024 frames, which hold all four boards of a module."""

    product = PRODUCTS["ph1024"]


class Movie(NamedTuple):
    """What is kept of movie frames: exact integers, so their order does not matter."""

    frames: int
    present: NDArray[np.int64]
    """(32, 32) frames in which the pixel's board is there."""
    total: NDArray[np.int64]
    squares: NDArray[np.float64]
    """(32, 32) sums of squares; float64 holds them exactly up to 2^53."""
    time_ns: Span
    gaps: Gaps
    clocks: Clocks


class MovieStatistics(FrameAnalysis[Movie]):
    """Mean, variance, hot and dead pixels, rate and lost packets of the img16 frames of a module.

    Parameters
    ----------
    hot
        A pixel is hot when its mean count is above this multiple of the module's median.

    Raises
    ------
    ConfigError
        If `hot` is not above 1.
    """

    version = "4"
    product: ClassVar[Product] = PRODUCTS["img16"]
    columns = (
        Column("mean", "<f8", attrs={"units": "counts", "description": "of the boards there"}),
    )
    results = (
        Column("n_movie", "<i8", attrs={"description": "frames"}),
        Column("frame_rate", "<f8", attrs={"units": "Hz"}),
        Column("mean_count", "<f8", attrs={"units": "counts", "description": "of all pixels"}),
        Column("mean_image", "<f8", PER_PIXEL, attrs={"units": "counts", "description": "or NaN"}),
        Column("variance", "<f8", PER_PIXEL, attrs={"units": "counts^2", "description": "or NaN"}),
        *COMMON_RESULTS,
    )

    def __init__(self, hot: float = 10.0) -> None:
        super().__init__(hot=hot)
        if not hot > 1:
            raise ConfigError(f"{self.name}: hot {hot}: expected above 1")

    def measure(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Take the mean of each frame."""
        image, there, found = self.rows(batch)
        sums = np.where(there, image, 0).sum(axis=(1, 2), dtype=np.int64)
        return {"mean": sums / np.maximum(there.sum(axis=(1, 2)), 1), **found}

    def statistic(self, members: Batch) -> Movie:
        """Add up a block."""
        header, image = members["header"], members["image"].astype(np.int64)
        there = ~missing_pixels(header[:, :, SEC] > 0, self.product)
        image = np.where(there, image, 0)
        quabo = members["quabo"].astype(np.int64)
        return Movie(
            len(members),
            there.sum(axis=0),
            image.sum(axis=0),
            (image * image).sum(axis=0).astype(np.float64),
            span_of(members["time"]),
            count_gaps(header, quabo),
            sample_clocks(header, quabo),
        )

    def summarize(self, state: Movie | None) -> Mapping[str, Any]:
        """Turn the sums into means and variances; NaN where there is nothing."""
        state = state or self.statistic(self.no_members())
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = state.total / state.present
            variance = (state.squares - state.total * mean) / (state.present - 1)
        known, middle = ~np.isnan(mean), median_of(mean)
        seconds = state.time_ns.seconds
        return {
            "n_movie": state.frames,
            "frame_rate": (state.frames - 1) / seconds if seconds > 0 else np.nan,
            "mean_count": mean[known].mean() if known.any() else np.nan,
            "mean_image": mean,
            "variance": variance,
            **self.common_results(
                state, mean > self.parameters["hot"] * middle, mean < DEAD * middle
            ),
        }


class ShortMovieStatistics(MovieStatistics):
    """The same of img8 frames."""

    product = PRODUCTS["img8"]


def median_of(values: NDArray[np.float64]) -> float:
    """Return the median of the values that are known; NaN if there are none."""
    known = ~np.isnan(values)
    return float(np.median(values[known])) if known.any() else np.nan


def percentile(histogram: NDArray[np.int64], fraction: float) -> NDArray[np.float64]:
    """Return (P,) the value below which this fraction of each row of (P, BINS) lies; or NaN.

    Values are whole numbers: bin k holds ``FIRST_ADC + k * BIN_ADC`` and the next ``BIN_ADC - 1``,
    so it reaches from half below its first to half above its last one.
    """
    sums = np.cumsum(histogram, axis=1)
    wanted = fraction * sums[:, -1]
    row = np.arange(len(sums))
    number = np.argmax(sums >= wanted[:, np.newaxis], axis=1)
    inside = histogram[row, number]
    before = sums[row, number] - inside
    with np.errstate(invalid="ignore"):
        part = (wanted - before) / inside
    return np.where(sums[:, -1] > 0, FIRST_ADC - 0.5 + BIN_ADC * (number + part), np.nan)
