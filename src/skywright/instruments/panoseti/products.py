"""The four data products of a module, and the names of files and run directories.

A name is a sequence of ``key_value`` tokens joined by dots; the first underscore of a token ends
its key. Archived copies may have other characters in the time and further tokens.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from skywright.errors import DataError

QUABO_SIDE = 16
"""Pixels along one side of a quadrant board."""
QUABOS = 4
HIGHEST_MODULE = 255


@dataclass(frozen=True)
class Product:
    """One data product.

    Attributes
    ----------
    name
        The ``dp`` token of a file's name.
    side
        Pixels along one side of the square image.
    dtype
        Of the pixels in the file, little endian. Pulse heights are signed: the board has
        subtracted a baseline.
    movie
        True for images of counts, False for pulse heights.
    """

    name: str
    side: int
    dtype: str
    movie: bool

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes of one pixel in the file."""
        return int(self.dtype[-1])

    @property
    def image_bytes(self) -> int:
        """Bytes of one image in the file."""
        return self.side * self.side * self.bytes_per_pixel

    @property
    def quabos(self) -> int:
        """Number of boards whose header numbers a frame carries."""
        return QUABOS if self.side == 2 * QUABO_SIDE else 1

    @property
    def buffer_bytes(self) -> int:
        """Size of the buffer through which Hashpipe writes this product."""
        return 4096 if self.name == "ph256" else 1 << 20


PRODUCTS = {
    product.name: product
    for product in (
        Product("img8", 32, "<u1", True),
        Product("img16", 32, "<u2", True),
        Product("ph256", 16, "<i2", False),
        Product("ph1024", 32, "<i2", False),
    )
}


def product_of(movie: bool, shape: tuple[int, ...], bytes_per_pixel: int) -> Product:
    """Return the product with these properties.

    Raises
    ------
    DataError
        If there is none.
    """
    for product in PRODUCTS.values():
        same_shape = tuple(shape) == (product.side, product.side)
        if product.movie == movie and same_shape and product.bytes_per_pixel == bytes_per_pixel:
            return product
    kind = "movie" if movie else "pulse-height"
    raise DataError(
        f"no product is a {kind} image of shape {tuple(shape)} with {bytes_per_pixel} bytes a pixel"
    )


@dataclass(frozen=True)
class FileName:
    """What the name of a PFF file says."""

    start: str
    product: Product
    module: int
    seqno: int

    def __str__(self) -> str:
        product = self.product
        return (
            f"start_{self.start}.dp_{product.name}.bpp_{product.bytes_per_pixel}"
            f".module_{self.module}.seqno_{self.seqno}.pff"
        )


@dataclass(frozen=True)
class RunName:
    """What the name of a run directory says."""

    observatory: str
    start: str
    run_type: str

    def __str__(self) -> str:
        return f"obs_{self.observatory}.start_{self.start}.runtype_{self.run_type}.pffd"


def tokens_of(name: str) -> dict[str, str]:
    """Return the ``key_value`` tokens of a file's or a directory's name."""
    pairs = (token.partition("_") for token in name.split("."))
    return {key: value for key, underscore, value in pairs if underscore}


def parse_file_name(path: Path | str) -> FileName:
    """Return what the name of a PFF file says.

    Raises
    ------
    DataError
        If the product, the module or the sequence number is missing or wrong.
    """
    name = Path(path).name
    tokens = tokens_of(name)
    product = PRODUCTS.get(tokens.get("dp", ""))
    if product is None:
        raise DataError(f"{name}: the token dp_ must be one of {', '.join(PRODUCTS)}")
    if int(_number(name, tokens, "bpp", product.bytes_per_pixel)) != product.bytes_per_pixel:
        raise DataError(
            f"{name}: {product.name} has {product.bytes_per_pixel} bytes a pixel, "
            f"the name says bpp_{tokens['bpp']}"
        )
    return FileName(
        start=tokens.get("start", ""),
        product=product,
        module=_number(name, tokens, "module", None),
        seqno=_number(name, tokens, "seqno", 0),
    )


def _number(name: str, tokens: dict[str, str], key: str, default: int | None) -> int:
    text = tokens.get(key, "" if default is None else str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise DataError(f"{name}: the token {key}_ must be a whole number, it is {text!r}")
    return int(text)


def is_pff_name(name: str) -> bool:
    """Return whether `name` is that of a file of images (housekeeping is not)."""
    if not name.endswith(".pff"):
        return False
    try:
        parse_file_name(name)
    except DataError:
        return False
    return True


def parse_run_name(path: Path | str) -> RunName:
    """Return what the name of a run directory says; what it lacks is empty."""
    name = Path(path).name.removesuffix(".pffd")
    tokens = tokens_of(name)
    return RunName(tokens.get("obs", ""), tokens.get("start", ""), tokens.get("runtype", ""))


def start_token(time_ns: int) -> str:
    """Return the ``start`` token of a file or a run that begins at `time_ns` (UTC)."""
    moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def module_id(ip_address: str) -> int:
    """Return a module's number from the base address of its boards: bits 2 to 9.

    Raises
    ------
    DataError
        If `ip_address` is not an IPv4 address.
    """
    parts = ip_address.split(".")
    digits = all(re.fullmatch("[0-9]{1,3}", part) for part in parts)
    if len(parts) != 4 or not digits or not all(int(part) < 256 for part in parts):
        raise DataError(f"{ip_address[:40]!r} is not an IPv4 address")
    return ((256 * int(parts[2]) + int(parts[3])) >> 2) & 255
