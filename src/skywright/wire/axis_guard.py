"""Authentication of one user, by basic (RFC 7617) or digest (RFC 7616) authentication.

For the simulated camera, so that clients can be tried against both.
"""

import base64
import hashlib
import secrets
from typing import Literal
from urllib.request import parse_http_list, parse_keqv_list

REALM = "AXIS"
NONCES = 16
Scheme = Literal["basic", "digest"]


class Guard:
    """Admits one user.

    Digest is qop=auth with MD5, as cameras have it. `NONCES` clients may be served at a time, each
    with a nonce of its own: a request with an older one gets the answer ``stale=true``. A request
    that is sent again is refused with a new nonce, without ``stale``.

    Parameters
    ----------
    scheme, user, password
        What is asked for.
    """

    def __init__(self, scheme: Scheme, user: str, password: str) -> None:
        self.scheme = scheme
        self.user, self.password = user, password
        self._counts: dict[str, int] = {}
        """Requests with each of the newest nonces, as their clients count them."""

    def admits(self, method: str, header: str) -> bool:
        """Tell whether a request with this Authorization header may pass."""
        scheme, _, rest = header.partition(" ")
        if scheme.lower() != self.scheme:
            return False
        if self.scheme == "digest":
            return self._admits_digest(method, rest)
        expected = base64.b64encode(f"{self.user}:{self.password}".encode())
        return secrets.compare_digest(rest.strip().encode(), expected)

    def _admits_digest(self, method: str, header: str) -> bool:
        try:
            given = parse_keqv_list(parse_http_list(header))
            nonce, count = given["nonce"], int(given["nc"], 16)
            own = _md5(self.user, REALM, self.password)
            request = _md5(method, given["uri"])
            expected = _md5(own, nonce, given["nc"], given["cnonce"], "auth", request)
            right = secrets.compare_digest(given["response"].encode(), expected.encode())
            if not right or count <= self._counts[nonce]:
                return False
        except (KeyError, ValueError, IndexError):
            return False
        self._counts[nonce] = count
        return True

    def challenge(self, header: str) -> str:
        """Return the WWW-Authenticate header for a request that may not pass."""
        if self.scheme == "basic":
            return f'Basic realm="{REALM}"'
        known = any(nonce in header for nonce in self._counts)
        stale = ", stale=true" if "nonce=" in header and not known else ""
        nonce = secrets.token_hex(16)
        self._counts[nonce] = 0
        if len(self._counts) > NONCES:
            del self._counts[next(iter(self._counts))]
        return f'Digest realm="{REALM}", nonce="{nonce}", qop="auth", algorithm=MD5{stale}'


def _md5(*parts: str) -> str:
    return hashlib.md5(":".join(parts).encode(), usedforsecurity=False).hexdigest()
