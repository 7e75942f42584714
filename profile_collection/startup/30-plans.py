"""The plans of all instruments, plans of bluesky that are used here, and its stubs as `bps`."""

import bluesky.plan_stubs as bps
from bluesky.plans import count, grid_scan, list_scan, rel_scan, scan

from plans.pictures import take_pictures, watch_camera
from skywright.session.context import find_plans

globals().update(find_plans(settings))
