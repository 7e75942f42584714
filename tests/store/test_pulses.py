"""Rows by the numbers that a machine gives them, whatever these are called."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store.recording import Recording, scalar
from support.streaming import StreamingCamera, noise

from skywright.errors import DataError
from skywright.store.ingest import IngestState, ingest
from skywright.store.pulses import PulseRows

FIRST = 7000


@pytest.fixture
def run(journals: Path, client: Any) -> Any:
    """Five pictures numbered from `FIRST`, in a stream of their own beside the events."""
    camera = StreamingCamera("cam", journals, first=FIRST, burst=5)
    camera.stage()
    camera.kickoff()
    recording = Recording(journals).stream("primary", x=scalar("number"))
    recording.stream("shots", **camera.describe())
    descriptor = recording._streams["shots"].descriptor_doc["uid"]
    for name, doc in camera.collect_asset_docs():
        if name == "stream_datum":
            doc |= {"descriptor": descriptor, "seq_nums": {"start": 1, "stop": 6}}
        recording.journal(name, doc | {"run_start": recording.uid})
    recording.event(x=0.0)
    camera.unstage()
    assert ingest(recording.stop(), client) is IngestState.DONE
    return client["raw"][recording.uid]


def test_identity_and_stream_have_any_name(run: Any) -> None:
    rows = PulseRows(run, "image", identity="frame_number")
    found = rows.between(FIRST + 1, FIRST + 3, ("image",))
    assert found["frame_number"].tolist() == [FIRST + 1, FIRST + 2]
    np.testing.assert_array_equal(found["image"], [noise(FIRST + 1), noise(FIRST + 2)])


def test_what_is_missing_is_named(run: Any) -> None:
    with pytest.raises(DataError, match="no stream has rows with pulse_id and spectrum"):
        PulseRows(run)
    with pytest.raises(DataError, match="no column cam_spectrum"):
        PulseRows(run, "image", "frame_number").between(FIRST, FIRST + 1, ("spectrum",))
