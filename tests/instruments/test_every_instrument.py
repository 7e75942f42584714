"""What holds for every declared instrument, ours and those of other packages that are installed."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
from ioc_process import IocProcess
from support import forked
from support.ready_process import ended_after
from typer.testing import CliRunner

from skywright.analysis.named import analysis_class
from skywright.config import IocSettings, Settings, StoreSettings
from skywright.instruments import Instrument, instruments, missing_packages, resolve
from skywright.section import Section

INSTRUMENTS = [
    pytest.param(instrument, id=name)
    for name, instrument in instruments().items()
    if not missing_packages(instrument)
]
every = pytest.mark.parametrize("instrument", INSTRUMENTS)


def targets(instrument: Instrument) -> list[str]:
    """Return every string of the declaration that names an object."""
    analyses = instrument.analyses.values()
    return [
        target
        for target in (
            instrument.settings,
            instrument.devices,
            instrument.commands,
            *instrument.plans,
            *instrument.views,
            *instrument.kernels,
            *instrument.readers.values(),
            *(analysis.kind for analysis in analyses),
            *(analysis.configured for analysis in analyses),
        )
        if target
    ]


@every
def test_every_name_of_the_declaration_exists(instrument: Instrument) -> None:
    for target in targets(instrument):
        assert callable(resolve(target)) or target in (*instrument.views, instrument.commands)
    for name in instrument.analyses:
        assert analysis_class(name).name == name


@every
def test_the_extra_exists(instrument: Instrument) -> None:
    known = metadata(instrument.package).get_all("Provides-Extra") or []
    assert not instrument.extra or instrument.extra in known


@every
def test_settings_have_defaults_and_refuse_unknown_keys(instrument: Instrument) -> None:
    if not instrument.settings:
        pytest.skip("this instrument has no settings")
    model = resolve(instrument.settings)
    assert issubclass(model, Section)
    assert getattr(Settings(), instrument.name) == model()
    with pytest.raises(ValueError, match="no_such_key"):
        model(no_such_key=1)
    for analysis in instrument.analyses.values():
        assert not analysis.settings or isinstance(getattr(model(), analysis.settings), dict)


@every
def test_demos_start_iocs_that_are_declared(instrument: Instrument) -> None:
    modules = {ioc.module for ioc in instrument.iocs.values()}
    for target in instrument.demos.values():
        demo = resolve(f"{target}:iocs")()
        assert {ioc.module for ioc in demo.values()} <= modules
        assert callable(resolve(f"{target}:run"))


@every
def test_views_are_views_of_the_page(instrument: Instrument) -> None:
    from dashboard.views import View

    for target in instrument.views:
        view = resolve(target)
        assert isinstance(view, View)
        assert view.path in [route.path for route in view.routes]  # type: ignore[attr-defined]


@every
def test_every_command_has_help(instrument: Instrument) -> None:
    if not instrument.commands:
        pytest.skip("this instrument has no commands")
    app: typer.Typer = resolve(instrument.commands)
    names = [command.name for command in app.registered_commands]
    functions = [command.callback for command in app.registered_commands]
    for name, function in zip(names, functions, strict=True):
        assert function is not None
        words = [name or function.__name__.replace("_", "-"), "--help"]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        assert result.stdout.strip()


@every
def test_iocs_list_their_pvs(instrument: Instrument) -> None:
    for ioc in instrument.iocs.values():
        command = [sys.executable, "-m", ioc.module, "--prefix", "T:X1:", "--list-pvs"]
        done = forked.run(command, capture_output=True, text=True, timeout=60, check=True)
        pvs = done.stdout.split()
        assert pvs
        assert len(set(pvs)) == len(pvs)
        assert [pv for pv in pvs if not pv.startswith("T:X1:")] == []


def test_declarations_and_configuration_import_nothing_heavy() -> None:
    code = (
        "import sys; from skywright.config import Settings; Settings();"
        "print([name for name in ('numpy', 'h5py', 'numba', 'ophyd', 'bluesky', 'caproto',"
        " 'epics', 'tiled', 'typer') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stdout


# ---- with the instrument's IOCs


class Beamline:
    """The simulated IOCs of one instrument, and its devices."""

    def __init__(self, instrument: Instrument, store: Path, stack: ExitStack) -> None:
        from skywright.session.context import SessionContext, make_devices

        declared = {
            name: IocSettings(module=ioc.module, prefix=ioc.prefix, args=ioc.args)
            for name, ioc in instrument.iocs.items()
        }
        settings = Settings(prefix="EVERY:", store=StoreSettings(directory=store))
        self.settings = settings.model_copy(update={"iocs": declared})  # without the others
        self.iocs = {
            name: stack.enter_context(
                ended_after(
                    IocProcess(
                        ioc.module,
                        *self.settings.ioc_args(name),
                        prefix=self.settings.pv_prefix(name),
                    )
                )
            )
            for name, ioc in declared.items()
        }
        self._stack = stack
        self.devices = make_devices(SessionContext(self.settings))
        for device in self.devices.values():
            device.wait_for_connection(timeout=90)

    def restart(self, name: str) -> None:
        """Start a killed IOC again and wait until the devices are connected to it."""
        self.iocs[name] = self._stack.enter_context(ended_after(self.iocs[name].again()))
        for device in self.devices.values():
            device.wait_for_connection(timeout=60)

    def flyers(self) -> list[Any]:
        """Return the devices that fly and have rows to collect; skip the test if there are none."""
        from bluesky.protocols import Collectable, Flyable

        found = [
            device
            for device in self.devices.values()
            if isinstance(device, Flyable) and isinstance(device, Collectable)
        ]
        if not found:
            pytest.skip("only parts of this instrument's devices fly, in plans of its own")
        return found


@pytest.fixture(scope="module", params=INSTRUMENTS)
def beamline(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Beamline]:
    if not request.param.iocs or not request.param.devices:
        pytest.skip("this instrument has no IOC or no devices")
    with ExitStack() as stack:
        yield Beamline(request.param, tmp_path_factory.mktemp("store"), stack)


class Documents:
    """Keeps the documents of runs."""

    def __init__(self) -> None:
        self.all: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        self.all.append((name, document))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [document for name, document in self.all if name == kind]

    def rows(self) -> dict[str, int]:
        """Return how far the rows of each resource go; each begins where the last one ended."""
        ends: dict[str, int] = {}
        for datum in self.of("stream_datum"):
            indices = datum["indices"]
            assert indices["start"] == ends.get(datum["stream_resource"], 0)
            ends[datum["stream_resource"]] = indices["stop"]
        return ends


def test_devices_stage_and_describe_themselves(beamline: Beamline) -> None:
    for device in beamline.devices.values():
        device.stage()
        try:
            assert device.describe_configuration().keys() == device.read_configuration().keys()
            device.describe()
        finally:
            device.unstage()


def test_devices_fly_and_go_on_after_a_pause(beamline: Beamline) -> None:
    from bluesky import RunEngine
    from bluesky.utils import RunEngineInterrupted

    from plans.pictures import watch_camera

    for device in beamline.flyers():
        engine, documents = RunEngine(), Documents()
        engine.subscribe(documents)
        timer = threading.Timer(0.7, engine.request_pause)
        timer.start()
        with pytest.raises(RunEngineInterrupted):
            engine(watch_camera(device, 2.0))
        timer.join()
        engine.resume()
        (stop,) = documents.of("stop")
        assert stop["exit_status"] == "success", stop
        ends = documents.rows()
        assert len(ends) == len(documents.of("stream_resource"))
        assert min(ends.values()) > 0
        assert len(set(ends.values())) == 1, "columns of one file have the same number of rows"


def test_a_killed_ioc_ends_the_run_with_its_reason(beamline: Beamline) -> None:
    from bluesky import RunEngine

    from plans.pictures import watch_camera

    for device in beamline.flyers():
        engine, documents = RunEngine(), Documents()
        engine.subscribe(documents)
        name = next(
            name for name, ioc in beamline.iocs.items() if device.prefix.startswith(ioc.prefix)
        )
        timer = threading.Timer(1.0, beamline.iocs[name].process.kill)
        timer.start()
        with pytest.raises(Exception, match=device.name):
            engine(watch_camera(device, 30.0))
        timer.join()
        (stop,) = documents.of("stop")
        assert stop["exit_status"] == "fail"
        assert device.name in stop["reason"]
        beamline.restart(name)  # the tests run in any order
