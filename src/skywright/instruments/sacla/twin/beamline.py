"""Simulated shots: pulse energy, laser, delay, timing tool, and MPCCD images with photons."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import erf, nan, sqrt

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.sacla.join import Record, TagGrid
from skywright.instruments.sacla.run_info import RunInfo
from skywright.instruments.sacla.shots import EQUIPMENT, ShotRules
from skywright.instruments.sacla.tile import PixelRules, Tile
from skywright.instruments.sacla.twin.faults import DISORDER_SHOTS, LATE_SHOTS, PAUSE_S, Faults

SINGLE = "MPCCD-1N0-M06-004"
OCTAL = tuple(f"MPCCD-8N0-3-002-{k}" for k in range(1, 9))
"""Ids of a detector of one tile, and of the tiles of an octal."""


@dataclass(frozen=True)
class TwinSettings:
    """The simulated experiment.

    Parameters
    ----------
    detectors
        Detector ids.
    shape
        (rows, columns) of each tile.
    rate_hz, tag_step
        Shots per second; tags from one shot to the next.
    pool
        Images rendered before the run and used again and again, of each detector; fewer if all of
        them would take more than `POOL_BYTES_MAX`. Fewer images cost less memory, but shots that
        share an image share its noise.
    photons_per_px
        Mean number of photons in a pixel at I0 = 1.
    effect, width_ps
        Long after time zero the signal with laser is ``1 + effect`` times that without; width of
        the rise.
    delay_ps
        Lowest and highest delay.
    jitter_ps
        Spread of the arrival times, which the timing tool measures.
    timing_noise_ps
        Standard deviation of the edge that the timing tool finds.
    i0_jitter
        Relative spread of the pulse energy.
    i0_noise
        Relative standard deviation of the I0 monitor at 1 V. It counts photons, so that its
        variance is in proportion to the pulse energy.
    charge_spread_px
        Standard deviation of the charge of a photon about its place, pixels: 7 um of the 50 um of
        the MPCCD. Neighbors share the charge of a photon near their border.
    beam_off, laser_off
        Fractions of the shots.
    bad_pixels
        Fraction of the pixels that are hot; if there are any, a column is dead too. Both are bad
        pixels of the tile.
    faults
        What goes wrong.
    """

    detectors: tuple[str, ...] = (SINGLE,)
    shape: tuple[int, int] = (1024, 512)
    rate_hz: float = 60.0
    tag_step: int = 1
    pool: int = 64
    photons_per_px: float = 0.02
    effect: float = 0.2
    width_ps: float = 0.2
    delay_ps: tuple[float, float] = (-2.0, 3.0)
    jitter_ps: float = 0.1
    timing_noise_ps: float = 0.01
    i0_jitter: float = 0.25
    i0_noise: float = 0.01
    charge_spread_px: float = 0.14
    beam_off: float = 0.02
    laser_off: float = 0.5
    bad_pixels: float = 1e-3
    faults: Faults = field(default_factory=Faults)


PHOTON_EV, EV_PER_ELECTRON, GAIN = 10000.0, 3.65, 15.0
NOISE_ADU = 3.0
HOT_ADU = 2000.0
"""What a hot pixel reads, whatever the light."""
I0_LEAST = 0.2
LATENCY_S = {"i0": 0.3, "beam": 0.1, "delay": 0.5, "timing": 0.6}
FRAME_LATENCY_S = 0.1
POOL_BYTES_MAX = 1_000_000_000
"""Limit of the memory for the images of all detectors."""
RUN, HIGHTAG, FIRST_TAG = 501, 202301, 400_000_000
PLACES = 32
"""Places of a photon in its pixel, along each axis, for which the charge is computed."""


@dataclass(frozen=True)
class ShotTruth:
    """What is true of a simulated shot.

    Parameters
    ----------
    pulse_energy
        What a monitor of I0 without noise gives, V; 0 without beam.
    delay_ps
        Delay at the sample, ps; the timing tool measures a part of it.
    image
        Number of its image in `Beamline.images`.
    """

    pulse_energy: float
    delay_ps: float
    image: int


class Beamline:
    """Simulated runs; mostly one.

    The image of a shot shows ``I0 * response(delay)`` times the mean photon number, in all pixels.

    Parameters
    ----------
    settings
        The experiment.
    seed
        Of all random numbers.
    stage
        Returns the position of the delay stage, ps, when a shot is made. None: each shot has
        another delay, in the range of the settings.

    Attributes
    ----------
    images
        Pool of images by detector, (images + 1, rows, columns) float32 ADU; the last one is dark.
    photon_numbers
        (images + 1,) int64 by detector: the photons of each image that fell on good pixels.
    truth
        What is true of the last shot.
    """

    def __init__(
        self,
        settings: TwinSettings,
        seed: int = 0,
        stage: Callable[[], float] | None = None,
    ) -> None:
        rows, columns = settings.shape
        image_bytes = len(settings.detectors) * rows * columns * np.float32().nbytes
        most = max(POOL_BYTES_MAX // max(image_bytes, 1) - 1, 1)  # one more is dark
        settings = replace(settings, pool=min(settings.pool, most))
        self.settings = settings
        self._stage = stage
        self.truth = ShotTruth(0.0, nan, -1)
        self._random = np.random.default_rng(seed)
        self._delays = np.random.default_rng([seed, 1])  # so that delays change nothing else
        self._errors = np.random.default_rng([seed, 2])  # of the measurements
        tiles = {name: Tile(name, GAIN, self._bad_pixels()) for name in settings.detectors}
        self.info = RunInfo(
            run=RUN,
            hightag=HIGHTAG,
            grid=TagGrid(FIRST_TAG, settings.tag_step),
            tiles=tiles,
            shot_rules=ShotRules(0.05, 0.5, 6.666e-3, 100.0, 2.4431e-3, 500.0),
            pixel_rules=PixelRules(PHOTON_EV, EV_PER_ELECTRON, 1000.0, columns / 2, rows / 2, 2.0),
        )
        # Of all responses, so that there is an image of each pulse energy with and without laser.
        lowest, highest = sorted((1.0, 1.0 + settings.effect))
        responses = self._random.uniform(lowest, highest, settings.pool)
        self._signals = self._pulse_energies(settings.pool) * responses
        rendered = {name: self._render(tile.bad) for name, tile in tiles.items()}
        self.images = {name: images for name, (images, _) in rendered.items()}
        self.photon_numbers = {name: numbers for name, (_, numbers) in rendered.items()}

    def response(self, delay_ps: float, laser_on: bool) -> float:
        """Return the true signal, relative to that without laser."""
        if not laser_on:
            return 1.0
        rise = 0.5 * (1 + erf(delay_ps / self.settings.width_ps))
        return 1 + self.settings.effect * rise

    def time_of(self, number: int) -> float:
        """Return the time of a shot, s after the start of the first run."""
        return number / self.settings.rate_hz + self._runs_before(number) * PAUSE_S

    def info_of(self, run: int) -> RunInfo:
        """Return the run of a number."""
        before, settings = (run - RUN) * self.settings.faults.run_shots, self.settings
        grid = TagGrid(FIRST_TAG + before * settings.tag_step, settings.tag_step)
        return replace(self.info, run=run, grid=grid)

    def _runs_before(self, number: int) -> int:
        shots = self.settings.faults.run_shots
        return number // shots if shots else 0

    def shot(self, number: int) -> Iterator[tuple[float, Record[NDArray[np.float32] | str]]]:
        """Yield the records of a shot, with their arrival times, s after the first run began.

        The payload of a detector is its image (to be copied, never changed), that of a point
        detector the text that the database gives.
        """
        values, self.truth = self._values()
        if values["beam"] == "0":
            self.truth = replace(self.truth, pulse_energy=0.0, image=-1)
            values["i0"] = f"{abs(self._errors.normal(0, 1e-3)):.6f}V"
        tag = FIRST_TAG + number * self.settings.tag_step
        at, run = self.time_of(number), RUN + self._runs_before(number)
        for name, images in self.images.items():
            late = at + FRAME_LATENCY_S + self._random.exponential(0.01)
            yield from self._with_faults(late, Record(name, tag, run, images[self.truth.image]))
        for key in EQUIPMENT:
            late = at + LATENCY_S.get(key, 0.2) + self._random.exponential(0.02)
            faulty = self._random.random() < self.settings.faults.no_value
            text = "not-converged" if faulty else values[key]
            yield from self._with_faults(late, Record(key, tag, run, text))

    def _values(self) -> tuple[dict[str, str], ShotTruth]:
        """Return the texts of the point detectors of a shot with beam, and its truth."""
        random, settings, rules = self._random, self.settings, self.info.shot_rules
        laser_on = random.random() >= settings.laser_off
        delay = random.uniform(*settings.delay_ps) if self._stage is None else 0.0
        jitter = random.normal(0, settings.jitter_ps)
        at = delay - jitter if self._stage is None else self._stage()
        pulses = round(at / rules.ps_per_pulse + rules.t0_pulse)
        found = jitter + self._errors.normal(0, settings.timing_noise_ps)
        pixel = round(found / rules.ps_per_px + rules.tt_ref_px, 2)
        delay = (pulses - rules.t0_pulse) * rules.ps_per_pulse + jitter
        # The laser changes the image, not the pulse energy: the nearest image of the pool is taken,
        # and the pulse energy follows from its brightness exactly.
        response = self.response(delay, laser_on)
        picture = self.nearest_image(float(self._pulse_energies(1)[0]) * response)
        energy = float(self._signals[picture]) / response
        values = {
            "i0": f"{self._counted(energy):.9f}V",
            "beam": "0" if random.random() < settings.beam_off else "1",
            "laser_open": "1" if laser_on else "0",
            "laser_close": "0" if laser_on else "1",
            "delay": f"{pulses}pulse",
            "timing": f"{pixel}",
        }
        return values, ShotTruth(energy, delay, picture)

    def _counted(self, pulse_energy: float) -> float:
        """Return what the I0 monitor gives, V."""
        one = self.settings.i0_noise**2  # V that a photon gives
        return one * self._errors.poisson(pulse_energy / one) if one else pulse_energy

    def _pulse_energies(self, count: int) -> NDArray[np.float64]:
        """Return (count,) random values of I0."""
        return self._random.normal(1, self.settings.i0_jitter, count).clip(I0_LEAST, None)

    def nearest_image(self, signal: float) -> int:
        """Return the number of the image of `images` that is nearest to ``I0 * response``."""
        return int(np.abs(self._signals - signal).argmin())

    def _with_faults(
        self, at: float, record: Record[NDArray[np.float32] | str]
    ) -> Iterator[tuple[float, Record[NDArray[np.float32] | str]]]:
        faults, random = self.settings.faults, self._random
        if random.random() < faults.missing:
            return
        if random.random() < faults.other_run:
            record = Record(record.channel, record.tag, record.run - 1, record.payload)
        late, disorder, shots = self._delays.random(3)
        if late < faults.late:
            at += LATE_SHOTS / self.settings.rate_hz
        elif disorder < faults.out_of_order:
            at += shots * DISORDER_SHOTS / self.settings.rate_hz
        yield at, record
        if random.random() < faults.repeated:
            yield at + random.exponential(0.2), record

    def _bad_pixels(self) -> NDArray[np.bool_]:
        settings = self.settings
        bad = self._random.random(settings.shape) < settings.bad_pixels
        if settings.bad_pixels:
            bad[:, self._dead_column] = True
        return bad

    @property
    def _dead_column(self) -> int:
        return self.settings.shape[1] // 3

    def _render(self, bad: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the pool of images of a detector, a dark one at its end, and their photons.

        `bad` is (rows, columns) bool: those in the dead column show no light, the others are hot.
        """
        adu = PHOTON_EV / EV_PER_ELECTRON / GAIN
        shares = charge_shares(self.settings.charge_spread_px)
        images = np.empty((self.settings.pool + 1, *self.settings.shape), np.float32)
        numbers = np.zeros(len(images), np.int64)
        for k, signal in enumerate([*self._signals, 0.0]):
            image = images[k]
            count = self._random.poisson(signal * self.settings.photons_per_px * image.size)
            rows, columns = (self._random.integers(0, each, count) for each in image.shape)
            numbers[k] = np.count_nonzero(~bad[rows, columns])
            along_rows, along_columns = shares[self._random.integers(0, PLACES, (2, count))]
            image[:] = adu * sum_charges(rows, columns, along_rows, along_columns, image.shape)
            image[bad] = HOT_ADU
            if self.settings.bad_pixels:
                image[:, self._dead_column] = 0.0
            image += self._random.standard_normal(image.shape, np.float32) * NOISE_ADU
        return images, numbers


def charge_shares(sigma_px: float) -> NDArray[np.float64]:
    """Return (`PLACES`, 3) the charge in the pixel before, the own one, and the one after.

    The charge of a photon is Gaussian about its place in the own pixel, along each axis.

    Parameters
    ----------
    sigma_px
        Standard deviation of the charge, pixels.
    """

    def beyond(distance_px: float) -> float:
        return 0.5 - 0.5 * erf(distance_px / (sqrt(2) * sigma_px)) if sigma_px else 0.0

    places = [(k + 0.5) / PLACES for k in range(PLACES)]
    sides = np.array([(beyond(place), beyond(1 - place)) for place in places])
    return np.column_stack([sides[:, 0], 1 - sides.sum(axis=1), sides[:, 1]])


def sum_charges(
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    along_rows: NDArray[np.float64],
    along_columns: NDArray[np.float64],
    shape: tuple[int, ...],
) -> NDArray[np.float64]:
    """Return the charge in each pixel, in units of the charge of one photon.

    Parameters
    ----------
    rows, columns
        (n,) pixels on which photons fall.
    along_rows, along_columns
        (n, 3) shares of three neighbors, of `charge_shares`.
    shape
        (rows, columns) of the image; what leaves it is lost.
    """
    height, width = (length + 2 for length in shape)
    near = np.arange(3)
    place = ((rows[:, None] + near) * width)[:, :, None] + (columns[:, None] + near)[:, None]
    charge = along_rows[:, :, None] * along_columns[:, None]
    total: NDArray[np.float64] = np.bincount(
        place.ravel(), weights=charge.ravel(), minlength=height * width
    ).astype(np.float64, copy=False)
    return total.reshape(height, width)[1:-1, 1:-1]
