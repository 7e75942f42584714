"""What the tests of live analyses share."""

from support.live import camera, start  # noqa: F401
