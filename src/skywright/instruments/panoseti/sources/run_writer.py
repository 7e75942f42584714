"""Write one run after the other into a data directory, as Hashpipe writes them."""

import json
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from skywright.errors import HardwareError
from skywright.instruments.panoseti.clock import NS
from skywright.instruments.panoseti.frames import Frames
from skywright.instruments.panoseti.housekeeping import FILE_NAME as HOUSEKEEPING
from skywright.instruments.panoseti.pff_writer import PffWriter
from skywright.instruments.panoseti.products import PRODUCTS, RunName, start_token
from skywright.instruments.panoseti.rundir import MARKERS


class RunWriter:
    """The files of the runs of a data directory; not thread-safe.

    Parameters
    ----------
    data_dir
        Data directory of a node; it is made.
    name
        Observatory and type of the runs; their start is the present time.
    buffered
        Write in Hashpipe's steps; else each append is visible at once.
    max_file_bytes
        As of `PffWriter`.

    Attributes
    ----------
    run
        Name of the newest run directory; empty before the first one.
    """

    def __init__(
        self, data_dir: Path, name: RunName, buffered: bool = False, max_file_bytes: int = 0
    ) -> None:
        self.data_dir = data_dir
        self.run = ""
        self._name = name
        self._buffer_bytes = None if buffered else 0
        self._max_file_bytes = max_file_bytes
        self._start_ns = 0
        self._writers: dict[tuple[int, str], PffWriter] = {}
        data_dir.mkdir(parents=True, exist_ok=True)

    @property
    def directory(self) -> Path:
        """Where configuration and markers of the newest run are."""
        return self.data_dir / self.run

    def begin(self, modules: Iterable[int], configs: Mapping[str, Any]) -> str:
        """Make the directories and the empty files of a run; return its name.

        Parameters
        ----------
        modules
            That get files of every product at once; others get theirs with their first frames.
        configs
            JSON files of the run, by name without ending.

        Raises
        ------
        HardwareError
            If they cannot be made.
        """
        self._start_ns = time.time_ns()
        while (self.data_dir / (run := self._run_name())).exists():
            self._start_ns += NS  # names have whole seconds
        self.run = run
        try:
            self.directory.mkdir(parents=True)
            for name, config in configs.items():
                (self.directory / f"{name}.json").write_text(json.dumps(config))
            for module in modules:
                self._open(module)
        except OSError as error:
            raise HardwareError(f"{self.data_dir}: {error}") from error
        return run

    def append(self, frames: Frames) -> None:
        """Append frames to the file of their module and product.

        Raises
        ------
        OSError
            If that cannot be written.
        """
        if not len(frames):
            return
        key = frames.module, frames.product.name
        if key not in self._writers:
            self._open(frames.module)
        self._writers[key].append(frames.numbers, frames.image, frames.quabo)

    def append_housekeeping(self, objects: Mapping[str, Mapping[str, str]]) -> None:
        """Append objects to ``hk.pff``, by their keys.

        Raises
        ------
        OSError
            If that cannot be written.
        """
        with (self.directory / HOUSEKEEPING).open("a") as file:
            for key, values in objects.items():
                file.write(json.dumps({key: values}) + "\n\n")

    def end(self, extra: Mapping[str, Any] | None = None) -> str:
        """Close the files and set the marker of a run that is recorded.

        Parameters
        ----------
        extra
            Further JSON files, by name without ending.

        Returns
        -------
        str
            What could not be written; empty when all was.
        """
        trouble = []
        for writer in self._writers.values():
            try:
                writer.close()
            except OSError as error:
                trouble.append(f"{writer.path}: {error}")
        self._writers.clear()
        try:
            for name, config in (extra or {}).items():
                (self.directory / f"{name}.json").write_text(json.dumps(config))
            (self.directory / MARKERS[0]).write_text(time.strftime("%Y-%m-%dT%H:%M:%S"))
        except OSError as error:
            trouble.append(f"{self.directory}: {error}")
        return "; ".join(trouble)

    def _run_name(self) -> str:
        start = start_token(self._start_ns)
        return str(RunName(self._name.observatory, start, self._name.run_type))

    def _open(self, module: int) -> None:
        directory = self.data_dir / f"module_{module}" / self.run
        directory.mkdir(parents=True)
        for product in PRODUCTS.values():
            self._writers[module, product.name] = PffWriter(
                directory, product, module, self._start_ns, self._max_file_bytes, self._buffer_bytes
            )


class RunTaker:
    """Base class of sources that write one run after the other to a data directory, on a thread.

    A subclass begins the writer's run in `_begin`, and ends it at the end of `_work`.

    Parameters
    ----------
    writer
        Of the runs.
    thread_name
        Name of the thread.

    Attributes
    ----------
    error
        Why the newest run could not be written; empty when it could.
    """

    stop_s = 10.0
    """Longest time until a run has ended."""

    def __init__(self, writer: RunWriter, thread_name: str) -> None:
        self.data_dir = writer.data_dir
        self.error = ""
        self._writer = writer
        self._thread_name = thread_name
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
        run = self._begin()
        self.error = ""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._work, name=self._thread_name, daemon=True)
        self._thread.start()
        return run

    def stop(self) -> None:
        """End the run: all of it is in its files, and its marker is there.

        Raises
        ------
        HardwareError
            If it does not end within `stop_s`, for instance because the disk does not answer.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(self.stop_s)
            if self._thread.is_alive():
                raise HardwareError(f"the run {self._writer.run} does not end; try again")
            self._thread = None

    def _begin(self) -> str:
        """Make the directories and files of a run; return its name."""
        raise NotImplementedError

    def _work(self) -> None:
        """Take the run until `_stopping` is set, and end it."""
        raise NotImplementedError
