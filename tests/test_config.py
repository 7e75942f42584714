"""Every wrong configuration is one line that names the file or variable and the key."""

import getpass
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skywright import config
from skywright.config import Settings, load_settings
from skywright.errors import ConfigError
from skywright.instruments import Instrument, Ioc, instruments

IOC = '[iocs.axis]\nmodule = "iocs.axis"\nprefix = "AXIS1:"\n'


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("SKYWRIGHT_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def settings_of(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "my.toml"
    file.write_text(text)
    return load_settings(file)


def test_defaults_run_the_simulated_beamline() -> None:
    settings = load_settings()
    assert settings.pv_prefix("axis") == f"SKY:{getpass.getuser()}:AXIS1:"
    assert settings.pv_prefix() == f"SKY:{getpass.getuser()}:"
    assert settings.directory == Path("~/.local/share/skywright").expanduser().resolve()


def test_example_is_valid_and_says_the_defaults() -> None:
    example = Path(__file__).parents[1] / "examples" / "skywright.toml"
    defaults = Settings()
    settings = load_settings(example)
    assert settings.model_dump() == defaults.model_dump()
    text = example.read_text()
    keys = [*Settings.model_fields, *type(settings.store).model_fields]
    keys += type(settings.iocs["axis"]).model_fields
    assert [key for key in keys if key not in text] == []
    written = tomllib.loads(text)
    sections = {name: getattr(settings, name) for name in instruments() if hasattr(settings, name)}
    assert {
        f"{name}.{key}"
        for name, section in sections.items()
        for key in type(section).model_fields
        if key not in written.get(name, {})
    } == set()


def test_file_in_the_working_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "skywright.toml").write_text('prefix = "BL7:"')
    assert load_settings().prefix == "BL7:"


def test_the_prefixes_of_iocs_can_be_whole(tmp_path: Path) -> None:
    """IOCs of others may have no common part in the names of their PVs."""
    settings = settings_of(tmp_path, 'prefix = ""\n' + IOC.replace("AXIS1:", "SAR-CAM1:"))
    assert settings.pv_prefix("axis") == "SAR-CAM1:"


def test_named_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.toml").write_text('prefix = "BL8:"')
    monkeypatch.setenv("SKYWRIGHT_CONFIG", str(tmp_path / "other.toml"))
    assert load_settings().prefix == "BL8:"


def test_variables_win_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYWRIGHT_STORE__TILED_PORT", "8123")
    monkeypatch.setenv("SKYWRIGHT_STORE__DIRECTORY", str(tmp_path / "there"))
    settings = settings_of(tmp_path, "[store]\ntiled_port = 8000\ndirectory = 'here'")
    assert settings.store.tiled_port == 8123
    assert settings.directory == tmp_path / "there"


def test_one_key_of_a_default_ioc_can_be_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYWRIGHT_IOCS__AXIS__PORT", "6000")
    settings = settings_of(tmp_path, '[iocs.axis]\nargs = ["--fps", "60"]')
    assert settings.iocs["axis"].model_dump() == {
        "module": "iocs.axis",
        "prefix": "AXIS1:",
        "port": 6000,
        "args": ("--fps", "60"),
        "address": "",
    }
    assert load_settings().iocs["axis"].port == 6000


def test_a_file_that_names_iocs_has_those_alone(tmp_path: Path) -> None:
    assert set(settings_of(tmp_path, IOC.replace("axis]", "mine]")).iocs) == {"mine"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[store]\ntiled_port = 99999", r"store\.tiled_port: .*65535 \(got 99999\)"),
        ('[store]\ntiled_port = "x"', r"store\.tiled_port: .*integer.*\(got 'x'\)"),
        ("[store]\ntiled_port = true", r"store\.tiled_port: expected a number .*\(got True\)"),
        (IOC + "port = true", r"iocs\.axis\.port: expected a number .*\(got True\)"),
        (
            '[store]\ntiled_uri = "ftp://x"',
            r"store\.tiled_uri: expected http://HOST:PORT .*\(got 'ftp://x'\)",
        ),
        ('[store]\ntiled_uri = "tiled:8000"', r"store\.tiled_uri: expected http://HOST:PORT"),
        ("[store]\ntild_port = 1", r"store\.tild_port: no such key; did you mean tiled_port\?"),
        ('[iocs.axis]\nprefx = "m"\nprefix = "A:"', r"iocs\.axis\.prefx: .* did you mean prefix\?"),
        ("colour = 1", r"colour: no such key"),
        ('[iocs.two]\nprefix = "A:"', r"iocs\.two\.module: is missing"),
        (IOC.replace("AXIS1:", "AXIS1"), r"iocs\.axis\.prefix: .*colon.*\(got 'AXIS1'\)"),
        (IOC.replace("AXIS1:", ""), r"iocs\.axis\.prefix: .*colon.*\(got ''\)"),
        ('prefix = "BL7"', r"prefix: .*colon.*\(got 'BL7'\)"),
        (IOC.replace("AXIS1:", "A.B:"), r"iocs\.axis\.prefix: .*no dots.*\(got 'A\.B:'\)"),
        ('prefix = "BL 7:"', r"prefix: .*no blanks.*\(got 'BL 7:'\)"),
        (IOC + 'address = "host"', r"iocs\.axis\.address: .*\(got 'host'\)"),
        (IOC.replace("iocs.axis]", "iocs.Axis-1]"), r"iocs\.Axis-1: .*\(got 'Axis-1'\)"),
        (IOC + IOC.replace("s.axis]", "s.two]"), r"iocs\.two\.prefix: the same as .*iocs\.axis"),
        *(
            (f'[services.{name}]\ncommand = ["sleep", "9"]', rf"services\.{name}: .* part of this")
            for name in ("up", "tiled", "ingester", "repeater", "dashboard")
        ),
        (IOC.replace("s.axis]", "s.tiled]"), r"iocs\.tiled: .*part of this name"),
        (f"{IOC}args = '--source sim'", r"iocs\.axis\.args: input should be a list \(got '--sour"),
        ("iocs = 3", r"iocs: .*dictionary.*\(got 3\)"),
        (
            '[loop.detection]\nbackend = "automl"\nurl = "http://a:1"\ntthreshold = 0.1',
            r"loop\.detection: backend automl: tthreshold: no such key; did you mean threshold\?",
        ),
        ('[loop.detection]\nbackend = "automl"', r"loop\.detection: .*url: is missing"),
        ('[loop.detection]\nbackend = "nix"', r"loop\.detection: backend: 'nix', expected one of"),
        (
            '[loop.detection]\nmodel = "a.onnx"',
            r"loop\.detection: backend network: model: no such key; there is none",
        ),
        (
            '[psss.spectra]\nsmoting = "none"',
            r"psss\.spectra: smoting: no such key; did you mean smoothing\?",
        ),
        (
            "[psss.spectra]\nresolution = 0.1",
            r"psss\.spectra: resolution: no such key; did you mean resolution_ev\?",
        ),
        ('[psss.spectra]\nsmoothing = "sawgol"', r"psss\.spectra: smoothing: 'sawgol' is none of"),
        ('[psss.spectra]\naxis = "x"', r"psss\.spectra: axis: .*\(got 'x'\)"),
        ('[psss.spectra]\nresolution_ev = "x"', r"psss\.spectra: resolution_ev: .* number"),
        ("[psss.spectra]\nsaturation = -1", r"psss\.spectra: saturation: -1 is no pixel"),
        (
            "[epu.quality]\nctf_limit = 4.0",
            r"epu\.quality: ctf_limit: no such key; did you mean ctf_limit_a\?",
        ),
        (
            "[epu.quality]\nctf_limit_a = -4.0",
            r"epu\.quality: ctf_limit_a = -4.0, expected above 0",
        ),
        (
            '[epu.quality]\nmotion_limit_a = "far"',
            r"epu\.quality: motion_limit_a: .* valid number, .*\(got 'far'\)$",
        ),
        (
            "[panoseti.flashes]\nbaselines_m = [[inf, 1, 2]]",
            r"panoseti\.flashes: baselines_m: cannot convert .*\(got .*inf",
        ),
        (
            "[panoseti.flashes]\nbaselines_m = 3",
            r"panoseti\.flashes: baselines_m: .* a list \(got 3",
        ),
        (
            "[sacla.values]\nlinear = {i0 = 1}",
            r"sacla\.values: linear: i0: .* valid string \(got 1",
        ),
        ('[loop.detection]\nbackend = ["nix"]', r"loop\.detection: backend: .* valid string"),
        ('[sacla.curves]\nregions = "x"', r"sacla\.curves: regions: .* valid integer"),
        ("[sacla.curves]\nedges = [1, 1]", r"sacla\.curves: edges .*: expected .* that rise"),
        ("[sacla.curves]\nhits = [9, 1]", r"sacla\.curves: hits \[9, 1\]: expected 1 to 7"),
        ("[sacla.values]\nregions = 1000000000000", r"sacla\.values: .* expected 0 to 999"),
        (f"[sacla.curves]\nhits = {[1] * 999}", r"sacla\.curves: hits .{,250}$"),
        (f"[dashboard]\nport = {[1] * 999}", r"dashboard\.port: .* valid integer \(got .{,90}$"),
        (
            "[panoseti.flashes]\nleast_modules = 1",
            r"panoseti\.flashes: .*least_modules 1: expected .* at least 2",
        ),
        ("[sacla.curves]\nregion = 4", r"sacla\.curves: region: no such key; did you mean regions"),
        (
            '[sacla.values]\nlinear = {sum_1000 = "0:1:2"}',
            r"sacla\.values: histogram of 'sum_1000', expected one of",
        ),
        ("prefix = [", r"not TOML: "),
        ("\ufeffprefix = 'A:'", r"not TOML: it begins with a byte order mark"),
    ],
)
def test_wrong_files_are_named_with_the_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        settings_of(tmp_path, text)
    assert str(tmp_path / "my.toml") in str(caught.value)
    assert "Value error" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_iocs_cannot_have_one_port(tmp_path: Path) -> None:
    two = IOC + "port = 5064\n" + IOC.replace("axis]", "two]").replace("AXIS1", "B") + "port = 5064"
    with pytest.raises(ConfigError, match=r"iocs\.two\.port: the same as .*axis\.port \(5064\)"):
        settings_of(tmp_path, two)
    assert len(settings_of(tmp_path, two.replace("5064", "0")).iocs) == 2


@pytest.mark.parametrize(
    ("others", "is_taken"),
    [
        ("[store]\ntiled_port = 5064\n", True),
        ('[store]\ntiled_port = 5064\ntiled_uri = "http://elsewhere:8000"\n', False),
        ("[dashboard]\nport = 5064\nwith_up = true\n", True),
        ("[dashboard]\nport = 5064\n", False),
    ],
)
def test_what_up_starts_cannot_share_a_port(tmp_path: Path, others: str, is_taken: bool) -> None:
    text = IOC + "port = 5064\n" + others
    if is_taken:
        with pytest.raises(ConfigError, match=r"port: the same as iocs\.axis\.port \(5064\)"):
            settings_of(tmp_path, text)
    else:
        settings_of(tmp_path, text)
    settings_of(tmp_path, text.replace(IOC, IOC + 'address = "elsewhere:5064"\n'))


def test_a_histogram_may_be_of_a_region_that_only_the_device_knows(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, '[sacla.values]\nlinear = {sum_40 = "0:1:2"}')
    assert settings.sacla.values == {"linear": {"sum_40": "0:1:2"}}


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SKYWRIGHT_STORE__TILED_PORT", "-1", r"^SKYWRIGHT_STORE__TILED_PORT: .*\(got '-1'\)"),
        ("SKYWRIGHT_STORE__SIZE", "1", r"^SKYWRIGHT_STORE__SIZE: no such key"),
        ("skywright_store__size", "1", r"^skywright_store__size: no such key"),
        (
            "SKYWRIGHT_STORE",
            '{"tiled_port": "x"}',
            r"^SKYWRIGHT_STORE: tiled_port: .*integer.*\(got 'x'\)",
        ),
        ("SKYWRIGHT_STORE__READABLE", "[3]", r"^SKYWRIGHT_STORE__READABLE: 0: "),
        (
            "SKYWRIGHT_IOCS",
            '{"two": {"prefix": "A:"}}',
            r"^SKYWRIGHT_IOCS: two\.module: is missing",
        ),
        ("SKYWRIGHT_IOCS__TWO", '{"prefix": "A:"}', r"^SKYWRIGHT_IOCS__TWO: module: is missing"),
        (
            "SKYWRIGHT_IOCS",
            '{"axis": {"prefix": "PSSS1:"}}',
            r"^iocs\.\w+\.prefix: the same as iocs\.",
        ),
        ("SKYWRIGHT_STORE", "here", r"^SKYWRIGHT_STORE: expected a table as JSON.*\(got 'here'\)"),
        (
            "SKYWRIGHT_STORE__READABLE",
            "/data",
            r"^SKYWRIGHT_STORE__READABLE: expected JSON.*'/data'",
        ),
        (
            "SKYWRIGHT_STOR__DIRECTORY",
            "/data",
            r"^SKYWRIGHT_STOR__DIRECTORY: there is no section \[stor\]; did you mean store\?",
        ),
        ("SKYWRIGHT_CONFIG", "", r"^SKYWRIGHT_CONFIG: is empty"),
        ("SKYWRIGHT_PROFILE", "", r"^SKYWRIGHT_PROFILE: expected a path;.*\(got ''\)"),
        ("SKYWRIGHT_STORE__DIRECTORY", "", r"^SKYWRIGHT_STORE__DIRECTORY: expected a path;"),
        (
            "SKYWRIGHT_STORE__DIRECTORY",
            "/data/run#3",
            r"^SKYWRIGHT_STORE__DIRECTORY: tiled reads no path with '#'.*run#3",
        ),
        ("SKYWRIGHT_STORE__READABLE", '[""]', r"^SKYWRIGHT_STORE__READABLE: 0: expected a path;"),
        ("SKYWRIGHT_STORE__DIRECTORY", "~nobody-at-all/a", r"__DIRECTORY: there is no such home"),
        (
            "SKYWRIGHT_IOCS__TWO__PORT",
            "5099",
            r"^iocs\.two\.module: is missing \(the variable SKYWRIGHT_IOCS__TWO__PORT sets ",
        ),
        ("SKYWRIGHT_CONFIG", "/no/such.toml", r"^/no/such\.toml: no such configuration file"),
    ],
)
def test_wrong_variables_are_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=said):
        load_settings()


def test_a_variable_without_the_wrong_key_is_not_blamed_for_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYWRIGHT_STORE", '{"directory": "here"}')
    with pytest.raises(ConfigError, match=r"my\.toml: store\.tiled_port: "):
        settings_of(tmp_path, '[store]\ntiled_port = "x"')


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("PSSS__SPECTRA__SATURATION", "high", "'high'"),
        ("LOOP__DETECTION__MARGIN", "3", "backend network: no such key"),
        ("LOOP__DETECTION__BACKEND", "lucky", "'lucky', expected one of"),
    ],
)
def test_a_variable_with_a_wrong_parameter_of_an_analysis_is_named(
    key: str, value: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SKYWRIGHT_{key}", value)
    with pytest.raises(ConfigError, match=rf"^SKYWRIGHT_{key}: .*{said}"):
        settings_of(tmp_path, "[metadata]\nsample = 1")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(_: int) -> None:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    settings = load_settings()
    with pytest.raises(ConfigError, match=r"^store\.directory: ~/.*set HOME"):
        _ = settings.directory


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_bytes(b"prefix = '\xff\xfe:'")
    with pytest.raises(ConfigError, match=r"my\.toml: not TOML"):
        load_settings(tmp_path / "my.toml")


@given(login=st.text(min_size=1, max_size=30))
def test_any_login_name_gives_a_legal_prefix(login: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(getpass, "getuser", lambda: login)
        prefix = Settings().pv_prefix("axis")
    body = prefix.removeprefix("SKY:").removesuffix(":AXIS1:")
    assert len(body) == len(login)
    assert all(letter.isascii() and (letter.isalnum() or letter in "_-") for letter in body)


def test_each_instrument_has_its_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYWRIGHT_LOOP__GONIOMETER__PHI", "omega")
    settings = settings_of(tmp_path, '[psss.spectra]\nsmoothing = "none"\n')
    assert settings.loop.goniometer.phi == "omega"
    assert settings.psss.spectra == {"smoothing": "none"}
    with pytest.raises(ConfigError, match=r"loop\.goniometer\.spindle: no such key"):
        settings_of(tmp_path, '[loop.goniometer]\nspindle = "omega"\n')


def test_a_variable_sets_one_parameter_of_an_analysis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYWRIGHT_PSSS__SPECTRA__SATURATION", "4000")
    monkeypatch.setenv("SKYWRIGHT_PSSS__SPECTRA__SMOOTHING", "none")
    assert load_settings().psss.spectra == {"saturation": 4000, "smoothing": "none"}


def test_a_faulty_ioc_of_a_stranger_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    odd: Any = {"bad": Ioc("iocs.odd", "no prefix"), "worse": None, "good": Ioc("iocs.odd", "O:")}
    monkeypatch.setattr(config, "instruments", lambda: {"odd": Instrument("odd", "", iocs=odd)})
    assert list(config._declared_iocs()) == ["good"]
    assert "instrument odd: its IOC bad is left out" in caplog.text
