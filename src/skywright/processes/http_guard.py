"""Authentication of one user, by basic (RFC 7617) or digest (RFC 7616) authentication.

For the simulated camera, so that clients can be tried against both; it protects nothing else.
"""

import base64
import hashlib
import secrets
from typing import Literal
from urllib.request import parse_http_list, parse_keqv_list

REALM = "AXIS"
Scheme = Literal["basic", "digest"]


class Guard:
    """Admits one user.

    Digest is qop=auth with MD5, as cameras have it. There is one nonce at a time: a request with an
    older one gets the answer ``stale=true``. A request that is sent again has the present nonce; it
    is refused with a new one, without ``stale``.

    Parameters
    ----------
    scheme, user, password
        What is asked for.
    """

    def __init__(self, scheme: Scheme, user: str, password: str) -> None:
        self.scheme = scheme
        self.user, self.password = user, password
        self._nonce, self._count = secrets.token_hex(16), 0

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
            count = int(given["nc"], 16)
            own = _md5(self.user, REALM, self.password)
            request = _md5(method, given["uri"])
            expected = _md5(own, self._nonce, given["nc"], given["cnonce"], "auth", request)
            right = secrets.compare_digest(given["response"].encode(), expected.encode())
        except (KeyError, ValueError, IndexError):
            return False
        if not right or count <= self._count:
            return False
        self._count = count
        return True

    def challenge(self, header: str) -> str:
        """Return the WWW-Authenticate header for a request that may not pass."""
        if self.scheme == "basic":
            return f'Basic realm="{REALM}"'
        stale = ", stale=true" if "nonce=" in header and self._nonce not in header else ""
        self._nonce, self._count = secrets.token_hex(16), 0
        return f'Digest realm="{REALM}", nonce="{self._nonce}", qop="auth", algorithm=MD5{stale}'


def _md5(*parts: str) -> str:
    return hashlib.md5(":".join(parts).encode(), usedforsecurity=False).hexdigest()
