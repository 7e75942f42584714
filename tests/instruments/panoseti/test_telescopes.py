"""Positions and pointing of the telescopes of a run."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skywright.instruments.panoseti.rundir import Telescope, open_run_directory, telescopes_of
from skywright.instruments.panoseti.telescopes import (
    RunTelescopes,
    baselines_m,
    flash_parameters,
    telescopes_in,
    telescopes_text,
)

RUN = "obs_Lick.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd"


def telescope(module, latitude, longitude=-121.6, altitude=None):
    return Telescope(module, "", "", latitude, longitude, altitude, None, None, None)


def test_baselines_are_distances_on_the_ellipsoid():
    # A second of arc of the meridian is 30.9 m; at 60 degrees one of longitude is half of that.
    north = [telescope(1, 45.0), telescope(2, 45.0 + 1 / 360), telescope(3, 45.0, altitude=40)]
    assert baselines_m(north)[1, 2] == pytest.approx(308.7, abs=0.3)
    assert baselines_m(north)[1, 3] == pytest.approx(40.0, abs=1e-3)
    east = [telescope(9, 60.0, 10.0), telescope(7, 60.0, 10.0 + 1 / 360)]
    assert baselines_m(east)[7, 9] == pytest.approx(155.0, abs=0.3)


def test_modules_of_one_dome_and_without_a_position_have_no_baseline():
    modules = [telescope(1, 45.0), telescope(2, 45.0), telescope(3, None), telescope(4, 45.1, None)]
    assert baselines_m(modules) == {}
    assert flash_parameters({"panoseti_run_name": "x"}) == {}


def test_the_real_domes_are_hundreds_of_meters_apart(test_data):
    found = telescopes_in(open_run_directory(test_data / "panoseti/data_dir" / RUN))
    parameters = flash_parameters({"panoseti_telescopes": telescopes_text(found)})
    ((first, second, meters),) = parameters["baselines_m"]
    assert (first, second) == (1, 3)
    assert 200 < meters < 2000


@pytest.mark.parametrize("unknown", ["TBD", "nan", float("nan"), float("-inf")])
def test_an_angle_that_is_no_number_is_unknown_and_named(caplog, unknown):
    module = {"name": "T1", "ip_addr": "192.168.0.4", "azimuth": unknown, "elevation": "79.5"}
    dome = {"obslat": [1], "obslon": -121, "modules": [module]}
    (found,) = telescopes_of({"domes": [dome]})
    assert (found.azimuth_deg, found.elevation_deg, found.latitude_deg) == (None, 79.5, None)
    assert f"obs_config.json: azimuth of 'T1' is {unknown!r}" in caplog.text
    assert baselines_m([found]) == {}


ODD_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.just(10**400),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values),
    max_leaves=4,
)


@given(odd=ODD_JSON, key=st.sampled_from(["name", "obslat", "azimuth", "ip_addr", "modules"]))
def test_a_dome_or_module_that_is_none_costs_no_other(odd, key):
    modules = [{"ip_addr": "192.168.0.4"}, odd, {"ip_addr": "1.1.1.\u00b2"}, {key: odd}]
    last = {"obslat": 10**400, "modules": [{key: odd, "ip_addr": "192.168.0.8"}]}
    domes = [{"modules": modules}, odd, {"modules": odd}, {key: odd}, last]
    assert [each.module for each in telescopes_of({"domes": domes})] == [1, 2]
    for config in (odd, {"domes": odd}):
        assert telescopes_of(config) == []


def test_the_configuration_is_read_again_when_it_changes(tmp_path):
    run = tmp_path / "obs_a.pffd"
    run.mkdir()
    telescopes = RunTelescopes(tmp_path)
    assert telescopes.of("") == telescopes.of("obs_a.pffd") == {}
    module = {"name": "T1", "ip_addr": "192.168.0.4"}
    for directory in (run, tmp_path):  # files beside the runs belong to no run
        (directory / "obs_config.json").write_text(json.dumps({"domes": [{"modules": [module]}]}))
    assert telescopes.of("") == {}
    assert telescopes.of("obs_a.pffd")[1].name == "T1"
    assert telescopes.of("obs_b.pffd") == {}
    (run / "obs_config.json").write_text('{"domes": null}')
    assert telescopes.of("obs_a.pffd") == {}
