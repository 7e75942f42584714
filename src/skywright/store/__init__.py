"""The store: journals go in, tiled shows them. Only this package writes to tiled."""

import os

# tiled's client reads these when it is imported, and by default stalls its caller for 45 s and
# more when the server is away. Nothing here waits for tiled that way: the ingester has its own
# patience, and a person wants the error. (`skywright.store.client` sees to it where tiled was
# imported before.)
RETRY_ATTEMPTS = os.environ.setdefault("TILED_RETRY_ATTEMPTS", "2")
RETRY_TIMEOUT_S = os.environ.setdefault("TILED_RETRY_TIMEOUT", "2")
