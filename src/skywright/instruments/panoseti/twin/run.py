"""Simulated observing runs, written as PFF files in real time, as Hashpipe writes them."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from skywright.errors import ConfigError
from skywright.instruments.panoseti.clock import NS
from skywright.instruments.panoseti.products import PRODUCTS, RunName
from skywright.instruments.panoseti.sources.run_writer import RunTaker, RunWriter
from skywright.instruments.panoseti.twin.housekeeping import board_objects
from skywright.instruments.panoseti.twin.sky import ArraySettings, Flash, TelescopeArray

logger = logging.getLogger(__name__)

STEP_S = 0.1
"""Time that is simulated and written at once."""
FRAMES_MAX = 10_000
"""Movie frames that are made at once: on a machine that is too slow the run lags behind, and memory
does not grow."""
SHORTEST_S = 2e-5
"""Shortest exposure of the boards."""
HOUSEKEEPING_NS = NS
"""Time between two housekeeping readings."""
TRUTH = "sim_truth.json"
"""File of a simulated run with its flashes as they were made, for scoring only."""
FLASH_SIGMA = (5.0, 50.0)


def obs_config(modules: Sequence[int]) -> dict[str, Any]:
    """Return an ``obs_config.json`` of modules in one dome, which look at the same field."""
    pointing = {"azimuth": 180.0, "elevation": 75.0, "position_angle": 0.0}
    telescopes = [
        {"name": f"simulated {each}", "ip_addr": f"192.168.{each >> 6}.{(each & 63) << 2}"}
        | pointing
        for each in modules
    ]
    dome = {"name": "simulated", "obslat": 37.3425, "obslon": -121.63777, "obsalt": 1283.0}
    return {"name": "simulated", "domes": [{**dome, "modules": telescopes}]}


class SimulatedRuns(RunTaker):
    """Writes one simulated run after the other into a data directory.

    Any thread may call a method, but not two threads `start` and `stop` at the same time.

    Parameters
    ----------
    data_dir
        Data directory of a node; it is made.
    settings
        Of the array.
    seed
        Of everything random.
    products
        Products that are written.
    movie_period_s
        Time between two movie frames.
    flash_rate_hz
        Rate of flashes that all modules see.
    buffered
        Write in Hashpipe's steps; else each step is visible at once.
    max_file_bytes
        A file that has reached this size is followed by another one; 0 for no limit.

    Raises
    ------
    ConfigError
        If the products, the period, the size or the clocks are impossible.
    """

    def __init__(
        self,
        data_dir: Path,
        settings: ArraySettings | None = None,
        seed: int = 0,
        movie_period_s: float = 0.005,
        flash_rate_hz: float = 5.0,
        buffered: bool = False,
        products: Sequence[str] = ("img16", "ph256"),
        max_file_bytes: int = 0,
    ) -> None:
        unknown = set(products) - set(PRODUCTS)
        if unknown or not products:
            raise ConfigError(f"products {list(products)}: expected some of {', '.join(PRODUCTS)}")
        if not movie_period_s >= SHORTEST_S or max_file_bytes < 0:
            raise ConfigError(
                f"movie period {movie_period_s} s, largest file {max_file_bytes} bytes: expected "
                f"at least {SHORTEST_S} s and 0 bytes"
            )
        name = RunName("Simulated", "", "sim")
        super().__init__(RunWriter(data_dir, name, buffered, max_file_bytes), "simulated-run")
        self.array = TelescopeArray(settings, seed)
        absent = set(self.array.settings.unlocked) - set(self.array.settings.modules)
        if absent:
            raise ConfigError(f"no module {sorted(absent)} whose clock could be out of step")
        self._products = [PRODUCTS[name] for name in products]
        self._housekeeping_rng = np.random.default_rng([seed, 2])
        self.flashes: list[Flash] = []
        self._period_ns = round(movie_period_s * NS)
        self._flash_rate_hz = flash_rate_hz

    def _begin(self) -> str:
        settings = {
            "settings": asdict(self.array.settings),
            "seed": self.array.seed,
            "observatory": "simulated",
        }
        modules = self.array.settings.modules
        configs = {"sim_config": settings, "obs_config": obs_config(modules)}
        run = self._writer.begin(modules, configs)
        self.flashes = []
        return run

    def set_threshold(self, threshold_adc: float) -> None:
        """Set the threshold of all boards, ADC; it holds for all frames from now on."""
        array = self.array
        sigma = threshold_adc / array.settings.noise_adc
        array.settings = replace(array.settings, threshold_sigma=sigma)

    def open_shutter(self, is_open: bool) -> None:
        """Open or close the shutters: closed, no module sees sky or flashes."""
        self.array.settings = replace(self.array.settings, shutter_open=is_open)

    def set_flasher(self, photoelectrons: float) -> None:
        """Set the light of a flat-field pulse in each pixel; 0 switches the flasher off."""
        self.array.settings = replace(self.array.settings, flasher_pe=photoelectrons)

    def _work(self) -> None:
        done_ns = time.time_ns()
        housekeeping_ns = 0
        try:
            while not self._stopping.wait(STEP_S):
                now_ns = time.time_ns()
                if now_ns >= housekeeping_ns:
                    housekeeping_ns = now_ns + HOUSEKEEPING_NS
                    settings = self.array.settings
                    objects = board_objects(settings, now_ns / NS, self._housekeeping_rng)
                    self._writer.append_housekeeping(objects)
                frames = min(FRAMES_MAX, (now_ns - done_ns) // self._period_ns)
                if frames > 0:
                    self._take(done_ns, frames)
                    done_ns += frames * self._period_ns
        except OSError as error:
            self.error = f"{self.data_dir}: {error}"
            logger.error("%s", self.error)
        finally:
            truth = {"flashes": [asdict(flash) for flash in self.flashes]}
            trouble = self._writer.end({TRUTH.removesuffix(".json"): truth})
            self.error = self.error or trouble

    def _take(self, start_ns: int, frames: int) -> None:
        seconds = frames * self._period_ns / NS
        flash_rate_hz = self._flash_rate_hz if self.array.settings.shutter_open else 0.0
        count = self.array.poisson(flash_rate_hz * seconds)
        flashes = self.array.random_flashes(count, start_ns, seconds, FLASH_SIGMA)
        self.flashes += flashes
        for product in self._products:
            if product.movie:
                for module in self.array.settings.modules:
                    movie = self.array.movie(
                        product.name, module, start_ns, self._period_ns, frames
                    )
                    self._writer.append(replace(movie, module=module))
                continue
            found = self.array.pulse_heights(product.name, start_ns, seconds, flashes)
            for module, pulses in found.items():
                self._writer.append(replace(pulses, module=module))
