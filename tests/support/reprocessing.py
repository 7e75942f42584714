"""A reprocessing of which every stream must succeed."""

from typing import Any

from skywright.errors import DataError
from skywright.store import reprocess as reprocess_module
from skywright.store.reprocess import Reprocessed


def reprocess(run: Any, name: str, *parameters: Any, **options: Any) -> list[Reprocessed]:
    """Analyze a stored run again as `reprocess_each`, and raise the first failure of a stream."""
    done = []
    for result in reprocess_module.reprocess_each(run, name, *parameters, **options):
        if isinstance(result, DataError):
            raise result
        done.append(result)
    return done
