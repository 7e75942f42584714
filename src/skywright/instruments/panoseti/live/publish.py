"""Frames into slots: each frame is encoded once."""

import math
import os
import time
from collections.abc import Collection

from google.protobuf.struct_pb2 import Struct, Value

from skywright.errors import DataError
from skywright.instruments.panoseti.clock import Flag
from skywright.instruments.panoseti.frames import Frames
from skywright.instruments.panoseti.live.slots import SlotKey, Slots
from skywright.instruments.panoseti.pff_layout import FIELDS
from skywright.instruments.panoseti.products import (
    HIGHEST_MODULE,
    PRODUCTS,
    QUABOS,
    Product,
    product_of,
)
from skywright.wire.daqdata import daq_data_pb2 as pb
from skywright.wire.daqdata.encode import ImageEncoder, pixels_of

NEEDED = ("pkt_tai", "pkt_nsec", "tv_sec", "tv_usec")
"""Header numbers that the observatory's clients cannot do without."""
OTHER_WAY_S = 10.0
"""Frames are awaited the way that the newest one of their slot has come, for this time."""


def _encoder(product: Product) -> ImageEncoder:
    if product.quabos == 1:
        keys: list[tuple[str, ...]] = [("quabo_num",), *((name,) for name in FIELDS)]
    else:
        keys = [(f"quabo_{board}", name) for board in range(product.quabos) for name in FIELDS]
    return ImageEncoder(product.name, product.movie, product.side, product.bytes_per_pixel, keys)


class Publisher:
    """Put frames into slots.

    Parameters
    ----------
    slots
        Where they go.
    modules
        Modules whose frames are published; empty for all.
    products
        Names of the products whose frames are published.
    """

    def __init__(
        self,
        slots: Slots,
        modules: frozenset[int] = frozenset(),
        products: Collection[str] = tuple(PRODUCTS),
    ) -> None:
        self._slots = slots
        self.modules = modules
        self.products = products
        self._encoders = {name: _encoder(product) for name, product in PRODUCTS.items()}
        self._newest: dict[SlotKey, tuple[bool, int, float]] = {}
        """Of each slot: whether its frame was pushed, its time, and when it was published."""

    def takes(self, module: int, product: str) -> bool:
        """Return whether frames of a product of `module` are published."""
        return product in self.products and (not self.modules or module in self.modules)

    def publish(self, frames: Frames, row: int, pushed: bool = False) -> None:
        """Publish one of the frames; `pushed`: it is from a socket, and may be in a file too."""
        product = frames.product
        if not self.takes(frames.module, product.name):
            return
        numbers = frames.numbers[row].reshape(-1)
        quabo = -1
        if product.quabos == 1:
            quabo = int(frames.quabo[row])
            numbers = [quabo, *numbers.tolist()]
        key = SlotKey(frames.module, product.name, quabo)
        if self._came_the_other_way(key, pushed, int(frames.time_ns[row])):
            return
        payload = self._encoders[product.name].encode(
            numbers,
            frames.image[row],
            # A name of this machine may hold any bytes; that of a message is UTF-8.
            os.fsencode(frames.file).decode("utf-8", "replace"),
            int(frames.number[row]),
            frames.module,
            int(frames.time_ns[row]),
            flag_text(int(frames.flags[row])),
        )
        self._slots.publish(key, product.movie, payload)

    def _came_the_other_way(self, key: SlotKey, pushed: bool, time_ns: int) -> bool:
        """Return whether a slot has this frame, or a later one, from a socket or file instead."""
        now = time.monotonic()
        was_pushed, newest_ns, since = self._newest.get(key, (pushed, 0, now))
        if was_pushed != pushed and time_ns <= newest_ns and now < since + OTHER_WAY_S:
            return True
        self._newest[key] = pushed, time_ns, now
        return False

    def publish_newest(self, frames: Frames) -> None:
        """Publish the last frame, for ph256 the last one of each board."""
        newest = {int(board): row for row, board in enumerate(frames.quabo)}
        for row in sorted(newest.values()):
            self.publish(frames, row)

    def publish_message(self, image: pb.PanoImage) -> None:
        """Publish an image that a client has uploaded.

        Raises
        ------
        DataError
            If it is no image of a known product, there is no such module or board, or its header
            lacks a number that clients need.
        """
        if image.type not in (pb.PanoImage.MOVIE, pb.PanoImage.PULSE_HEIGHT):
            raise DataError("pano_image.type must be MOVIE or PULSE_HEIGHT")
        pixels = pixels_of(image)
        movie = image.type == pb.PanoImage.MOVIE
        product = product_of(movie, pixels.shape, image.bytes_per_pixel)
        if image.module_id > HIGHEST_MODULE:
            raise DataError(f"module_id must be 0 to {HIGHEST_MODULE}, it is {image.module_id}")
        quabo = _check_header(image.header, product)
        if not self.takes(image.module_id, product.name):
            return
        payload = pb.StreamImagesResponse(name=product.name, pano_image=image).SerializeToString()
        key = SlotKey(image.module_id, product.name, quabo)
        self._slots.publish(key, product.movie, payload)


def _check_header(header: Struct, product: Product) -> int:
    """Return the board of an image, -1 for one of a whole module, if its header is valid.

    Raises
    ------
    DataError
        If a number that clients need is missing or not finite, or there is no such board.
    """
    whole = product.quabos > 1
    numbers = header.fields["quabo_0"].struct_value if whole and "quabo_0" in header else header
    for name in NEEDED:
        if not math.isfinite(_number(numbers, name)):
            where = "header.quabo_0" if whole else "header"
            raise DataError(f"{where}.{name} must be a finite number")
    if whole:
        return -1
    quabo = _number(header, "quabo_num")
    if quabo not in range(QUABOS):
        raise DataError(f"header.quabo_num must be a number from 0 to {QUABOS - 1}")
    return int(quabo)


def _number(header: Struct, name: str) -> float:
    """Return a number of a header; NaN if there is none with this name."""
    value = header.fields[name] if name in header else Value()
    return value.number_value if value.WhichOneof("kind") == "number_value" else math.nan


def flag_text(flags: int) -> str:
    """Return what is unusual about a frame, as text; empty if nothing is."""
    return ", ".join(str(flag.name).lower().replace("_", " ") for flag in Flag if flags & flag)
