"""What all tests of devices look at."""

from typing import Any

import pytest
from event_model import DocumentNames, schema_validators
from support.documents import Documents
from support.live import camera, start  # noqa: F401


@pytest.fixture
def documents(RE: Any) -> Documents:
    """What the engine emits, checked against the schema."""
    collected: Documents = []

    def check(name: str, doc: dict[str, Any]) -> None:
        schema_validators[DocumentNames[name]].validate(doc)
        collected.append((name, doc))

    RE.subscribe(check)
    return collected
