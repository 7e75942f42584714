"""Frames into slots: each frame is encoded once."""

from skywright.errors import DataError
from skywright.instruments.panoseti.clock import Flag
from skywright.instruments.panoseti.frames import Frames
from skywright.instruments.panoseti.live.slots import SlotKey, Slots
from skywright.instruments.panoseti.pff_layout import FIELDS
from skywright.instruments.panoseti.products import PRODUCTS, Product, product_of
from skywright.wire.daqdata import daq_data_pb2 as pb
from skywright.wire.daqdata.encode import ImageEncoder, pixels_of


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
    """

    def __init__(self, slots: Slots, modules: frozenset[int] = frozenset()) -> None:
        self._slots = slots
        self.modules = modules
        self._encoders = {name: _encoder(product) for name, product in PRODUCTS.items()}

    def takes(self, module: int) -> bool:
        """Return whether frames of `module` are published."""
        return not self.modules or module in self.modules

    def publish(self, frames: Frames, row: int) -> None:
        """Publish one of the frames."""
        product = frames.product
        if not self.takes(frames.module):
            return
        numbers = frames.numbers[row].reshape(-1)
        quabo = -1
        if product.quabos == 1:
            quabo = int(frames.quabo[row])
            numbers = [quabo, *numbers.tolist()]
        payload = self._encoders[product.name].encode(
            numbers,
            frames.image[row],
            frames.file,
            int(frames.number[row]),
            frames.module,
            int(frames.time_ns[row]),
            flag_text(int(frames.flags[row])),
        )
        self._slots.publish(SlotKey(frames.module, product.name, quabo), product.movie, payload)

    def publish_newest(self, frames: Frames) -> None:
        """Publish the last frame, for ph256 the last one of each board."""
        if frames.product.quabos > 1:
            if len(frames):
                self.publish(frames, len(frames) - 1)
            return
        newest = {int(board): row for row, board in enumerate(frames.quabo)}
        for row in sorted(newest.values()):
            self.publish(frames, row)

    def publish_message(self, image: pb.PanoImage) -> None:
        """Publish an image that a client has uploaded.

        Raises
        ------
        DataError
            If it is no image of a known product.
        """
        if image.type not in (pb.PanoImage.MOVIE, pb.PanoImage.PULSE_HEIGHT):
            raise DataError("pano_image.type must be MOVIE or PULSE_HEIGHT")
        pixels = pixels_of(image)
        movie = image.type == pb.PanoImage.MOVIE
        product = product_of(movie, pixels.shape, image.bytes_per_pixel)
        if not self.takes(image.module_id):
            return
        quabo = -1
        if product.quabos == 1:
            quabo = int(image.header.fields["quabo_num"].number_value)
        payload = pb.StreamImagesResponse(name=product.name, pano_image=image).SerializeToString()
        key = SlotKey(image.module_id, product.name, quabo)
        self._slots.publish(key, product.movie, payload)


def flag_text(flags: int) -> str:
    """Return what is unusual about a frame, as text; empty if nothing is."""
    return ", ".join(str(flag.name).lower().replace("_", " ") for flag in Flag if flags & flag)
