"""Imported by the process that `support.forked` forks: what each child would load anew.

That is what the children import late, and numba's kernels.
"""

import gc
from importlib import import_module

from skywright.instruments import instruments, missing_packages, resolve

LATE = (
    "adbc_driver_duckdb.dbapi",
    "aiosqlite",
    "bluesky_tiled_plugins.routers.validator",
    "dashboard.app",
    "httpcore",
    "skywright.cli.dashboard",
    "skywright.store.documents",
    "skywright.store.probe",
    "skywright.store.routes",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
)
"""Modules of the servers and of the page that their main modules do not import."""

for name in LATE:
    import_module(name)
for instrument in instruments().values():
    if not missing_packages(instrument):
        for kernel in instrument.kernels:
            resolve(kernel)()
# A child's garbage collection need not go through all this, and copy its memory by doing so.
gc.collect()
gc.freeze()
