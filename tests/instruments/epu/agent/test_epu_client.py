"""What the client of the API says of an error."""

from typing import Any

import httpx
import pytest

from skywright.instruments.epu.agent import ApiSettings
from skywright.instruments.epu.agent.client import ApiClient, ServerUnavailableError


def test_an_error_without_a_text_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise httpx.ReadTimeout("")

    client = ApiClient(ApiSettings("http://127.0.0.1:9"))
    monkeypatch.setattr(client._http, "request", fail)
    monkeypatch.setattr(client._http, "stream", fail)
    with pytest.raises(ServerUnavailableError, match="GET /status: ReadTimeout"):
        client.request("GET", "/status")
    with (
        pytest.raises(ServerUnavailableError, match="GET /events: ReadTimeout"),
        client.stream("/events", 1.0),
    ):
        pass
    client.close()
