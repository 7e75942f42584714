"""An acquisition over Channel Access into tiled: rows, live analysis, the same numbers again."""

from typing import Any

import numpy as np
from bluesky import RunEngine
from ioc_process import running_ioc
from store.stack import Stack
from support.limits import ALL_FRAMES
from support.reprocessing import reprocess, wait_until_stored

from devices.psss.spectrometer import Psss
from plans.psss.spectrum import acquire_spectra
from skywright.callbacks.journal import Journal
from skywright.callbacks.live import LiveAnalysis
from skywright.store.client import RAW
from skywright.store.export import export_run
from skywright.store.lookup import derived_runs
from skywright.store.pulses import PulseRows
from skywright.store.results import last_result
from skywright.store.show import view_run

WIDTH, PULSES = 320, 150


def test_every_pulse_is_in_tiled_and_analyzed_alike(RE: RunEngine, stack: Stack) -> None:
    store = stack.directory
    live = LiveAnalysis(
        "psss_spectra", {}, journal=stack.journals, assets=store / "assets", limits=ALL_FRAMES
    )
    try:
        # The run takes 3 s, so that the axis changes within it on a busy machine too.
        arguments = ("--size", f"{WIDTH}x240", "--seed", "2", "--rate", "50")
        with running_ioc("iocs.psss", *arguments) as ioc:
            psss = Psss(ioc.prefix, assets=store / "assets", name="psss")
            psss.wait_for_connection(timeout=60)
            journal = Journal(stack.journals)
            RE.subscribe(journal)
            RE.subscribe(live)
            live.wait_ready()
            axis = np.linspace(8980.0625, 9019.9375, WIDTH)

            def change_once(name: str, doc: dict[str, Any]) -> None:
                """Another axis, in the middle of the run."""
                if name == "stream_datum":
                    RE.unsubscribe(token)
                    psss.spectrum_x.put(axis + 100.0, wait=False)

            token = RE.subscribe(change_once)
            with stack.ingester():
                uid = RE(acquire_spectra(psss, PULSES)).plan_result
                done = live.wait(raw_uid=uid)
                assert done.error == ""
                stack.done(uid)
                stack.done(done.derived_uid or "")
                (again,) = reprocess(stack.client()[RAW][uid], "psss_spectra", store=store)
                wait_until_stored(stack.client(), again.derived_uid)
            journal.close()
    finally:
        live.close()
    raw = stack.client()[RAW][uid]
    rows = {key: raw[f"primary/psss_{key}"].read() for key in ("pulse_id", "spectrum", "center")}
    assert rows["spectrum"].shape == (PULSES, WIDTH)
    assert (np.diff(rows["pulse_id"]) > 0).all()
    runs = derived_runs(stack.client(), uid)
    assert {run.metadata["start"]["uid"] for run in runs} == {done.derived_uid, again.derived_uid}
    parameters = [run.metadata["start"]["analysis"]["parameters"] for run in runs]
    assert parameters[0] == parameters[1]
    assert (parameters[0]["columns"], parameters[0]["rows"]) == (WIDTH, 240)
    assert parameters[0]["settings"].endswith(".settings.h5")
    settings = {key: raw[f"settings/psss_settings_{key}"].read() for key in ("number", "axis")}
    assert len(settings["number"]) == 2
    np.testing.assert_allclose(np.diff(settings["axis"], axis=0), 100.0)
    numbers = raw["primary/psss_settings_number"].read()
    assert set(numbers) == set(settings["number"])
    assert raw["settings/psss_settings_background_name"].read().tolist() == [b"", b""]
    results = [last_result(run) for run in runs]
    for result in results:  # how it came about
        del result["pictures"], result["update_number"]
    assert results[0].keys() == results[1].keys()
    for key, value in results[0].items():
        np.testing.assert_array_equal(value, results[1][key], err_msg=key)
    assert results[0]["n_pulses"] == PULSES
    # What the analysis finds in a stored spectrum is what the IOC found in the pulse.
    columns = [run["pulses/center"].read() for run in runs]
    np.testing.assert_array_equal(columns[0], columns[1])
    np.testing.assert_array_equal(columns[0], rows["center"])
    assert np.ptp(rows["center"]) > 80.0
    wanted = rows["pulse_id"][40:60]
    pulses = PulseRows(raw)
    found = pulses.between(int(wanted[0]), int(wanted[-1]) + 1, ("spectrum", "center"))
    assert found["pulse_id"].tolist() == wanted.tolist()
    np.testing.assert_array_equal(found["spectrum"], rows["spectrum"][40:60])
    assert len(pulses.between(0, 10)["pulse_id"]) == 0
    view_run(stack.client(), raw)
    for format in ("nexus", "csv", "zarr"):  # names of backgrounds are text in files
        export_run(raw, stack.directory / f"exported-{format}", format)
    assert raw.validate(fix_errors=False, raise_on_error=True)
