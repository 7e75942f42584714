"""Simulated observing runs, written as PFF files in real time, as Hashpipe writes them."""

import logging
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from skywright.errors import HardwareError
from skywright.instruments.panoseti.clock import NS
from skywright.instruments.panoseti.products import RunName
from skywright.instruments.panoseti.sources.run_writer import RunWriter
from skywright.instruments.panoseti.twin.housekeeping import board_objects
from skywright.instruments.panoseti.twin.sky import ArraySettings, Flash, TelescopeArray

logger = logging.getLogger(__name__)

STEP_S = 0.1
"""Time that is simulated and written at once."""
HOUSEKEEPING_NS = NS
"""Time between two housekeeping readings."""
TRUTH = "sim_truth.json"
"""File of a simulated run with its flashes as they were made, for scoring only."""
FLASH_SIGMA = (5.0, 50.0)


class SimulatedRuns:
    """Writes one simulated run after the other into a data directory.

    All methods may be called from any thread.

    Parameters
    ----------
    data_dir
        Data directory of a node; it is made.
    settings
        Of the array.
    seed
        Of everything random.
    movie_period_s
        Time between two movie frames.
    flash_rate_hz
        Rate of flashes that all modules see.
    buffered
        Write in Hashpipe's steps; else each step is visible at once.
    """

    def __init__(
        self,
        data_dir: Path,
        settings: ArraySettings | None = None,
        seed: int = 0,
        movie_period_s: float = 0.005,
        flash_rate_hz: float = 5.0,
        buffered: bool = False,
    ) -> None:
        self.data_dir = data_dir
        self.array = TelescopeArray(settings, seed)
        self._housekeeping_rng = np.random.default_rng([seed, 2])
        self.flashes: list[Flash] = []
        self.error = ""
        self._period_ns = round(movie_period_s * NS)
        self._flash_rate_hz = flash_rate_hz
        self._writer = RunWriter(data_dir, RunName("Simulated", "", "sim"), buffered)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether a run is being taken."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> str:
        """Begin a run and return the name of its directory.

        Raises
        ------
        HardwareError
            If a run is under way or the files cannot be made.
        """
        if self.is_running:
            raise HardwareError(f"the run {self._writer.run} is under way; stop it first")
        settings = {"settings": asdict(self.array.settings), "observatory": "simulated"}
        run = self._writer.begin(self.array.settings.modules, {"sim_config": settings})
        self.flashes, self.error = [], ""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._work, name="simulated-run", daemon=True)
        self._thread.start()
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

    def stop(self) -> None:
        """End the run: all its frames are in its files, and its marker is there."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(10.0)
            self._thread = None

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
                frames = (now_ns - done_ns) // self._period_ns
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
        for module in self.array.settings.modules:
            movie = self.array.movie("img16", module, start_ns, self._period_ns, frames)
            self._writer.append(replace(movie, module=module))
        for module, pulses in self.array.pulse_heights("ph256", start_ns, seconds, flashes).items():
            self._writer.append(replace(pulses, module=module))
