"""The store: journals go in, tiled shows them. Only this package writes to tiled."""

import os

# tiled's client reads these when it is imported. By default its calls block for 45 s and more while
# the server is away. Here the ingester has a loop of its own, and a person needs the error at once.
# Where tiled was imported before, `skywright.store.client` sets them.
RETRY_ATTEMPTS = os.environ.setdefault("TILED_RETRY_ATTEMPTS", "2")
RETRY_TIMEOUT_S = os.environ.setdefault("TILED_RETRY_TIMEOUT", "2")
