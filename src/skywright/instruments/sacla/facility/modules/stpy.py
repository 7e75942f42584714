"""Double of SACLA's ``stpy``: images of stored runs."""

from skywright.instruments.sacla.facility.images import APIError, StorageBuffer, StorageReader

__all__ = ["APIError", "StorageBuffer", "StorageReader"]
