"""What can be seen of a watched EPU directory; `devices.facts.FactsView` reads it."""

from dataclasses import dataclass, field
from typing import Annotated, Any


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

    directory: Annotated[str, "ROOT"] = ""
    state: Annotated[str, "STATE"] = ""
    message: Annotated[str, "MESSAGE"] = ""
    micrographs: Annotated[float, "N_MICROGRAPH"] = 0
    orphans: Annotated[float, "N_ORPHAN"] = 0
    late: Annotated[float, "N_LATE"] = 0
    duplicates: Annotated[float, "N_DUPLICATE"] = 0
    unreadable: Annotated[float, "N_UNREADABLE"] = 0
    queue: Annotated[float, "QUEUE"] = 0
    rate: Annotated[float, "RATE"] = 0.0
    latency: Annotated[float, "LATENCY"] = 0.0
    suggestion: Annotated[dict[str, Any], "SUGGESTION"] = field(default_factory=dict)
    overview: Annotated[dict[str, Any], "OVERVIEW"] = field(default_factory=dict)
