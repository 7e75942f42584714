"""HTTP to the API: address, proxy with credentials, CA file, one error for "try again later"."""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from skywright.errors import ConfigError, HardwareError, message_of

TOKEN = "SKYWRIGHT_EPU_TOKEN"
PROXY_USER, PROXY_PASSWORD = "SKYWRIGHT_PROXY_USER", "SKYWRIGHT_PROXY_PASSWORD"


class ServerUnavailableError(HardwareError):
    """The API does not answer, or cannot serve now; what was sent must be sent again."""


@dataclass(frozen=True)
class ApiSettings:
    """How to reach the API.

    Attributes
    ----------
    url
        Address of the API, ``http://`` or ``https://``.
    proxy
        Address of an HTTP proxy. User and password stand in it, or in the environment, where other
        users of the machine do not see them: SKYWRIGHT_PROXY_USER, SKYWRIGHT_PROXY_PASSWORD.
    ca_file
        Certificates (PEM) to trust instead of the system's.
    timeout
        Longest wait for an answer, seconds.
    """

    url: str
    proxy: str | None = None
    ca_file: Path | None = None
    timeout: float = 30.0


class ApiClient:
    """A client of the API.

    Parameters
    ----------
    settings
        How to reach it.

    Raises
    ------
    ConfigError
        An address or the CA file is not usable.
    """

    def __init__(self, settings: ApiSettings) -> None:
        base = checked_url("API", settings.url)
        token = os.environ.get(TOKEN)
        user = os.environ.get(PROXY_USER)
        login = (user, os.environ.get(PROXY_PASSWORD, "")) if user else None
        try:
            self._http = httpx.Client(
                base_url=base,
                proxy=settings.proxy and httpx.Proxy(settings.proxy, auth=login),
                verify=_certificates(settings.ca_file),
                timeout=settings.timeout,
                headers={"Authorization": f"Bearer {token}"} if token else None,
            )
        except (httpx.InvalidURL, ValueError) as error:
            place = (settings.proxy or "").rpartition("@")[2]  # without password
            raise ConfigError(f"proxy {place}: {error}") from error

    def request(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Send a request and give the answer, whatever its status below 500.

        Raises
        ------
        ServerUnavailableError
            There is no answer, or the server cannot serve now.
        """
        try:
            response = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise ServerUnavailableError(f"{method} {path}: {message_of(error)}") from error
        if response.status_code >= 500 or response.status_code in (401, 407, 408, 429):
            raise ServerUnavailableError(f"{method} {path}: status {response.status_code}")
        return response

    @contextmanager
    def stream(self, path: str, silence: float) -> Iterator[httpx.Response]:
        """Open a stream of events.

        Parameters
        ----------
        path
            Path of the stream.
        silence
            Seconds without an event after which the connection counts as lost.

        Raises
        ------
        ServerUnavailableError
            There is no answer, or the stream broke off.
        """
        timeout = httpx.Timeout(30.0, read=silence)
        try:
            with self._http.stream("GET", path, timeout=timeout) as response:
                if response.status_code != 200:
                    raise ServerUnavailableError(f"GET {path}: status {response.status_code}")
                yield response
        except httpx.HTTPError as error:
            raise ServerUnavailableError(f"GET {path}: {message_of(error)}") from error

    def close(self) -> None:
        """Close all connections."""
        self._http.close()


def checked_url(what: str, url: str) -> httpx.URL:
    """Return the address of a service; raise ConfigError if it is no address of HTTP."""
    try:
        found = httpx.URL(url.rstrip("/"))
        if found.scheme not in ("http", "https") or not found.host:
            raise httpx.InvalidURL("expected http:// or https:// and a host")
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigError(f"{what} {url.rpartition('@')[2]}: {error}") from error
    return found


def _certificates(ca_file: Path | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or str(error) or "not a PEM file"
        raise ConfigError(f"CA file {ca_file}: {reason}") from error
