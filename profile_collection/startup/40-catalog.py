"""The catalog: `cat` (tiled) and `db` (databroker), both sorted by start time.

A run is there a moment after its end; `stored(uid)` awaits it, and shows how many runs wait before
it. `tiled_key()` prints the key that opens tiled's page.
"""

if stack.tiled_uri:
    import atexit

    from skywright.session.session_store import SessionStore, connect_for_person
    from skywright.store.client import broker, catalog

    tiled = connect_for_person(settings, stack.tiled_uri)
    cat = catalog(tiled)
    db = broker(tiled)
    _store = SessionStore(cat, settings.directory)
    stored, tiled_key = _store.await_run, _store.print_key
    atexit.register(_store.report_waiting)
    if "get_ipython" in globals() and hasattr(get_ipython(), "Completer"):  # no stand-in
        from skywright.session.completion import complete_items

        complete_items(get_ipython(), cat, db)  # cat[-1].<Tab>
