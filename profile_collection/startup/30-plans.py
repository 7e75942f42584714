"""The plans of the configured instruments, some of bluesky's, and its plan stubs as `bps`."""

import bluesky.plan_stubs as bps
from bluesky.plans import count, grid_scan, list_scan, rel_scan, scan

from plans.pictures import take_pictures, watch_camera
from skywright.session.context import find_plans
from skywright.session.results import show_results

_plans = find_plans(settings)
globals().update(_plans)
if "get_ipython" in globals() and hasattr(get_ipython(), "display_formatter"):  # no stand-in
    show_results(get_ipython(), _plans.values())
