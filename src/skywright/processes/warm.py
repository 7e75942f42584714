"""Compile every numba kernel into its cache, before beam: ``python -m skywright.processes.warm``.

`make install` does it, so that no session, test or demo waits for a compiler.
"""

import logging
import multiprocessing
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from skywright.instruments import instruments, missing_packages, resolve
from skywright.processes.lifecycle import END_SIGNALS

logger = logging.getLogger(__name__)


def main() -> None:
    """Run everything that is compiled once, on small input, on two cores; a signal ends it.

    The exit status is 1 if kernels of any function are not compiled.
    """
    for number in END_SIGNALS:
        signal.signal(number, stop)
    # No kernel is in two functions: of one that two processes compile, either may spoil the cache.
    installed = [each for each in instruments().values() if not missing_packages(each)]
    targets = [target for instrument in installed for target in instrument.kernels]
    failed = False
    with ProcessPoolExecutor(2, initializer=end_by_signals) as pool:
        for target, done in [(target, pool.submit(warm_up, target)) for target in targets]:
            try:
                done.result()
            except BrokenProcessPool:  # somebody has ended our children: a signal, no memory
                logger.error("%s: kernels are not compiled: the compiler's process died", target)
                sys.exit(1)
            except Exception as error:  # kernels of the others are compiled all the same
                logger.error("%s: kernels are not compiled: %s", target, error)
                failed = True
    sys.exit(failed)


def stop(number: int, _frame: object) -> None:
    """End this process and its children, which may be in the compiler for a minute more."""
    for child in multiprocessing.active_children():
        child.kill()
    sys.exit(128 + number)


def end_by_signals() -> None:
    """Let signals end this child at once, also while the compiler works."""
    for number in END_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def warm_up(target: str) -> None:
    """Call the function that ``module:function`` names."""
    resolve(target)()


if __name__ == "__main__":
    main()
