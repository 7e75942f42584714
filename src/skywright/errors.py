"""The error tree, sorted by who must act."""

import errno


class SkywrightError(Exception):
    """Base of every error that skywright raises on purpose."""


class SampleError(SkywrightError):
    """The sample is at fault (no loop, lost pin): record it and go on with the next one."""


class HardwareError(SkywrightError):
    """A device is at fault (silent, at a limit, not connected): pause and let a person look."""


class DataError(SkywrightError):
    """A file, message or document is at fault: record it and go on with the next one."""


class ConfigError(SkywrightError):
    """The configuration is at fault (key, port, directory): stop before anything starts."""


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error says that a disk, or the user's part of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def message_of(error: BaseException) -> str:
    """Return the message of an error; the name of its class if it has none."""
    return str(error) or type(error).__name__
