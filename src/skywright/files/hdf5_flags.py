"""HDF5 files whose writer was killed: make them ordinary files again.

A writer sets consistency flags in the superblock of its file and clears them when it closes it.
After SIGKILL they stay, and every reader but a SWMR one refuses the file. The layout of the
superblock, versions 2 and 3, is from the HDF5 File Format Specification, section II.A; its checksum
is Bob Jenkins' lookup3 with initial value 0.
"""

import logging
import os
import signal
import struct
from dataclasses import dataclass
from pathlib import Path

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SEARCHED = (0, 512, 1024, 2048, 4096, 8192)
"""Offsets where a superblock may start: after a user block of a power of two."""
_VERSION, _OFFSET_SIZE, _FLAGS, _ADDRESSES = 8, 9, 11, 12
_MASK = 0xFFFFFFFF

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Superblock:
    """The part of a superblock that a dead writer leaves wrong."""

    start: int
    """Offset in the file, bytes."""
    data: bytes
    """The superblock without its checksum."""

    @property
    def flags(self) -> int:
        """Consistency flags: 1 open for writing, 4 for SWMR writing; 0 in a closed file."""
        return self.data[_FLAGS]

    @property
    def end(self) -> int:
        """Length of the file as its writer saw it, bytes; not kept up to date during SWMR."""
        return int.from_bytes(self.data[self._end_at], "little")

    @property
    def _end_at(self) -> slice:
        width = self.data[_OFFSET_SIZE]
        return slice(_ADDRESSES + 2 * width, _ADDRESSES + 3 * width)  # after two other addresses

    def closed(self, size: int) -> bytes:
        """Return superblock and checksum of the file as closed with `size` bytes."""
        data = bytearray(self.data)
        data[_FLAGS] = 0
        data[self._end_at] = max(self.end, size).to_bytes(self.data[_OFFSET_SIZE], "little")
        return bytes(data) + struct.pack("<I", lookup3(bytes(data)))


def read_superblock(path: Path) -> Superblock | None:
    """Return the superblock of an HDF5 file with consistency flags, None for any other file."""
    with path.open("rb") as file:
        for start in SEARCHED:
            file.seek(start)
            head = file.read(12)
            if len(head) < 12:
                return None
            if head.startswith(SIGNATURE):
                break
        else:
            return None
        if head[_VERSION] not in (2, 3):
            return None
        data = head + file.read(4 * head[_OFFSET_SIZE])
        stored = file.read(4)
    if len(stored) < 4 or struct.unpack("<I", stored)[0] != lookup3(data):
        return None  # half written or damaged: not ours to touch
    return Superblock(start, data)


def has_writer(path: Path) -> bool | None:
    """Tell whether any process of this machine has `path` open for writing; None: cannot know.

    The kernel grants a read lease only on a file that no process has open for writing. HDF5's own
    lock is no help: it is given up when SWMR starts. Leases do not exist on every network file
    system, and not for other users' files; then nothing is known.
    """
    import fcntl  # readers of files import this module where there is none

    with path.open("rb") as file:
        # A writer that opens the file now breaks the lease; by default its signal would end this
        # process.
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except BlockingIOError:
            return True
        except OSError:
            return None
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def clear_flags(path: Path) -> bool:
    """Clear the consistency flags of an HDF5 file whose writer died; return whether it did so.

    A file that somebody still writes, or of which this cannot be known, is left alone: SWMR
    readers open it all the same.

    Raises
    ------
    OSError
        When the file cannot be read or written.
    """
    superblock = read_superblock(path)
    if superblock is None or not superblock.flags:
        return False
    writer = has_writer(path)
    if writer is not False:
        why = "it is written" if writer else "nobody can tell whether it is written"
        log.info("%s: consistency flags are left as they are: %s", path, why)
        return False
    with path.open("r+b") as file:
        file.seek(superblock.start)
        file.write(superblock.closed(path.stat().st_size))
        file.flush()
        os.fsync(file.fileno())
    log.warning("%s: its writer died; the file is closed now", path)
    return True


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _MASK


def lookup3(data: bytes) -> int:
    """Return Bob Jenkins' ``hashlittle`` (lookup3, 2006) of `data` with initial value 0."""
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    if not data:
        return c
    last = (len(data) - 1) // 12 * 12
    for at in range(0, last, 12):
        x, y, z = struct.unpack_from("<3I", data, at)
        a, b, c = _mix((a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK)
    x, y, z = struct.unpack("<3I", data[last:].ljust(12, b"\0"))
    return _finish((a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK)


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for bits in (4, 6, 8, 16, 19, 4):
        # One line of the published function; the roles of a, b and c go round.
        a = ((a - c) & _MASK) ^ _rotate(c, bits)
        c = (c + b) & _MASK
        a, b, c = b, c, a
    return a, b, c


def _finish(a: int, b: int, c: int) -> int:
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _rotate(b, bits)) & _MASK
        a, b, c = b, c, a
    return b
