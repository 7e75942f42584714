"""The packages beside ``src/skywright``, under the name that they have here.

In a checkout they are packages of their own: ``iocs``, ``devices``, ``plans`` ... A wheel has them
inside skywright, so that they collide with no package of the site: ``skywright.iocs`` ... What
names a module in a string says ``iocs.axis``, wherever it runs; `importable` gives the name to
import. A script that is to run with both imports ``skywright.plans``: in a checkout that is another
name of ``plans``.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import InspectLoader, Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType

ROOMS = ("iocs", "devices", "plans", "dashboard", "profile_collection")
"""Packages that stand beside ``src`` in a checkout."""
PACKAGES = ("skywright", *ROOMS)
"""All our top-level packages."""
INSIDE = Path(__file__).parent
"""Directory that has them in a wheel."""


def importable(name: str) -> str:
    """Return the name under which a module is importable here.

    Parameters
    ----------
    name
        Of a module, ``iocs.axis`` or ``skywright.iocs.axis``, or of what is in one,
        ``plans.psss.spectrum:scan_spectra``.

    Returns
    -------
    str
        ``skywright.iocs.axis`` where skywright was installed from a wheel. `name` itself in a
        checkout, and for modules that are not in one of our packages.
    """
    own = name.removeprefix(f"{__package__}.")
    room = own.partition(":")[0].partition(".")[0]
    if room not in ROOMS:
        return name
    return f"{__package__}.{own}" if (INSIDE / room).is_dir() else own


def startup_files() -> Path:
    """Return the directory of the session's start-up files that belong to skywright."""
    beside = INSIDE if (INSIDE / "profile_collection").is_dir() else INSIDE.parents[1]
    return beside / "profile_collection" / "startup"


class _OtherName(Loader):
    """Gives a module of a checkout that has been imported under its own name."""

    def __init__(self, own: ModuleSpec) -> None:
        self.own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return import_module(self.own.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.own  # the import system has replaced it

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the code of the module, for ``python -m``."""
        loader = self.own.loader
        return loader.get_code(self.own.name) if isinstance(loader, InspectLoader) else None


class _OtherNames(MetaPathFinder):
    """Finds ``skywright.plans`` and what is in it in a checkout."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        room = name.partition(".")[0]
        if package != __package__ or room not in ROOMS or (INSIDE / room).is_dir():
            return None
        own = find_spec(name)
        if own is None:
            return None
        is_package = own.submodule_search_locations is not None
        return ModuleSpec(fullname, _OtherName(own), origin=own.origin, is_package=is_package)


def name_rooms() -> None:
    """Let ``skywright.plans`` be another name of ``plans``, the others alike; for checkouts."""
    if not any(isinstance(finder, _OtherNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OtherNames())
