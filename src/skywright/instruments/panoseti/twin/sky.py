"""Pulse-height events and movies of a simulated array, packet by packet, with their truth."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.panoseti.clock import NS, TAI_MINUS_UTC_S, TAI_PERIOD_S
from skywright.instruments.panoseti.frames import QUADRANTS, Frames
from skywright.instruments.panoseti.packets import frames_of_packets, make_packets
from skywright.instruments.panoseti.products import PRODUCTS, QUABO_SIDE, QUABOS, Product

NETWORK_NS = 300_000
"""Shortest time from a board to the computer."""
LATENCY_NS = 30_000
"""Mean time that the computer adds to it."""
ORDER_NS = 20
"""Spread of the times that decide which of two boards' packets comes first."""
FULL_SCALE_ADC = 4095 - 760
"""Greatest value of a pulse: that of a converter of 12 bits less the baseline of the boards."""
HEIGHT_SIGMA = 0.5
"""Mean height of a dark pulse above the threshold: heights are exponential, so the rate of dark
pulses falls by e when the threshold rises by this."""
RATE_AT_SIGMA = 4.5
UNLOCKED_NS = 60_605_000_000
"""A clock that is not in step with UTC is behind by this, as one of a real run was."""
FREE_NS = 1 << 31
"""Period of the nanoseconds of such a clock, which no second resets."""
DRIFT = 23e-6
"""By this part the nanoseconds of such a clock run too fast."""
POOL = 512
"""At most this many different images of a short exposure are drawn at a time: at 50,000 a second
there is no time for more."""
DARK_COUNTS_HZ = 1000.0
"""Counts per second and pixel in a movie when the shutter is closed."""


@dataclass(frozen=True)
class ArraySettings:
    """What is simulated.

    Attributes
    ----------
    modules
        Numbers of the modules.
    noise_adc
        Electronic noise of a pixel of gain 1, standard deviation.
    gain_spread
        Relative spread of the gain of pixels.
    pedestal_adc, board_pedestal_adc
        What is left of the pedestals after the boards have subtracted their baselines: spread of
        pixels within a board, and of boards. Triggers do not see it.
    threshold_sigma
        A board triggers on a pixel above this.
    dark_rate_hz
        Rate of each board's triggers by dark counts at a threshold of 4.5 sigma.
    night_sky_hz
        Counts per second and pixel in a movie.
    stars
        Number of stars in the field.
    shutter_open
        Whether the sky is in the movies.
    jitter_ns
        Standard deviation of a module's time of a flash.
    packet_loss
        Fraction of packets that do not arrive.
    unlocked
        Modules whose clocks are not in step with UTC.
    flasher_pe
        Mean photoelectrons of a flat-field pulse in a pixel; 0: the flasher is off.
    flasher_hz
        Rate of flat-field pulses.
    adc_per_pe
        Height of one photoelectron in a pixel of gain 1, ADC.
    """

    modules: tuple[int, ...] = (250, 252, 253, 254)
    noise_adc: float = 15.0
    gain_spread: float = 0.1
    pedestal_adc: float = 13.0
    board_pedestal_adc: float = 15.0
    threshold_sigma: float = 4.5
    dark_rate_hz: float = 20.0
    night_sky_hz: float = 20_000.0
    stars: int = 12
    shutter_open: bool = True
    jitter_ns: float = 10.0
    packet_loss: float = 0.001
    unlocked: tuple[int, ...] = ()
    flasher_pe: float = 0.0
    flasher_hz: float = 200.0
    adc_per_pe: float = 15.0


@dataclass(frozen=True)
class Flash:
    """One flash, as it was made.

    Attributes
    ----------
    time_ns
        At the array, ns since 1970 UTC.
    row, column
        Center in the 32 x 32 image.
    sigma
        Mean height of its brightest pixel over the noise; photoelectrons follow Poisson's law.
    width_px
        0 for a point; else the standard deviation of a spot, as a shower has.
    """

    time_ns: int
    row: float
    column: float
    sigma: float
    width_px: float


class TelescopeArray:
    """An array whose pixels, stars and events come from one seed.

    The truth of its pixels are `gain`, `pedestal` (ADC), `flat` (relative sensitivity) and `sky_hz`
    (counts per second of a movie with open shutter), (modules, 32, 32) each.

    Parameters
    ----------
    settings
        What is simulated.
    seed
        Of everything random.
    """

    def __init__(self, settings: ArraySettings | None = None, seed: int = 0) -> None:
        self.settings = settings or ArraySettings()
        self.seed = seed
        rng = np.random.default_rng([seed, 0])
        shape = (len(self.settings.modules), 32, 32)
        self.gain = np.clip(rng.normal(1.0, self.settings.gain_spread, shape), 0.5, 1.5)
        self.flat = np.clip(rng.normal(1.0, 0.05, shape), 0.7, 1.3)
        self.sky_hz = self.settings.night_sky_hz * self.flat + self._stars(rng)
        self.pedestal = self._pedestals(np.random.default_rng([seed, 3]))
        self._rng = np.random.default_rng([seed, 1])
        self._pkt_num: dict[tuple[int, str], NDArray[np.int64]] = {}
        self._last_arrival: dict[tuple[int, str], int] = {}

    def _pedestals(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return (modules, 32, 32) residual pedestals, ADC."""
        settings = self.settings
        found = rng.normal(0.0, settings.pedestal_adc, (len(settings.modules), 32, 32))
        for module in found:
            for part in QUADRANTS:
                module[part] += rng.normal(0.0, settings.board_pedestal_adc)
        return found

    def poisson(self, mean: float) -> int:
        """Return a random count."""
        return int(self._rng.poisson(mean))

    def random_flashes(
        self, count: int, start_ns: int, seconds: float, sigma: tuple[float, float]
    ) -> list[Flash]:
        """Return flashes at random times and places, half of them points."""
        rng = self._rng
        times = np.sort(start_ns + rng.integers(0, int(seconds * NS), count))
        places = rng.uniform(1, 30, (count, 2))
        heights = rng.uniform(*sigma, count)
        widths = np.where(rng.random(count) < 0.5, 0.0, rng.uniform(0.8, 2.0, count))
        return [
            Flash(int(time), float(row), float(column), float(height), float(width))
            for time, (row, column), height, width in zip(
                times, places, heights, widths, strict=True
            )
        ]

    def pulse_heights(
        self, product: str, start_ns: int, seconds: float, flashes: list[Flash]
    ) -> dict[int, Frames]:
        """Return the pulse-height frames of each module in the order of time.

        A board sends a packet when one of its pixels is above the threshold, by a flash or, at the
        rate of the settings, by dark counts.

        Parameters
        ----------
        product
            ``ph256`` or ``ph1024``.
        start_ns, seconds
            The time that is simulated.
        flashes
            Seen by every module.
        """
        kind = PRODUCTS[product]
        return {
            module: self._module_pulses(kind, index, module, start_ns, seconds, flashes)
            for index, module in enumerate(self.settings.modules)
        }

    def movie(self, product: str, module: int, start_ns: int, period_ns: int, count: int) -> Frames:
        """Return `count` movie frames of one module, `period_ns` apart."""
        kind, index = PRODUCTS[product], self.settings.modules.index(module)
        limit = np.iinfo(kind.dtype).max
        sky_hz = self.sky_hz[index] if self.settings.shutter_open else DARK_COUNTS_HZ
        mean = sky_hz * period_ns / NS
        drawn = min(count, POOL) if kind.name == "img8" else count
        counts = np.minimum(self._rng.poisson(np.broadcast_to(mean, (drawn, 32, 32))), limit)
        images = np.stack([counts[(slice(None), *part)] for part in QUADRANTS], axis=1)
        images = images.astype(kind.dtype)
        if drawn < count:
            images = images[self._rng.integers(0, drawn, count)]
        times = start_ns + period_ns * np.arange(1, count + 1)
        board = np.tile(np.arange(QUABOS), count)
        return self._frames(
            kind, module, board, np.repeat(times, QUABOS), images.reshape(-1, 16, 16)
        )

    def _stars(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return the counts per second of the stars, the same sky for all modules."""
        rows, columns = np.mgrid[:32, :32]
        sky = np.zeros((32, 32))
        for _ in range(self.settings.stars):
            row, column = rng.uniform(0, 31, 2)
            rate = self.settings.night_sky_hz * rng.pareto(1.5)
            sky += rate * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 0.6)
        return sky[np.newaxis] * self.flat

    def _module_pulses(
        self, kind: Product, index: int, module: int, start_ns: int, seconds: float,
        flashes: list[Flash],
    ) -> Frames:  # fmt: skip
        settings, rng = self.settings, self._rng
        boards, times, images = [], [], []
        above = (settings.threshold_sigma - RATE_AT_SIGMA) / HEIGHT_SIGMA
        rate_hz = settings.dark_rate_hz * np.exp(-above)
        for board in range(QUABOS):
            count = rng.poisson(rate_hz * seconds)
            image = self._noise(index, board, count)
            pixel = rng.integers(0, 256, count)
            height = settings.threshold_sigma + rng.exponential(HEIGHT_SIGMA, count)
            image.reshape(count, 256)[np.arange(count), pixel] = height * settings.noise_adc
            boards.append(np.full(count, board))
            times.append(start_ns + rng.integers(0, int(seconds * NS), count))
            images.append(image)
            pulses = self._flasher_times(start_ns, seconds)
            boards.append(np.full(len(pulses), board))
            times.append(pulses + 4 * board)
            images.append(self._flasher_images(index, board, len(pulses)))
        for flash in flashes:
            time = flash.time_ns + round(rng.normal(0, settings.jitter_ns))
            seen = self._flash_image(index, flash)
            for board in range(QUABOS):
                image = seen[QUADRANTS[board]] + self._noise(index, board, 1)[0]
                if image.max() > settings.threshold_sigma * settings.noise_adc:
                    boards.append(np.array([board]))
                    times.append(np.array([time + 4 * board]))
                    images.append(image[np.newaxis])
        board_of, time_of, image_of = map(np.concatenate, (boards, times, images))
        order = np.argsort(time_of, kind="stable")
        pedestals = np.stack([self.pedestal[index][part] for part in QUADRANTS])
        heights = image_of[order] + pedestals[board_of[order]]
        pixels = np.rint(np.minimum(heights, FULL_SCALE_ADC)).astype(kind.dtype)
        return self._frames(kind, module, board_of[order], time_of[order], pixels)

    def _noise(self, index: int, board: int, count: int) -> NDArray[np.float64]:
        scale = self.settings.noise_adc * self.gain[index][QUADRANTS[board]]
        return self._rng.normal(0, 1, (count, 16, 16)) * scale

    def _flasher_times(self, start_ns: int, seconds: float) -> NDArray[np.int64]:
        """Return the times of flat-field pulses: whole multiples of their period."""
        if not self.settings.flasher_pe:
            return np.empty(0, np.int64)
        period_ns = round(NS / self.settings.flasher_hz)
        end_ns = start_ns + round(seconds * NS)
        first, last = -(-start_ns // period_ns), -(-end_ns // period_ns)
        return np.arange(first, last, dtype=np.int64) * period_ns

    def _flasher_images(self, index: int, board: int, count: int) -> NDArray[np.float64]:
        """Return flat-field pulses of a board: light as `flat` spreads it, times the gain."""
        part = QUADRANTS[board]
        mean = self.settings.flasher_pe * self.flat[index][part]
        electrons = self._rng.poisson(mean, (count, QUABO_SIDE, QUABO_SIDE))
        heights = electrons * self.settings.adc_per_pe * self.gain[index][part]
        return heights + self._noise(index, board, count)

    def _flash_image(self, index: int, flash: Flash) -> NDArray[np.float64]:
        rows, columns = np.mgrid[:32, :32]
        if flash.width_px:
            square = (rows - flash.row) ** 2 + (columns - flash.column) ** 2
            image = np.exp(-square / (2 * flash.width_px**2))
        else:
            image = ((rows == round(flash.row)) & (columns == round(flash.column))).astype(float)
        settings = self.settings
        electrons = self._rng.poisson(
            flash.sigma * settings.noise_adc / settings.adc_per_pe * image / image.max()
        )
        return electrons * settings.adc_per_pe * self.gain[index]

    def _frames(
        self, kind: Product, module: int, board: NDArray[np.int64], time: NDArray[np.int64],
        pixels: NDArray[np.generic],
    ) -> Frames:  # fmt: skip
        stream = (module, kind.name)
        counters = self._pkt_num.setdefault(stream, np.zeros(QUABOS, np.int64))
        number = np.empty(len(board), np.int64)
        for each in range(QUABOS):
            rows = board == each
            number[rows] = counters[each] + np.arange(rows.sum())
            counters[each] += rows.sum()
        packets = make_packets(
            kind, module, board, time, number, pixels.astype(kind.dtype, copy=False)
        )
        if module in self.settings.unlocked:
            seconds = (time - UNLOCKED_NS) // NS + TAI_MINUS_UTC_S
            packets["pkt_tai"] = seconds % TAI_PERIOD_S
            packets["pkt_nsec"] = (time + time // round(1 / DRIFT)) % FREE_NS
        place = time + np.rint(self._rng.normal(0.0, ORDER_NS, len(time))).astype(np.int64)
        order = np.argsort(place, kind="stable")
        order = order[self._rng.random(len(order)) >= self.settings.packet_loss]
        late = NETWORK_NS + self._rng.exponential(LATENCY_NS, len(order)).astype(np.int64)
        arrival = np.maximum.accumulate(time[order] + late)
        arrival = np.maximum(arrival, self._last_arrival.get(stream, 0))
        if len(arrival):
            self._last_arrival[stream] = int(arrival[-1])
        return frames_of_packets(kind, packets[order], arrival)
