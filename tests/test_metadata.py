"""Metadata with which no run can be opened is refused before anything moves."""

from typing import Any

import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine
from ophyd.sim import SynAxis, SynGauss

from skywright.session.metadata import check_metadata, next_scan_id
from skywright.session.plain_errors import is_refusal

WRONG = [
    ({"uid": "mine"}, "metadata key 'uid': the RunEngine sets it"),
    ({"time": 0.0}, "metadata key 'time': the RunEngine sets it"),
    ({"purpose": "analysis"}, "metadata key 'purpose': 'analysis' marks the runs of analyses"),
    ({"a.b": 1}, "metadata key 'a.b': .* contain '.' or '/'"),
    ({"buffer": {"mM/l": 1}}, "metadata key 'mM/l': "),
    ({"": 1}, "metadata key '': "),
    ({"buffer": {1: 2}}, "metadata key 1: a key must be a text"),
    ({"scan_id": "seven"}, "metadata key 'scan_id': 'seven' is not an int"),
    ({"scan_id": np.int64(7)}, "metadata key 'scan_id': np.int64.* is not an int"),
    ({"scan_id": True}, "metadata key 'scan_id': True is not an int"),
    ({"sample": ["a"]}, "metadata key 'sample': .* neither a text nor a dictionary"),
    ({"project": 5}, "metadata key 'project': 5 is not a text"),
]


@pytest.fixture
def engine(RE: RunEngine) -> RunEngine:
    RE.md_validator, RE.scan_id_source = check_metadata, next_scan_id
    return RE


@pytest.mark.parametrize("given", ["plan", "call", "engine"])
@pytest.mark.parametrize(("md", "message"), WRONG)
def test_wrong_metadata_is_refused_by_its_key_before_anything_moves(
    md: dict[str, Any], message: str, given: str, engine: RunEngine
) -> None:
    motor = SynAxis(name="motor")
    detector = SynGauss("detector", motor, "motor", center=0, Imax=1)
    documents: list[str] = []
    engine.subscribe(lambda name, doc: documents.append(name))
    of_plan: dict[str, Any] = {}
    of_call: dict[str, Any] = {}
    {"plan": of_plan, "call": of_call, "engine": engine.md}[given].update(md)
    with pytest.raises(ValueError, match=f"^{message}") as refused:
        engine(bp.scan([detector], motor, 1, 2, 2, md=of_plan), **of_call)
    assert is_refusal(refused.value)
    assert documents == []
    assert motor.position == 0


def test_metadata_of_a_user_passes(engine: RunEngine) -> None:
    md = {"purpose": "alignment", "analysis": "mine", "sample": {"name": "s1"}, "scan_id": 7}
    starts: list[dict[str, Any]] = []
    engine.subscribe(lambda name, doc: starts.append(doc), "start")
    engine(bp.count([SynAxis(name="motor")], md=md))
    assert {key: starts[0][key] for key in md} == md
    engine(bp.count([SynAxis(name="motor")]))
    assert starts[1]["scan_id"] == engine.md["scan_id"] == 2
