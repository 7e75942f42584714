"""Imported by the process that `support.forked` forks: what each child would load anew.

That is what the children import late, and numba's kernels.
"""

import gc
import os
from importlib import import_module

from skywright.instruments import instruments, missing_packages, resolve

LATE = (
    "adbc_driver_duckdb.dbapi",
    "aiosqlite",
    "anyio._backends._asyncio",
    "bluesky.callbacks.best_effort",
    "bluesky.plans",
    "bluesky_tiled_plugins.routers.validator",
    "dashboard.app",
    "databroker",
    "distributed",
    "httpcore",
    "IPython.terminal.ipapp",
    "networkx",
    "obstore",
    "plans.pictures",
    "scipy.interpolate",
    "skimage.draw",
    "skimage.morphology",
    "skywright.callbacks.live",
    "skywright.cli.catalog",
    "skywright.cli.dashboard",
    "skywright.cli.demo",
    "skywright.cli.doctor",
    "skywright.cli.reprocess",
    "skywright.cli.session",
    "skywright.cli.up",
    "skywright.instruments.epu.cli_watch",
    "skywright.instruments.loop.detect",
    "skywright.instruments.loop.dhs.service",
    "skywright.instruments.sacla.process_workers",
    "skywright.instruments.sacla.sources.sim",
    "skywright.processes.http_server",
    "skywright.session.profile",
    "skywright.session.results",
    "skywright.session.steps",
    "skywright.store.documents",
    "skywright.store.probe",
    "skywright.store.routes",
    "tiled.adapters.sql",
    "tiled.adapters.zarr",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
)
"""Modules that the main ones import when they need them. None may start a thread, as ophyd does."""

for name in LATE:
    import_module(name)
kernels = []
for instrument in instruments().values():
    if not missing_packages(instrument):
        kinds = [analysis.kind for analysis in instrument.analyses.values()]
        for name in (instrument.commands, *kinds, *instrument.views):
            resolve(name)
        kernels += [resolve(kernel) for kernel in instrument.kernels]
# Code that a process has compiled itself can differ in the last bit from what all others load from
# the cache. So another process compiles what the cache does not have.
if (compiler := os.fork()) == 0:
    try:
        for kernel in kernels:
            kernel()
    finally:  # what fails here fails below too
        os._exit(0)
os.waitpid(compiler, 0)
for kernel in kernels:
    kernel()
# A child's garbage collection need not go through all this, and copy its memory by doing so.
gc.collect()
gc.freeze()
