"""Double of SACLA's ``olpy``: images in the online ring buffer."""

from skywright.instruments.sacla.facility.images import NEWEST as NEWESTTAG
from skywright.instruments.sacla.facility.images import APIError, StorageBuffer, StorageReader

__all__ = ["NEWESTTAG", "APIError", "StorageBuffer", "StorageReader"]
