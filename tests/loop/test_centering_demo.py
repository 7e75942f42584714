"""The demo of loop centering tells why nothing could be run."""

from collections.abc import Callable
from typing import Any

import pytest

from skywright.errors import HardwareError
from skywright.instruments.loop.demos import centering


class RefusingEngine:
    """A RunEngine whose plans refuse before their first run."""

    def subscribe(self, callback: Callable[..., Any], name: str) -> int:
        return 1

    def unsubscribe(self, token: int) -> None:
        pass

    def __call__(self, plan: Any) -> Any:
        plan.close()
        raise HardwareError("GONIO1:phi: no answer")


@pytest.mark.parametrize("kind", ["pin", "none"])
def test_a_reason_before_the_first_run_is_told(kind: str) -> None:
    session = dict.fromkeys(("axis", "gonio", "rotation")) | {"RE": RefusingEngine()}
    with pytest.raises(HardwareError, match="GONIO1:phi: no answer"):
        centering._refuse(session, kind)
