"""Requests to an AXIS camera or video server: one picture, or the stream of pictures."""

import asyncio
import email.message
import math
import re
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress

import httpx

from skywright.errors import ConfigError, DataError, HardwareError, message_of
from skywright.wire.axis_body import PICTURE_BYTES_MAX, PICTURE_TYPES, SIGNATURES, UNTYPED
from skywright.wire.axis_mjpeg import BOUNDARY, MixedReplace, Part

SNAPSHOT_PATH = "/axis-cgi/jpg/image.cgi?camera=1"
STREAM_PATH = "/axis-cgi/mjpg/video.cgi?camera=1"
CONNECT_LIMIT_S = 3.0
UNAUTHORIZED = 401
STALE = re.compile(r"""\bstale\s*=\s*"?true\b""", re.IGNORECASE)
ALGORITHM = re.compile(r"""\balgorithm\s*=\s*"?([\w-]+)""", re.IGNORECASE)
HASHES = ("MD5", "SHA", "SHA-256", "SHA-512")
"""Hash algorithms of digest authentication that httpx knows; a camera may also offer others."""
NEXT_CHALLENGE = re.compile(r",\s*(?=[\w-]+\s+[\w-]+\s*=)")
"""Separator of the challenges in one header (RFC 9110, 11.6.1)."""
WITH_BODY_ONLY = re.compile(r"""\bqop\s*=\s*("\s*auth-int\s*"|auth-int\b)""", re.IGNORECASE)
"""A challenge whose digest must also cover the body, which httpx does not support."""
PORT_MAX = 65535
AuthFlow = Generator[httpx.Request, httpx.Response, None]
"""Yields the requests to send, and gets the response to each."""
UNSENDABLE = "the request cannot be sent; the user's name must have printable ASCII characters only"


class CameraAuth(httpx.Auth):
    """Digest authentication (RFC 7616), or basic where the camera offers nothing better.

    Parameters
    ----------
    user, password
        Login of the camera.
    """

    def __init__(self, user: str, password: str) -> None:
        self._digest = httpx.DigestAuth(user, password)
        self._basic = httpx.BasicAuth(user, password)
        self._only_basic = False

    def auth_flow(self, request: httpx.Request) -> AuthFlow:
        """Send the request; answer the camera's challenge.

        After the first challenge, requests have the answer to it from the start.
        """
        if not self._only_basic:
            flow = self._digest.auth_flow(request)
            response = yield next(flow)
            if response.status_code != UNAUTHORIZED or _take_digest(response):
                yield from self._answer_digest(flow, request, response)
                return
            offers = _offers(response)
            self._only_basic = any("basic" in offer.lower() for offer in offers)
            if offers and not self._only_basic:
                raise httpx.ProtocolError(
                    f"401, the camera wants a login that is not supported: {offers[0]:.80}"
                )
        if self._only_basic:
            yield from self._basic.auth_flow(request)

    def _answer_digest(
        self, flow: AuthFlow, request: httpx.Request, response: httpx.Response
    ) -> AuthFlow:
        """Continue the digest flow of a request after its first response."""
        with suppress(StopIteration):  # httpx needs no further request
            response = yield _answer(flow, response)
            is_refused = response.status_code == UNAUTHORIZED
            if is_refused and STALE.search(_take_digest(response)):
                # The nonce ended between challenge and answer: answer the next one, once.
                flow = self._digest.auth_flow(request)
                next(flow)
                yield _answer(flow, response)


def _answer(flow: AuthFlow, response: httpx.Response) -> httpx.Request:
    """Return the request that answers a challenge of digest authentication."""
    try:
        return flow.send(response)
    except UnicodeError:  # of the user's name
        raise
    except (KeyError, IndexError, ValueError) as error:  # httpx checks little of the challenge
        raise httpx.ProtocolError(
            f"401, the camera's challenge cannot be read: {_offers(response)[0]:.80}"
        ) from error


def _offers(response: httpx.Response) -> list[str]:
    """Return the challenges of a response."""
    headers = response.headers.get_list("www-authenticate")
    return [offer for header in headers for offer in NEXT_CHALLENGE.split(header)]


def _take_digest(response: httpx.Response) -> str:
    """Return the first challenge by digest that can be answered here; empty if there is none.

    The other challenges are removed from the response, because httpx answers the first digest.
    """
    for offer in _offers(response):
        algorithm = ALGORITHM.search(offer)
        is_known = algorithm is None or algorithm[1].upper().removesuffix("-SESS") in HASHES
        if offer.lower().startswith("digest ") and is_known and not WITH_BODY_ONLY.search(offer):
            response.headers["www-authenticate"] = offer
            return offer
    return ""


class _RetryOnStaleConnection(httpx.AsyncHTTPTransport):
    """Ask once more where the camera has closed a kept connection just as the request came.

    RFC 9112, section 9.3.1, allows it for requests that change nothing, as ours.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request, again if an old connection broke before any answer."""
        is_new = False

        async def trace(event: str, facts: object) -> None:
            nonlocal is_new
            is_new |= event == "connection.connect_tcp.started"

        request.extensions = {**request.extensions, "trace": trace}
        try:
            return await super().handle_async_request(request)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            if is_new:
                raise
            return await super().handle_async_request(request)


def camera_url(url: str, path: str) -> httpx.URL:
    """Return the address of pictures.

    Parameters
    ----------
    url
        Address of the camera, ``http://camera7``, or of its pictures, as a person writes it.
    path
        Path of the pictures, used if `url` has none.

    Raises
    ------
    ConfigError
        If it is no HTTP address.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        reason = "no URL" if "@" in url else f"no URL ({error})"  # it may name the password
        raise ConfigError(f"{hide_login(url)}: {reason}; expected http://camera/...") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"{hide_login(url)}: expected http://camera or http://camera{path}")
    # A character of the password has ended the host
    if b"@" in parsed.raw_path or "@" in parsed.fragment:
        raise ConfigError(
            f"{hide_login(url)}: @ after the host; in user and password write / as %2F, ? as %3F, "
            "# as %23, in a path @ as %40"
        )
    if parsed.port is not None and not 0 < parsed.port <= PORT_MAX:
        raise ConfigError(f"{without_login(parsed)}: port {parsed.port}, expected 1 to {PORT_MAX}")
    return parsed.join(path) if parsed.path in ("", "/") and not parsed.query else parsed


def camera_client(
    url: httpx.URL, user: str | None = None, password: str | None = None, silence_s: float = 5.0
) -> httpx.AsyncClient:
    """Return a client for one camera; it keeps its connection.

    Parameters
    ----------
    url
        Its user and password are used if the arguments have none.
    user, password
        Login of the camera; it is sent only after the camera has asked for it.
    silence_s
        Timeout of each read, s.
    """
    user, password = (user, password) if user else (url.username, url.password)
    return httpx.AsyncClient(
        auth=CameraAuth(user, password or "") if user else None,
        timeout=httpx.Timeout(silence_s, connect=min(CONNECT_LIMIT_S, silence_s)),
        headers={"Accept-Encoding": "identity"},  # pictures are to come as they are
        trust_env=False,  # a camera is not behind the proxy of the office
        # Without https it loads no certificates; to load them takes longer than a picture
        transport=_RetryOnStaleConnection(verify=url.scheme == "https", trust_env=False),
    )


async def get_snapshot(client: httpx.AsyncClient, url: httpx.URL, limit_s: float) -> bytes:
    """Fetch one picture.

    Returns
    -------
    bytes
        The image file as it came.

    Raises
    ------
    HardwareError
        If the camera cannot be reached, refuses, or has not sent all within `limit_s`.
    DataError
        If it sends something else than a picture.
    """
    address = without_login(url)
    try:
        async with asyncio.timeout(limit_s), client.stream("GET", address) as answer:
            _check_status(answer, address)
            body = bytearray()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > PICTURE_BYTES_MAX:
                    raise DataError(f"{address}: more than {PICTURE_BYTES_MAX} bytes")
            kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    except TimeoutError as error:
        raise HardwareError(f"{address}: no picture within {limit_s:g} s") from error
    except (httpx.LocalProtocolError, UnicodeEncodeError):  # their text shows the login
        raise HardwareError(f"{address}: {UNSENDABLE}") from None
    except httpx.HTTPError as error:
        raise HardwareError(f"{address}: {_reason(error)}") from error
    is_picture = kind in PICTURE_TYPES or (kind in UNTYPED and body.startswith(SIGNATURES))
    if not is_picture or not body:
        raise DataError(f"{address}: {len(body)} bytes of {kind or 'no type'}, expected image/jpeg")
    return bytes(body)


async def stream_parts(client: httpx.AsyncClient, url: httpx.URL) -> AsyncGenerator[Part, None]:
    """Yield the pictures of a motion JPEG stream until it ends.

    Raises
    ------
    HardwareError
        If the camera cannot be reached, refuses, ends the stream within a picture, or sends nothing
        or no whole picture within the client's read timeout.
    DataError
        If it sends something else than a stream.
    """
    address, limit_s = without_login(url), client.timeout.read or math.inf
    try:
        async with client.stream("GET", address) as answer:
            _check_status(answer, address)
            stream = MixedReplace(_boundary(answer.headers.get("content-type", ""), address))
            begun = time.monotonic()  # of the wait for the present picture
            try:
                async for piece in answer.aiter_raw():
                    is_new = not stream.is_in_picture
                    for part in stream.receive(piece):
                        yield part
                        is_new = True
                    if is_new:
                        begun = time.monotonic()
                    elif time.monotonic() - begun > limit_s:
                        raise HardwareError(f"{address}: no whole picture within {limit_s:g} s")
            finally:
                cut = stream.end()
    except (httpx.LocalProtocolError, UnicodeEncodeError):  # their text shows the login
        raise HardwareError(f"{address}: {UNSENDABLE}") from None
    except httpx.HTTPError as error:
        raise HardwareError(f"{address}: {_reason(error)}") from error
    if cut:
        raise HardwareError(f"{address}: the stream ended {cut} bytes into a picture")


def without_login(url: httpx.URL) -> httpx.URL:
    """Return an address without user and password, for logs and requests.

    If the address had them, httpx would send them before the camera asks for them.
    """
    return url.copy_with(username=None, password=None)


def hide_login(text: str) -> str:
    """Return an address, as a person wrote it, without user and password.

    All before the last @ is removed, because a password may have characters that end a host.
    """
    return re.sub(r"^([a-z]+://)?.*@", r"\1", text, flags=re.DOTALL | re.IGNORECASE)


def _check_status(answer: httpx.Response, address: httpx.URL) -> None:
    if answer.status_code == UNAUTHORIZED:
        refused = "authorization" in answer.request.headers
        why = "refuses this user and password" if refused else "asks for a user and a password"
        raise HardwareError(f"{address}: 401, the camera {why}")
    if answer.has_redirect_location:
        target = hide_login(answer.headers["location"])
        raise HardwareError(f"{address}: {answer.status_code}, moved to {target}; use that address")
    if not answer.is_success:
        raise HardwareError(f"{address}: {answer.status_code} {answer.reason_phrase}")


def _boundary(content_type: str, address: httpx.URL) -> str:
    """Return the announced boundary of a stream, the usual one where there is none."""
    message = email.message.Message()
    message["Content-Type"] = content_type
    if content_type and message.get_content_maintype() in ("image", "text"):
        raise DataError(
            f"{address}: {content_type}, expected multipart/x-mixed-replace; "
            "is this the address of single pictures?"
        )
    return message.get_boundary() or BOUNDARY


def _reason(error: httpx.HTTPError) -> str:
    """Say what went wrong; some errors of httpx have a name only."""
    if isinstance(error, httpx.TimeoutException):
        return "no answer" if isinstance(error, httpx.ConnectTimeout) else "fell silent"
    return message_of(error)
