"""Plans back to back, for ``skywright session``: the soak test runs this script.

``soak_session.py SECONDS``. Each plan that an IOC's end has failed is followed by the next one.
"""

import itertools
import sys
import threading
import time

for analysis in (loop_detection, psss_spectra):  # noqa: F821
    analysis.wait_ready(120.0)
end = time.monotonic() + float(sys.argv[1])
pause = threading.Event()
plans = itertools.cycle(
    [
        lambda: take_pictures(axis, 5),  # noqa: F821
        lambda: acquire_spectra(psss, 100),  # noqa: F821
        lambda: watch_camera(axis, 1.0),  # noqa: F821
        lambda: acquire_spectra(psss, 50),  # noqa: F821
    ]
)
for plan in plans:
    if time.monotonic() > end:
        break
    try:
        RE(plan())  # noqa: F821
    except Exception as error:
        sys.stderr.write(f"plan failed: {type(error).__name__}: {error}\n")
        if RE.state != "idle":  # noqa: F821
            RE.abort()  # noqa: F821
        pause.wait(1.0)  # the IOC is started again
