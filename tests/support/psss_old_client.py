"""The old Python client, from what is known of it: no time-outs, no status checks."""

import json
import urllib.error
import urllib.request
from typing import Any


class PsssProcessingClient:
    def __init__(self, address: str = "http://sf-daqsync-02:12000/") -> None:
        self.api_address_format = address.rstrip("/") + "%s"
        self.address = address

    def get_address(self) -> str:
        return self.address

    def start(self) -> None:
        self._call("POST", "/start")

    def stop(self) -> None:
        self._call("POST", "/stop")

    def get_status(self) -> str:
        return self._call("GET", "/status")["status"]

    def get_statistics(self) -> dict[str, Any]:
        return self._call("GET", "/statistics")["statistics"]

    def get_parameters(self) -> dict[str, Any]:
        return self._call("GET", "/parameters")["parameters"]

    def set_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return self._call("POST", "/parameters", parameters)["parameters"]

    def set_background(self, filename: str = "", data: Any = None) -> str:
        pixels = None if data is None else data.tolist()
        return self._call("POST", "/background", {"filename": filename, "data": pixels})["state"]

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.api_address_format % path, data, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request) as reply:
                answer = json.loads(reply.read())
        except urllib.error.HTTPError as error:
            answer = json.loads(error.read())
        if answer["state"] != "ok":
            raise ValueError(answer["status"])
        return answer
