"""An IOC whose owner follows a raw file that another program writes, and indexes its records."""

import argparse
import asyncio
import threading
from pathlib import Path
from typing import Any

from caproto import ChannelType
from caproto.server import PVGroup, SubGroup
from support.raw_format import RECORD_BYTES, TIME, index

from iocs.areadetector import readback
from iocs.common import argument_parser, post, run
from iocs.owner import OwnerGroup
from iocs.recording import RecorderPlugin
from skywright.acquire.index_layout import IndexLayout
from skywright.acquire.owner import Owner
from skywright.acquire.recorder import Recorder
from skywright.acquire.source import PolledSource


class Tail(PolledSource[Any]):
    """Yields the records that a raw file has got since the last time."""

    def __init__(self, path: Path) -> None:
        super().__init__("raw")
        self.path, self.seen = path, 0
        self.opened, self._ended = threading.Event(), threading.Event()

    def open(self) -> None:
        self._ended.clear()
        self.seen = self._count()
        self.opened.set()

    def next(self, timeout_s: float) -> Any:
        count = self._count()
        if count == self.seen:
            self._ended.wait(0.02)
            return None
        first, self.seen = self.seen, count
        return index(self.path, first, count - first, at=first)

    def halt(self) -> None:
        self._ended.set()

    def _count(self) -> int:
        return self.path.stat().st_size // RECORD_BYTES if self.path.exists() else 0


class RawIOC(OwnerGroup):
    """The PVs."""

    rows = SubGroup(RecorderPlugin, prefix="HDF1:")
    message = readback("", ChannelType.CHAR, max_length=1024, name="MESSAGE")

    def __init__(self, prefix: str, path: Path) -> None:
        super().__init__(prefix)
        self.recorder: Recorder[Any, Any] = Recorder(
            IndexLayout(extra=(TIME,)), changed=self.wake_posting
        )
        self.tail = Tail(path)
        self.owner = Owner(self.tail, recorders=[self.recorder], changed=self.wake_posting)
        self.rows.recorder = self.recorder

    async def serving(self) -> None:
        self.owner.acquire()
        # The first heartbeat says that rows which are appended from now on are seen.
        await asyncio.to_thread(self.tail.opened.wait)
        await self._post_forever(0.02, 1.0)

    async def _post(self) -> None:
        await post(self.message, self.owner.state().message)
        await self.rows.post_state()

    async def post_error(self, message: str) -> None:
        await post(self.message, message)

    def close(self) -> None:
        self.owner.close()
        self.recorder.close()


def build(args: argparse.Namespace) -> tuple[PVGroup, dict[str, Any]]:
    return RawIOC(args.prefix, args.path), {}


if __name__ == "__main__":
    parser = argument_parser(__doc__ or "", "RAW:")
    parser.add_argument("--path", type=Path, required=True)
    run(build, parser)
