"""The catalog: `cat` (tiled) and `db` (databroker), both sorted by start time.

A run is there some tens of milliseconds after its end; `stored(uid)` awaits it.
"""

if stack.tiled_uri:
    from functools import partial

    from skywright.profile import await_run
    from skywright.store.client import broker, catalog, connect

    tiled = connect(stack.tiled_uri, settings=settings)
    cat = catalog(tiled)
    db = broker(tiled)
    stored = partial(await_run, cat, settings.directory)
