"""Wait for the devices; name what does not answer, and start without it."""

import atexit
import logging
from functools import partial

from skywright.session.context import live_analyses
from skywright.session.ending import finish_runs, run_console
from skywright.session.profile import find_devices, make_listdevs, silent_pvs

listdevs = make_listdevs(globals())

for _device, _pvs in silent_pvs(find_devices(globals()).values()).items():
    logging.getLogger("skywright.session.profile").error(
        "%s: no answer from %d PVs, the first is %s; look at `skywright doctor`",
        _device,
        len(_pvs),
        _pvs[0],
    )

_analyses = live_analyses(globals())
# The last to be registered is called first: Channel Access and the workers still run then
atexit.register(finish_runs, RE, _analyses)
if "get_ipython" in globals():  # a script starts only the workers that its runs need
    for _analysis in _analyses:
        _analysis.start()
    if hasattr(get_ipython(), "mainloop"):  # a terminal
        get_ipython().mainloop = partial(run_console, get_ipython())
