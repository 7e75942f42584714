"""The agent: sends what a watcher records to an API elsewhere, and takes instructions from there.

The watcher records into a database of its own, opened with ``announce=True``, so that each change
is also a row of the outbox, in the same transaction. The agent empties that outbox towards the API.
So nothing is lost while the network is away or when a process dies, and the watcher never waits.

It needs the extra ``agent`` only, and runs on Windows.
"""

from skywright.instruments.epu.agent.agent import Agent
from skywright.instruments.epu.agent.client import ApiClient, ApiSettings

__all__ = ["Agent", "ApiClient", "ApiSettings"]
