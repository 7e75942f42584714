"""Caches FastAPI's analysis of the dependencies of a function.

The one module that touches private names of ``fastapi.dependencies``. FastAPI 0.163 reads the
signatures of all dependencies of a request anew, each time and at each level, as soon as an
application overrides one of them; tiled overrides its settings. That was a third of the
processor time of a request that reads metadata.
"""

from functools import wraps
from typing import Any

from fastapi.dependencies import utils
from fastapi.dependencies.models import Dependant


def remember_dependencies() -> None:
    """Have all applications of this process analyze the dependencies of a function once."""
    get_dependant = utils.get_dependant
    known: dict[Any, Dependant] = {}

    @wraps(get_dependant)
    def remembered(**arguments: Any) -> Dependant:
        key = tuple(
            (name, tuple(value) if isinstance(value, list) else value)
            for name, value in sorted(arguments.items())
        )
        if key not in known:
            known[key] = get_dependant(**arguments)
        return known[key]

    utils.get_dependant = remembered
