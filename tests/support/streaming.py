"""A camera without EPICS: frames, numbers and times go to a SWMR file, documents tell of them."""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from event_model import compose_stream_resource
from numpy.typing import NDArray
from ophyd.status import Status

from skywright.files.columns import Column, ColumnWriter

NUMBER = "/entry/instrument/NDAttributes/NDArrayUniqueId"
TIME = "/entry/instrument/NDAttributes/NDArrayTimeStamp"
PICTURE = "/entry/data/data"
Picture = Callable[[int], NDArray[np.uint8]]


def noise(identity: int, shape: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """A picture that its number determines."""
    return np.random.default_rng(identity).integers(0, 256, shape, dtype=np.uint8)


class FrameFile:
    """The file of a camera, in areaDetector's layout."""

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = [Column(PICTURE, "|u1", shape, rows_per_chunk=1), Column(TIME, "<f8")]
        self.path = path
        self.shape = shape
        self.count = 0
        self._writer = ColumnWriter(path, columns, Column(NUMBER, "<i4"))

    def append(self, identity: int, picture: NDArray[np.uint8], flush: bool = True) -> None:
        self._writer.append(identity, {PICTURE: picture, TIME: 1e9 + 0.01 * identity})
        self.count += 1
        if flush:
            self._writer.flush()

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class StreamingCamera:
    """Triggerable, Readable, Flyable, WritesStreamAssets; each stage opens a new file."""

    parent = None
    hints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        name: str,
        directory: Path,
        picture: Picture = noise,
        *,
        first: int = 1,
        burst: int = 20,
    ) -> None:
        self.name = name
        self.directory = directory
        self.picture = picture
        self.shape = picture(first).shape
        self.burst = burst
        self.numbers: Iterator[int] = itertools.count(first)
        self.file: FrameFile | None = None
        self.flush = True
        self._files = 0
        self._bundles: list[Any] = []
        self._rows_emitted = 0

    def stage(self) -> list[Any]:
        self._files += 1
        path = self.directory / f"{self.name}_{time.time_ns()}_{self._files}.h5"
        self.file = FrameFile(path, self.shape)
        self._bundles, self._rows_emitted = [], 0
        return [self]

    def unstage(self) -> list[Any]:
        assert self.file is not None
        self.file.close()
        return [self]

    def _take(self) -> None:
        assert self.file is not None
        number = next(self.numbers)
        self.file.append(number, self.picture(number), self.flush)

    def trigger(self) -> Status:
        self._take()
        done = Status()
        done.set_finished()
        return done

    def _keys(self) -> dict[str, tuple[str, list[int], str]]:
        return {
            f"{self.name}_image": (PICTURE, list(self.shape), "|u1"),
            f"{self.name}_frame_number": (NUMBER, [], "<i4"),
            f"{self.name}_frame_time": (TIME, [], "<f8"),
        }

    def describe(self) -> dict[str, Any]:
        return {
            key: {
                "source": f"TEST:{key}",
                "dtype": "array" if shape else "number",
                "shape": shape,
                "dtype_numpy": dtype,
                "external": "STREAM:",
            }
            for key, (_, shape, dtype) in self._keys().items()
        }

    def read(self) -> dict[str, Any]:
        return {}

    def describe_configuration(self) -> dict[str, Any]:
        return {}

    def read_configuration(self) -> dict[str, Any]:
        return {}

    def get_index(self) -> int:
        return self.file.count if self.file else 0

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, Any]]:
        stop = self.get_index() if index is None else index
        if stop == self._rows_emitted:
            return
        if not self._bundles:
            assert self.file is not None
            for key, (dataset, shape, _) in self._keys().items():
                chunk = [1, *shape] if shape else [1024]
                bundle = compose_stream_resource(
                    mimetype="application/x-hdf5",
                    uri=f"file://localhost{self.file.path}",
                    data_key=key,
                    parameters={"dataset": dataset, "chunk_shape": chunk, "swmr": True},
                )
                self._bundles.append(bundle)
                yield "stream_resource", bundle.stream_resource_doc
        for bundle in self._bundles:
            indices = {"start": self._rows_emitted, "stop": stop}
            yield "stream_datum", bundle.compose_stream_datum(indices)
        self._rows_emitted = stop

    # Flyable: a burst of frames at once

    def kickoff(self) -> Status:
        for _ in range(self.burst):
            self._take()
        done = Status()
        done.set_finished()
        return done

    def complete(self) -> Status:
        done = Status()
        done.set_finished()
        return done

    def describe_collect(self) -> dict[str, Any]:
        return self.describe()
