"""Declarations are found, and a faulty one stops none of the others."""

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

import skywright.instruments as module
from skywright.instruments import Instrument, Ioc, instruments, missing_packages, resolve

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs a package with an entry point, for this test."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "instruments", instruments.__wrapped__)

    def write(name: str, code: str, requires: str = "") -> None:
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(code)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}"
        )
        (info / "entry_points.txt").write_text(
            f"[skywright.instruments]\n{name} = {name}:INSTRUMENT\n"
        )

    return write


DECLARED = "from skywright.instruments import Instrument, Ioc\nINSTRUMENT = Instrument({})\n"


def test_those_of_skywright_are_found() -> None:
    assert {"loop", "psss"} <= set(instruments())


def test_one_of_another_package_is_found_by_its_entry_point(install: Install) -> None:
    install("polarimeter", DECLARED.format("name='polarimeter', title='Polarimeter'"))
    found = module.instruments()
    assert set(found) == {*instruments(), "polarimeter"}
    assert found["polarimeter"].package == "polarimeter"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        ("INSTRUMENT = 3", "found int"),
        ("raise SystemError('x')", "x"),
        (DECLARED.format("name='faulty', title='', iocs=None"), "not iterable"),
        (DECLARED.format("name=7, title=''"), "expected string"),
        (DECLARED.format("name='loop', title=''"), "another instrument has the name loop"),
        (DECLARED.format("name='Two words', title=''"), "'Two words'"),
        (
            DECLARED.format("name='faulty', title='', iocs={'psss': Ioc('m', 'P:')}"),
            "iocs psss: the instrument psss has these names",
        ),
    ],
)
def test_a_faulty_one_is_reported_and_left_out(
    install: Install, caplog: pytest.LogCaptureFixture, code: str, why: str
) -> None:
    install("faulty", code)
    with caplog.at_level(logging.ERROR):
        assert set(module.instruments()) == set(instruments())
    (message,) = caplog.messages
    assert "faulty" in message
    assert why in message


def test_packages_of_the_extra_that_are_absent_are_named(install: Install) -> None:
    requires = (
        "Provides-Extra: it\n"
        "Requires-Dist: numpy\n"
        "Requires-Dist: absent-package; extra == 'it'\n"
        "Requires-Dist: h5py; extra == 'it'\n"
        "Requires-Dist: another; extra == 'other'\n"
    )
    install("polarimeter", DECLARED.format("name='polarimeter', title='', extra='it'"), requires)
    assert missing_packages(module.instruments()["polarimeter"]) == ["absent-package"]


def test_packages_of_an_extra_of_skywright_that_are_absent_are_named(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == "grpcio":
            raise metadata.PackageNotFoundError(name)
        return metadata.version(name)

    monkeypatch.setattr("skywright.packages.version", version)
    requires = "Provides-Extra: it\nRequires-Dist: skywright[panoseti]; extra == 'it'\n"
    install("polarimeter", DECLARED.format("name='polarimeter', title='', extra='it'"), requires)
    assert missing_packages(module.instruments()["polarimeter"]) == ["grpcio"]


def test_resolve_imports_an_attribute() -> None:
    assert resolve("skywright.instruments:Ioc") is Ioc
    with pytest.raises(AttributeError):
        resolve("skywright.instruments:nothing")
    with pytest.raises(ImportError):
        resolve("skywright.nothing:at_all")


def test_a_declaration_does_not_change() -> None:
    instrument = Instrument("a", "A")
    with pytest.raises(AttributeError):
        instrument.name = "b"  # type: ignore[misc]
    assert replace(instrument, name="b").title == "A"
