"""``python patient_page.py dashboard ...``: the live page, with patience on a busy machine.

A page that waits for tiled for 10 s answers 503, and the browser complains of that. Whoever tests
something else must not depend on how busy the machine is.
"""

from dashboard import catalog
from skywright.cli import main

if __name__ == "__main__":
    catalog.WAIT_S = 120.0
    main()
