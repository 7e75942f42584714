"""The API as ``skywright.instruments.epu.api.asgi:app``, for an ASGI server of one's own.

``SKYWRIGHT_EPU_DATABASE`` names the database (default: ``epu.sqlite`` in the working directory) and
``SKYWRIGHT_EPU_BROKER``, or RABBITMQ_HOST and its companions, the broker.
"""

import os

from skywright.instruments.epu.api.app import create_app
from skywright.instruments.epu.broker.connection import broker_settings
from skywright.instruments.epu.broker.publisher import Publisher
from skywright.instruments.epu.database import open_database

__all__ = ["app"]

_settings = broker_settings(os.environ.get("SKYWRIGHT_EPU_BROKER"))
_database = open_database(
    os.environ.get("SKYWRIGHT_EPU_DATABASE", "epu.sqlite"), announce=_settings is not None
)
app = create_app(_database, Publisher(_database, _settings) if _settings is not None else None)
