"""What a request depends on is found out once, and what an application overrides holds."""

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.dependencies import utils
from starlette.testclient import TestClient

from skywright.store.dependencies import remember_dependencies


def settings() -> str:
    return "default"


def title(said: Annotated[str, Depends(settings)], mark: str = "!") -> str:
    return said + mark


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., Any]]:
    """Return the functions whose signatures FastAPI reads, as they come."""
    functions: list[Callable[..., Any]] = []
    read = utils.get_typed_signature

    def note(call: Callable[..., Any]) -> Any:
        functions.append(call)
        return read(call)

    monkeypatch.setattr(utils, "get_typed_signature", note)
    monkeypatch.setattr(utils, "get_dependant", utils.get_dependant)  # undone after the test
    return functions


def test_signatures_are_read_once(reads: list[Callable[..., Any]]) -> None:
    remember_dependencies()
    app = FastAPI()
    app.dependency_overrides[settings] = lambda: "overridden"

    @app.get("/{name}")
    def show(name: str, text: Annotated[str, Depends(title)]) -> str:
        return f"{name}: {text}"

    client = TestClient(app)
    assert client.get("/a").json() == "a: overridden!"
    reads.clear()
    assert client.get("/b", params={"mark": "?"}).json() == "b: overridden?"
    assert reads == []
