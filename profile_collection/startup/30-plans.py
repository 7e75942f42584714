"""The plans, ours and those of bluesky that are used here, and bluesky's stubs as `bps`."""

import bluesky.plan_stubs as bps
from bluesky.plans import count, grid_scan, list_scan, rel_scan, scan

from plans.loop_calibration import calibrate_camera
from plans.loop_centering import center_loop, collect_oscillation, collect_steps
from plans.loop_face import loop_raster_box, rotate_to_face_on
from plans.pictures import take_pictures, watch_camera
from plans.spectrum import (
    acquire_spectra,
    calibrate_energy_axis,
    optimize_spectrum,
    record_pulses,
    scan_spectra,
    take_background,
)
