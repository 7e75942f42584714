"""Settings of the C library's memory allocation, for processes that run for weeks."""

import ctypes
import sys
from contextlib import suppress

ARENAS = "MALLOC_ARENA_MAX"
"""Environment variable that has the effect of `share_arenas` in a child process."""
M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3
"""Option numbers of glibc's malloc.h."""
LARGE_ARRAY_BYTES = 1 << 18


def share_arenas() -> None:
    """Let the threads of this process share two heaps, for servers that run for weeks.

    Limit glibc to two malloc arenas. Otherwise each thread has its own heap and freed image buffers
    are not returned to the system. Call this before numpy is imported: the import starts threads,
    and heaps that exist already stay.
    """
    _call_glibc("mallopt", M_ARENA_MAX, 2)


def return_large_arrays() -> None:
    """Give the memory of each array of 256 KiB and more back to the system when it is freed.

    For processes that make many images and masks for a moment and keep others. By default glibc
    raises this threshold up to 32 MB after the first large free; long-lived images then fragment
    the heap. The price is a page fault per 4 kB of each such array.
    """
    _call_glibc("mallopt", M_MMAP_THRESHOLD, LARGE_ARRAY_BYTES)


def trim_heaps() -> None:
    """Give memory that is free inside the heaps back to the system; this takes milliseconds.

    For processes that make and free many small arrays beside some that stay. By default glibc gives
    back only what is free at the end of a heap.
    """
    _call_glibc("malloc_trim", 0)


def _call_glibc(name: str, *arguments: int) -> None:
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # another C library
            getattr(ctypes.CDLL(None), name)(*arguments)
