"""What can be seen of a watched EPU directory, by reading alone: nothing is put."""

from dataclasses import dataclass, field
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device, EpicsSignalRO

from devices.camera_view import read_facts


@dataclass(frozen=True)
class EpuFacts:
    """What the IOC says at one moment.

    Attributes
    ----------
    directory, state, message
        The directory; ``Scanning``, ``Watching`` or ``Stopped``; what it says for people.
    micrographs
        Micrographs of the directory in the database.
    orphans, late
        Micrographs whose hole is not recorded; those that have waited for long.
    duplicates, unreadable, queue
        Holes with several manifests; files that cannot be read; files that wait.
    rate, latency
        New micrographs per second; seconds from file to database of the last one.
    suggestion, overview
        As `skywright.instruments.epu.decisions.decider` makes them.
    """

    directory: str = ""
    state: str = ""
    message: str = ""
    micrographs: float = 0
    orphans: float = 0
    late: float = 0
    duplicates: float = 0
    unreadable: float = 0
    queue: float = 0
    rate: float = 0.0
    latency: float = 0.0
    suggestion: dict[str, Any] = field(default_factory=dict)
    overview: dict[str, Any] = field(default_factory=dict)


class EpuView(Device):
    """Counts, troubles, the suggestion, and the present grid.

    Parameters
    ----------
    prefix
        Prefix of the PVs, with its colon.
    """

    directory = Cpt(EpicsSignalRO, "ROOT", string=True)
    state = Cpt(EpicsSignalRO, "STATE", string=True)
    message = Cpt(EpicsSignalRO, "MESSAGE", string=True)
    micrographs = Cpt(EpicsSignalRO, "N_MICROGRAPH")
    orphans = Cpt(EpicsSignalRO, "N_ORPHAN")
    late = Cpt(EpicsSignalRO, "N_LATE")
    duplicates = Cpt(EpicsSignalRO, "N_DUPLICATE")
    unreadable = Cpt(EpicsSignalRO, "N_UNREADABLE")
    queue = Cpt(EpicsSignalRO, "QUEUE")
    rate = Cpt(EpicsSignalRO, "RATE")
    latency = Cpt(EpicsSignalRO, "LATENCY")
    suggestion = Cpt(EpicsSignalRO, "SUGGESTION", string=True)
    overview = Cpt(EpicsSignalRO, "OVERVIEW", string=True)

    def facts(self, timeout_s: float = 2.0) -> EpuFacts:
        """Read what the IOC says.

        Raises
        ------
        TimeoutError
            If it does not answer.
        """
        return read_facts(self, EpuFacts, timeout_s)
