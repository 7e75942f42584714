"""The page's one reader of the catalog, while tiled goes and comes back."""

import asyncio
from pathlib import Path

import pytest
from store.stack import running_stack
from support.page import settings_of

from dashboard.catalog import Catalog
from dashboard.views.state import count_runs
from skywright.errors import ConfigError

LIMIT_S = 120.0


@pytest.mark.soak
def test_it_listens_again_when_tiled_is_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        with running_stack(tmp_path) as stack:
            stack.client()
            catalog = Catalog(settings_of(tmp_path, stack.uri, stack.key, tmp_path))
            following = asyncio.create_task(catalog.follow())
            changes = catalog.changes()
            while not catalog.subscribed:
                await anext(changes)
            assert await catalog.ask(count_runs) == (0, 0)
            stack.server.kill()
            while catalog.subscribed:
                await anext(changes)
            with pytest.raises(ConfigError, match="tiled"):
                await catalog.ask(count_runs)
            await asyncio.to_thread(stack.start_server)
            while not catalog.subscribed:
                await anext(changes)
            assert await catalog.ask(count_runs) == (0, 0)
            following.cancel()
            catalog.close()

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))
