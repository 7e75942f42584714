"""The client of psss_processing under its old name, for scripts that import it.

Install this package in place of the old one; both cannot be installed together.
"""

from skywright.instruments.psss.client import Client

__all__ = ["PsssProcessingClient"]


class PsssProcessingClient(Client):
    """Client of the REST API, with the name and the default address of the old client.

    Parameters
    ----------
    address
        ``http://host:port`` of the service.

    Notes
    -----
    A refusal of the service raises `ValueError` with its text, as the old client did. Unlike the
    old client this one has a timeout: `skywright.errors.HardwareError` says that the service does
    not answer.
    """

    def __init__(self, address: str = "http://sf-daqsync-02:12000/") -> None:
        super().__init__(address)
        self._given = address

    def get_address(self) -> str:
        """Return the address as it was given."""
        return self._given
