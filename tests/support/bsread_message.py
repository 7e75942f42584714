"""A single message of bsread."""

from collections.abc import Mapping
from typing import Any

from skywright.wire.bsread_compression import Compression
from skywright.wire.bsread_encoder import Encoder


def encode(
    pulse_id: int,
    time_ns: int | None,
    channels: Mapping[str, Any],
    *,
    compression: Compression = "none",
    header_compression: Compression = "none",
) -> list[Any]:
    """Return its frames."""
    return Encoder(compression, header_compression).encode(pulse_id, time_ns, channels)
