"""Double of SACLA's ``dbpy``: the database of runs, tags and synchronized values."""

from skywright.instruments.sacla.facility.link import APIError, Link

__all__ = [
    "APIError",
    "read_config_photonenergy_in_keV",
    "read_detidlist",
    "read_end_tagnumber",
    "read_equiplist",
    "read_hightagnumber",
    "read_runnumber_newest",
    "read_runstatus",
    "read_start_tagnumber",
    "read_syncdatalist",
    "read_syncdatalist_float",
    "read_taglist",
    "read_taglist_bydetid",
    "read_taglist_byrun",
    "read_tagnumber_newest",
]

_link = Link()


def read_runnumber_newest(bl: int) -> int:
    """Return the number of the newest run of a beamline."""
    return int(_link.call("read_runnumber_newest", bl))


def read_runstatus(bl: int, run: int) -> int:
    """Return the status of a run: -1 none yet, 0 stopped, 1 paused, 2 running."""
    return int(_link.call("read_runstatus", bl, run))


def read_hightagnumber(bl: int, run: int) -> int:
    """Return the high tag of a run."""
    return int(_link.call("read_hightagnumber", bl, run))


def read_start_tagnumber(bl: int, run: int) -> tuple[int, int]:
    """Return (high tag, low tag) of the first shot of a run."""
    high, low = _link.call("read_start_tagnumber", bl, run)
    return high, low


def read_end_tagnumber(bl: int, run: int) -> tuple[int, int]:
    """Return (high tag, low tag) of the last shot of a run that has ended."""
    high, low = _link.call("read_end_tagnumber", bl, run)
    return high, low


def read_taglist_byrun(bl: int, run: int) -> tuple[int, ...]:
    """Return the low tags of a run."""
    return tuple(_link.call("read_taglist_byrun", bl, run))


def read_taglist(bl: int, hightag: int, first: int, last: int) -> tuple[int, ...]:
    """Return the low tags from `first` to `last`."""
    return tuple(_link.call("read_taglist", bl, hightag, first, last))


def read_taglist_bydetid(bl: int, run: int, detid: str) -> tuple[int, ...]:
    """Return the low tags of a run at which a detector has an image."""
    return tuple(_link.call("read_taglist_bydetid", bl, run, detid))


def read_tagnumber_newest(equipment: str) -> tuple[int, int]:
    """Return (high tag, low tag) of the newest value of an equipment."""
    high, low = _link.call("read_tagnumber_newest", equipment)
    return high, low


def read_detidlist(bl: int, run: int) -> tuple[str, ...]:
    """Return the ids of the detectors of a run."""
    return tuple(_link.call("read_detidlist", bl, run))


def read_equiplist() -> tuple[str, ...]:
    """Return the ids of all equipment."""
    return tuple(_link.call("read_equiplist"))


def read_syncdatalist(
    equipment: str, hightag: int, tags: tuple[int, ...]
) -> tuple[str | None, ...]:
    """Return the values of an equipment as text with a unit; None or empty: no value."""
    return tuple(_link.call("read_syncdatalist", equipment, hightag, _checked(tags)))


def read_syncdatalist_float(
    equipment: str, hightag: int, tags: tuple[int, ...]
) -> tuple[float, ...]:
    """Return the values of an equipment as numbers; NaN: no value."""
    return tuple(_link.call("read_syncdatalist_float", equipment, hightag, _checked(tags)))


def read_config_photonenergy_in_keV(bl: int, run: int) -> float:
    """Return the photon energy that is configured for a run, keV."""
    return float(_link.call("read_config_photonenergy_in_keV", bl, run))


def _checked(tags: tuple[int, ...]) -> tuple[int, ...]:
    if not isinstance(tags, tuple):
        raise TypeError(f"tags: expected a tuple of int, not {type(tags).__name__}")
    return tags
