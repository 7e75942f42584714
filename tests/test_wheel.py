"""The wheel has everything inside skywright, so that a site's own packages keep their names."""

import json
import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from support.wheel import ROOT, build_wheel, make_site

from skywright.rooms import INSIDE, ROOMS, importable, startup_files

EVERYTHING = """
import json
import pkgutil
import sys
from importlib import import_module

import skywright
from skywright.instruments import instruments, resolve
from skywright.rooms import ROOMS

for room in ROOMS[:-1]:
    for each in pkgutil.walk_packages(import_module(f"skywright.{room}").__path__, f"skywright.{room}."):
        if not each.name.endswith("__main__"):
            import_module(each.name)
declared = [
    target
    for each in instruments().values()
    for target in (each.devices, *each.plans, *each.views)
]
modules = {resolve(target).__module__ for target in declared if hasattr(resolve(target), "__module__")}

from skywright.dashboard.site import PAGES

for template in ("run.html", "dashboard.psss:psss.html", "dashboard.sacla:sacla.html"):
    PAGES.get_template(template)
import plans

print(json.dumps({
    "skywright": skywright.__file__,
    "outside": sorted(name for name in modules if not name.startswith("skywright.")),
    "declared": len(declared),
    "plans": plans.MARK,
    "taken": sorted({"devices", "iocs", "dashboard"} & sys.modules.keys()),
}))
"""  # noqa: E501

PICTURES = """
import json
import sys

import plans

(uid,) = RE(take_pictures(axis, 2)).run_start_uids
shape = stored(uid)["primary/axis_image"].read().shape
print(json.dumps({"shape": shape, "plans": plans.MARK, "devices": axis.__class__.__module__}))
"""


def python(site: Path, *words: str, cwd: Path, **environment: str) -> str:
    """Run Python with what is installed in `site`, and the libraries of this environment."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(site), **environment},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def test_the_old_clients_wheel_has_its_old_name_only(tmp_path: Path) -> None:
    with ZipFile(build_wheel(tmp_path, ROOT / "compat" / "psss_processing")) as archive:
        names = [name for name in archive.namelist() if "dist-info" not in name]
        archive.extractall(tmp_path / "site")
    assert names == ["psss_processing/__init__.py"]
    code = "from psss_processing import PsssProcessingClient as c; print(c().get_address())"
    said = python(tmp_path / "site", "-c", code, cwd=tmp_path)
    assert said == "http://sf-daqsync-02:12000/\n"


def test_make_wheel_builds_both() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "wheel"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--wheel-dir dist . ./compat/psss_processing\n" in done.stdout


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(wheel, tmp_path_factory.mktemp("site"))


def test_the_wheel_has_one_package(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"skywright"}
    assert len(set(names)) == len(names)
    in_checkout = {
        path.relative_to(root).as_posix()
        for root in (ROOT, ROOT / "src" / "skywright")
        for room in (ROOMS if root == ROOT else ["."])
        for path in (root / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name.removeprefix("skywright/") for name in names if "dist-info" not in name} == (
        in_checkout
    )


def test_everything_is_found_beside_packages_of_the_same_names(site: Path, tmp_path: Path) -> None:
    found = json.loads(python(site, "-c", EVERYTHING, cwd=tmp_path))
    assert found.pop("declared") > 20
    assert found == {
        "skywright": str(site / "skywright" / "__init__.py"),
        "outside": [],
        "plans": "of the site",
        "taken": [],
    }
    for module in ("skywright.iocs.goniometer", "skywright.iocs.psss"):
        assert "RBV" in python(site, "-m", module, "--list-pvs", cwd=tmp_path)


@pytest.mark.soak  # a minute: a new installation compiles its kernels
def test_a_session_from_the_wheel_takes_pictures(site: Path, tmp_path: Path) -> None:
    """`up` starts the IOCs, the start-up files make devices and plans, tiled has the pictures."""
    script, config = tmp_path / "mine.py", tmp_path / "skywright.toml"
    script.write_text(PICTURES)
    config.write_text('[iocs.axis]\nmodule = "iocs.axis"\nprefix = "AXIS1:"\n')
    command = ("-m", "skywright.cli", "session", "--config", str(config), str(script))
    store = {"SKYWRIGHT_STORE__DIRECTORY": str(tmp_path / "store")}
    line = python(site, *command, cwd=tmp_path, **store).splitlines()[-1]
    found = json.loads(line)
    assert found["shape"][0] == 2
    assert found["plans"] == "of the site"
    assert found["devices"].startswith("skywright.devices.")


def test_in_a_checkout_a_module_has_two_names_and_is_one() -> None:
    import skywright.plans.pictures as inside

    from plans import pictures

    assert inside is pictures
    assert pictures.__spec__ is not None
    assert pictures.__spec__.name == "plans.pictures"
    with pytest.raises(ModuleNotFoundError, match=r"skywright\.plans\.nothing"):
        __import__("skywright.plans.nothing")
    names = [sys.executable, "-m", "skywright.iocs.goniometer", "--list-pvs"]
    assert "RBV" in subprocess.run(names, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("name", "here", "in_a_wheel"),
    [
        ("iocs.axis", "iocs.axis", "skywright.iocs.axis"),
        ("skywright.iocs.axis", "iocs.axis", "skywright.iocs.axis"),
        ("plans.loop.face:f", "plans.loop.face:f", "skywright.plans.loop.face:f"),
        ("skywright.store.server", "skywright.store.server", "skywright.store.server"),
        ("bpm.ioc", "bpm.ioc", "bpm.ioc"),
        ("plans_of_a_site.x", "plans_of_a_site.x", "plans_of_a_site.x"),
    ],
)  # fmt: skip
def test_a_name_in_a_string(
    name: str, here: str, in_a_wheel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert importable(name) == here
    for room in ROOMS:
        (tmp_path / room).mkdir()
    monkeypatch.setattr("skywright.rooms.INSIDE", tmp_path)
    assert importable(name) == in_a_wheel
    assert startup_files() == tmp_path / "profile_collection" / "startup"


def test_the_build_knows_the_same_packages() -> None:
    text = (ROOT / "tools" / "wheel_rooms.py").read_text()
    assert f"ROOMS = {ROOMS!r}".replace("'", '"') in text
    assert not any((INSIDE / room).exists() for room in ROOMS)
