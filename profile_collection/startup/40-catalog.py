"""The catalog: `cat` (tiled) and `db` (databroker), both sorted by start time.

A run is there a moment after its end; `stored(uid)` awaits it, and shows how many runs wait before
it. `tiled_key()` prints the key that opens tiled's page.
"""

if stack.tiled_uri:
    import atexit

    from skywright.session.profile import await_run, print_key, report_waiting, with_first
    from skywright.store.client import broker, catalog, connect

    tiled = connect(stack.tiled_uri, settings=settings)
    cat = catalog(tiled)
    db = broker(tiled)
    stored = with_first(await_run, cat, settings.directory)
    tiled_key = with_first(print_key, settings.directory)
    atexit.register(report_waiting, settings.directory)
    if "get_ipython" in globals() and hasattr(get_ipython(), "Completer"):  # no stand-in
        from skywright.session.completion import complete_items

        complete_items(get_ipython(), cat, db)  # cat[-1].<Tab>
