"""Pictures of half a turn, for a DHS."""

from functools import cache

from support.loop_pictures import turned

LIMIT_S = 120.0


@cache
def pictures() -> list[bytes]:
    """Return half a turn, as files."""
    return [turned(2.0 * i).jpeg() for i in range(90)]
