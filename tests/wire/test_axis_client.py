"""Requests to a camera: authentication, and errors that say what to do."""

import asyncio
import re
import traceback
from collections.abc import Awaitable, Callable

import httpx
import pytest
from support.scripted_http import Visit, scripted

from skywright.errors import ConfigError, DataError, HardwareError
from skywright.wire.axis_client import (
    SNAPSHOT_PATH,
    camera_client,
    camera_url,
    get_snapshot,
    stream_parts,
    without_login,
)
from skywright.wire.axis_guard import NONCES, Guard

JPEG = b"\xff\xd8\xff\xe0" + bytes(500) + b"\xff\xd9"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"
PICTURE = OK + f"Content-Length: {len(JPEG)}\r\n\r\n".encode() + JPEG


def fetch(url: str, *login: str, limit_s: float = 20.0, times: int = 1) -> list[bytes]:
    address = camera_url(url, SNAPSHOT_PATH)

    async def session() -> list[bytes]:
        async with camera_client(address, *login) as client:
            return [await get_snapshot(client, address, limit_s) for _ in range(times)]

    return asyncio.run(session())


def refusing(guard: Guard) -> Callable[[Visit], None]:
    """Answer with a picture who the guard admits."""

    def script(visit: Visit) -> None:
        said = re.search(r"(?im)^authorization: (.*)\r?$", visit.head)
        header = said[1].strip() if said else ""
        if guard.admits(visit.head.split()[0], header):
            visit.say(PICTURE)
        else:
            challenge = guard.challenge(header)
            visit.say(f"HTTP/1.1 401 No\r\nWWW-Authenticate: {challenge}\r\n\r\n".encode())

    return script


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://camera7", "http://camera7/axis-cgi/jpg/image.cgi?camera=1"),
        ("http://camera7:8080/", "http://camera7:8080/axis-cgi/jpg/image.cgi?camera=1"),
        ("https://c/jpg/image.jpg", "https://c/jpg/image.jpg"),
        ("http://u:p@c/a.cgi?x=1", "http://c/a.cgi?x=1"),
    ],
)
def test_address_of_pictures(url: str, expected: str) -> None:
    assert without_login(camera_url(url, SNAPSHOT_PATH)) == expected


@pytest.mark.parametrize("url", ["camera7", "ftp://c/a", "http://", "http://a:b:c/"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match="expected http://camera"):
        camera_url(url, SNAPSHOT_PATH)


def test_a_port_that_cannot_be_is_named() -> None:
    with pytest.raises(ConfigError, match="http://c:99999: port 99999, expected 1 to 65535"):
        camera_url("http://c:99999", SNAPSHOT_PATH)


@pytest.mark.parametrize(
    "url",
    [
        "http://bl7:secret@camera:b",
        "http://bl7:secret/9@camera",
        "http://bl7:12/secret@camera",
        "http://bl7:12?secret@camera",
        "http://bl7:12#secret@camera",
        "http://bl7:secret@camera\n",
        "http://bl7:secret@camera:0",
        "ftp://bl7:secret@camera",
        "bl7:secret@camera",
    ],
)
def test_the_password_in_an_address_that_is_wrong_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="camera") as caught:
        camera_url(url, SNAPSHOT_PATH)
    shown = traceback.format_exception(caught.value)[-1]
    assert not re.search("bl7|secret|12", shown)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("user", ["bl7\n", "bl7\xe9"])
def test_no_message_shows_the_login_that_is_sent(user: str) -> None:
    with scripted(refusing(Guard("digest", user, "secret"))) as server:
        with pytest.raises(HardwareError, match="printable ASCII characters") as caught:
            fetch(server.url, user, "secret")
        assert not re.search("bl7|nonce", "".join(traceback.format_exception(caught.value)))


def test_the_login_in_the_address_that_a_camera_has_moved_to_is_not_shown() -> None:
    def moved(visit: Visit) -> None:
        visit.say(b"HTTP/1.1 302 No\r\nLocation: http://bl7:secret@other/a\r\n\r\n")

    with scripted(moved) as server, pytest.raises(HardwareError, match="moved to http://other/a;"):
        fetch(server.url)


@pytest.mark.parametrize("scheme", ["basic", "digest"])
def test_authentication(scheme: str) -> None:
    with scripted(refusing(Guard(scheme, "bl7", "se:cr et"))) as server:  # type: ignore[arg-type]
        assert fetch(server.url, "bl7", "se:cr et", times=3) == [JPEG] * 3
        # Only the first is asked for: the challenge is known then.
        assert len(server.requests) == 4
        in_url = server.url.replace("://", "://bl7:se%3Acr%20et@")
        assert fetch(in_url) == [JPEG]
        with pytest.raises(HardwareError, match="401, the camera refuses this user and password"):
            fetch(server.url, "bl7", "wrong")
        with pytest.raises(HardwareError, match=r"401.* asks for a user and a password") as caught:
            fetch(server.url)
        assert "bl7" not in str(caught.value)


@pytest.mark.parametrize(
    "digest", ['realm=, nonce="x"', "foo", 'realm="x", nonce="y", algorithm=""']
)
def test_a_challenge_that_cannot_be_read_is_named(digest: str) -> None:
    def challenge(visit: Visit) -> None:
        visit.say(f"HTTP/1.1 401 No\r\nWWW-Authenticate: Digest {digest}\r\n\r\n".encode())

    with (
        scripted(challenge) as server,
        pytest.raises(HardwareError, match=re.escape(f"cannot be read: Digest {digest}")),
    ):
        fetch(server.url, "bl7", "secret")


def test_stale_nonce_is_answered_anew() -> None:
    guard = Guard("digest", "u", "p")
    with scripted(refusing(guard)) as server:
        address = camera_url(server.url, SNAPSHOT_PATH)

        async def session() -> None:
            async with camera_client(address, "u", "p") as client:
                await get_snapshot(client, address, 20)
                for _ in range(NONCES):
                    guard.challenge("")  # others came: ours is stale
                await get_snapshot(client, address, 20)

        asyncio.run(session())
        assert len(server.requests) == 4


@pytest.mark.parametrize("algorithms", [["MD5"], ["SHA-512-256", "MD5"]])
def test_a_second_nonce_in_one_request_is_followed(algorithms: list[str]) -> None:
    def script(visit: Visit) -> None:
        said = re.search(r'nonce="(\w+)"', visit.head)
        if said and said[1] == "second":
            visit.say(PICTURE)
            return
        nonce = 'nonce="second", stale=true' if said else 'nonce="first"'
        challenges = "".join(
            f'WWW-Authenticate: Digest realm="AXIS", {nonce}, qop="auth", algorithm={each}\r\n'
            for each in algorithms
        )
        visit.say(f"HTTP/1.1 401 No\r\n{challenges}\r\n".encode())

    with scripted(script) as server:
        assert fetch(server.url, "u", "p") == [JPEG]
        assert len(server.requests) == 3


KNOWN = 'Digest realm="AXIS", nonce="n", qop="auth", algorithm=MD5'
FOREIGN = 'Digest realm="AXIS", nonce="m", qop="auth", algorithm=SHA-512-256'


@pytest.mark.parametrize(
    ("offers", "answered"),
    [
        ([FOREIGN, KNOWN], 'nonce="n"'),
        ([KNOWN.replace('"auth"', '"auth-int"'), KNOWN.replace('"n"', '"k"')], 'nonce="k"'),
        ([KNOWN.replace('"auth"', '"auth-int,auth"')], 'nonce="n"'),
        ([FOREIGN, 'Basic realm="AXIS"'], "Basic "),
        ([f'Basic realm="A, B", {KNOWN}'], 'nonce="n"'),  # a list in one header (RFC 9110, 11.6.1)
        ([f'{FOREIGN}, {KNOWN},Basic realm="AXIS"'], 'nonce="n"'),
    ],
)
def test_of_several_logins_one_that_is_known_is_taken(offers: list[str], answered: str) -> None:
    def script(visit: Visit) -> None:
        if answered.lower() in visit.head.lower():
            visit.say(PICTURE)
        else:
            challenges = "".join(f"WWW-Authenticate: {offer}\r\n" for offer in offers)
            visit.say(f"HTTP/1.1 401 No\r\n{challenges}Content-Length: 0\r\n\r\n".encode())

    with scripted(script) as server:
        assert fetch(server.url, "u", "p") == [JPEG]
        assert len(server.requests) == 2


@pytest.mark.parametrize("offer", [FOREIGN, KNOWN.replace('"auth"', "auth-int"), "Bearer"])
def test_a_login_that_is_not_known_is_named(offer: str) -> None:
    reply = f"HTTP/1.1 401 No\r\nWWW-Authenticate: {offer}\r\nContent-Length: 0\r\n\r\n".encode()
    with (
        scripted(lambda visit: visit.say(reply)) as server,
        pytest.raises(
            HardwareError,
            match=rf"401, the camera wants a login that is not supported: {offer[:20]}",
        ),
    ):
        fetch(server.url, "u", "p")


def test_digest_counts_its_requests() -> None:
    with scripted(refusing(Guard("digest", "u", "p"))) as server:
        fetch(server.url, "u", "p", times=3)
        counts = [c for head in server.requests for c in re.findall(r"nc=(\w+)", head)]
    assert counts == ["00000001", "00000002", "00000003"]


def test_clients_that_log_in_at_the_same_time_are_all_admitted() -> None:
    def answer(challenge: str) -> str:
        request = httpx.Request("GET", "http://camera/a")
        flow = httpx.DigestAuth("u", "p").auth_flow(request)
        next(flow)
        refused = httpx.Response(401, headers={"WWW-Authenticate": challenge}, request=request)
        return flow.send(refused).headers["authorization"]

    guard = Guard("digest", "u", "p")
    answers = [answer(challenge) for challenge in [guard.challenge("") for _ in range(3)]]
    assert [guard.admits("GET", each) for each in answers] == [True] * 3
    assert not guard.admits("GET", answers[0])  # sent again
    assert "stale" not in guard.challenge(answers[0])


def test_a_kept_connection_that_is_closed_when_asked_again() -> None:
    def script(visit: Visit) -> None:
        visit.say(PICTURE)
        if visit.number == 0:
            visit.socket.recv(4096)  # the next request comes, and finds the connection closed

    with scripted(script) as server:
        assert fetch(server.url, times=2) == [JPEG] * 2
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("reply", "error", "says"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", HardwareError, "404 Not Found"),
        (
            b"HTTP/1.1 302 F\r\nLocation: /new\r\n\r\n",
            HardwareError,
            "moved to /new; use that address",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\nhi",
            DataError,
            "2 bytes of text/html",
        ),
        (OK + b"Content-Length: 0\r\n\r\n", DataError, "0 bytes of image/jpeg"),
        (OK + b"Content-Length: 900\r\n\r\n" + JPEG, HardwareError, "peer closed"),
        (b"\x16\x03\x01nonsense\r\n\r\n", HardwareError, "illegal"),
        (b"", HardwareError, "disconnected"),
    ],
)
def test_what_is_no_picture_is_said(reply: bytes, error: type[Exception], says: str) -> None:
    with (
        scripted(lambda visit: visit.say(reply)) as server,
        pytest.raises(error, match=says) as caught,
    ):
        fetch(server.url)
    assert server.url in str(caught.value)


def test_silence_has_an_end() -> None:
    with scripted(Visit.wait_for_end) as server, pytest.raises(HardwareError, match=r"within 0\.3"):
        fetch(server.url, limit_s=0.3)


def trickle(visit: Visit) -> None:
    """Send a byte from time to time, for 10 s at most."""
    for _ in range(200):
        visit.socket.sendall(b"x")
        visit.socket.settimeout(0.05)
        try:
            if not visit.socket.recv(1):
                return
        except TimeoutError:
            continue


def test_slow_trickle_has_an_end() -> None:
    def script(visit: Visit) -> None:
        visit.say(OK + b"\r\n")
        trickle(visit)

    with scripted(script) as server, pytest.raises(HardwareError, match="no picture within"):
        fetch(server.url, limit_s=0.4)


def test_nobody_listens() -> None:
    with scripted(lambda visit: None) as server:
        pass
    with pytest.raises(HardwareError, match="connect"):
        fetch(server.url)


def read_stream(url: str) -> list[bytes]:
    address = httpx.URL(url)

    async def session() -> list[bytes]:
        async with camera_client(address, silence_s=0.5) as client:
            return [part.data async for part in stream_parts(client, address)]

    return asyncio.run(session())


def in_stream(*pieces: bytes, kind: str = 'multipart/x-mixed-replace;boundary="b b"') -> bytes:
    head = f"HTTP/1.0 200 OK\r\nContent-Type: {kind}\r\n\r\n".encode()
    return head + b"".join(b"--b b\r\nContent-Type: image/jpeg\r\n\r\n%s\r\n" % p for p in pieces)


def test_stream_of_pictures() -> None:
    with scripted(lambda visit: visit.say(in_stream(JPEG, JPEG))) as server:
        assert read_stream(server.url) == [JPEG, JPEG]


@pytest.mark.parametrize(
    ("say", "says"),
    [
        (lambda v: v.say(in_stream(JPEG, JPEG)[:-200]), "ended .* bytes into a picture"),
        (lambda v: v.say(in_stream(JPEG, kind="image/jpeg")), "address of single pictures"),
        (lambda v: (v.say(in_stream(JPEG)), v.wait_for_end()), "fell silent"),
        (lambda v: (v.say(in_stream(JPEG, JPEG)[:-200]), trickle(v)), "no whole picture within"),
    ],
)
def test_stream_that_ends_badly_says_how(say: Callable[[Visit], Awaitable], says: str) -> None:
    with (
        scripted(say) as server,  # type: ignore[arg-type]
        pytest.raises((HardwareError, DataError), match=says),
    ):
        read_stream(server.url)
