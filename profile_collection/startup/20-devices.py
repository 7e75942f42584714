"""The devices of all configured instruments, each under its own name."""

from skywright.session.context import make_devices

globals().update(make_devices(context))
