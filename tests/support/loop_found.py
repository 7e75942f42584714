"""What `LoopRotation` finds of a loop that is seen well, near the beam."""

from typing import Any

from skywright.instruments.loop.rotation_values import RESULTS

GOOD: dict[str, Any] = {
    **{column.name: 0.0 for column in RESULTS},
    "ok": True,
    "reason": "",
    "why": "",
    "kind": "nylon",
    "kind_share": 1.0,
    "n_turned": 90,
    "n_ok": 90,
    "n_pin": 90,
    "frozen": False,
    "tip_ok": True,
    "tip_x": 150.0,
    "tip_y": 3.0,
    "tip_z": 4.0,
    "tip_sigma": 5.0,
    "tip_sigma_x": 2.0,
    "middle_ok": True,
    "middle_why": "",
    "middle_x": 12.0,
    "middle_y": 3.0,
    "middle_z": -4.0,
    "middle_sigma": 2.0,
    "middle_sigma_x": 3.0,
    "middle_used": 80,
    "length": 300.0,
    "width": 200.0,
    "last_level": 170.0,
    "last_saturated": 0.0,
    "last_flat": False,
}
