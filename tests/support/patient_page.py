"""``python patient_page.py dashboard ...``: the live page with a longer time limit for tiled.

A page answers 503 when tiled has not answered for 10 s, and the browser logs this as an error.
Tests of other things must also pass on a busy machine.
"""

from dashboard import catalog
from skywright.cli import main

if __name__ == "__main__":
    catalog.WAIT_S = 120.0
    main()
