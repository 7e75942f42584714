"""A reprocessing of which every stream must succeed."""

from typing import Any

from support.waiting import until

from skywright.errors import DataError
from skywright.store import reprocess as reprocess_module
from skywright.store.client import ANALYSIS
from skywright.store.reprocess import Reprocessed


def wait_until_stored(client: Any, uid: str, limit_s: float = 60.0) -> Any:
    """Wait until a derived run has a stop document in the catalog; return it."""
    until(lambda: uid in client[ANALYSIS], limit_s, f"derived run {uid} in the catalog")
    runs = client[ANALYSIS]
    until(lambda: runs[uid].metadata.get("stop"), limit_s, f"the end of derived run {uid}")
    return runs[uid]


def reprocess(run: Any, name: str, *parameters: Any, **options: Any) -> list[Reprocessed]:
    """Analyze a stored run again as `reprocess_each`, and raise the first failure of a stream."""
    done = []
    for result in reprocess_module.reprocess_each(run, name, *parameters, **options):
        if isinstance(result, DataError):
            raise result
        done.append(result)
    return done
