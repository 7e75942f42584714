"""The newest frame of each slot, and what each client gets of them; without a server."""

from types import SimpleNamespace

import numpy as np
import pytest
from support.pano_files import made_frames

from skywright.errors import DataError
from skywright.instruments.panoseti.live import publish
from skywright.instruments.panoseti.live.publish import Publisher
from skywright.instruments.panoseti.live.slots import SlotKey, Slots
from skywright.wire.daqdata import daq_data_pb2 as pb
from skywright.wire.daqdata.encode import decode


def everything_of(subscription):
    found = []
    while (payload := subscription.next()) is not None:
        found.append(decode(pb.StreamImagesResponse.FromString(payload)))
    return found


def test_a_client_gets_the_newest_of_each_slot_once_and_knows_what_it_missed():
    slots, movie, pulses = Slots(), SlotKey(1, "img16", -1), SlotKey(2, "ph256", 3)
    slots.publish(movie, True, b"movie 0")
    early = slots.subscribe(True, True)
    for number in range(1, 4):
        slots.publish(movie, True, b"movie %d" % number)
    slots.publish(pulses, False, b"pulse 0")
    late = slots.subscribe(True, True)
    assert (early.waiting, late.waiting) == (2, 2)
    for client in (early, late):
        assert [client.next() for _ in range(3)] == [b"movie 3", b"pulse 0", None]
    assert (early.sent, early.missed) == (2, 3)  # movie 0 was there when it came
    assert (late.sent, late.missed) == (2, 0)
    slots.publish(movie, True, b"movie 4")
    slots.publish(pulses, False, b"pulse 1")
    slots.publish(movie, True, b"movie 5")
    assert [early.next() for _ in range(3)] == [b"movie 5", b"pulse 1", None]
    assert early.missed == 4
    slots.unsubscribe(early)
    slots.publish(movie, True, b"movie 6")
    assert early.next() is None
    assert late.waiting == 2


def test_a_client_gets_the_kinds_and_modules_that_it_wants():
    slots = Slots()
    clients = [
        slots.subscribe(*wants) for wants in ((True, False), (False, True), (True, True, (2,)))
    ]
    slots.publish(SlotKey(1, "img16", -1), True, b"movie 1")
    slots.publish(SlotKey(2, "img16", -1), True, b"movie 2")
    slots.publish(SlotKey(2, "ph1024", -1), False, b"pulse 2")
    found = [[client.next() for _ in range(client.waiting)] for client in clients]
    assert found == [[b"movie 1", b"movie 2"], [b"pulse 2"], [b"movie 2", b"pulse 2"]]


def test_the_newest_pulse_of_each_board_and_the_newest_movie_frame_are_published():
    slots = Slots()
    client = slots.subscribe(True, True)
    publisher = Publisher(slots)
    for product in ("ph256", "ph1024", "img16"):
        publisher.publish_newest(made_frames(product, 11)[5:])
        publisher.publish_newest(made_frames(product, 11)[:0])
    found = everything_of(client)
    pulses = made_frames("ph256", 11)
    assert [(image.quabo, image.frame_number) for image in found] == [
        *((3, 7), (0, 8), (1, 9), (2, 10), (None, 10), (None, 10))
    ]
    for image in found[:4]:
        np.testing.assert_array_equal(image.image, pulses.image[image.frame_number])
        assert image.time_ns == pulses.time_ns[image.frame_number]
    assert [image.image.dtype.str for image in found[3:]] == ["<i2", "<i2", "<u2"]


def test_only_the_wanted_modules_and_products_are_published():
    slots = Slots()
    client = slots.subscribe(True, True)
    publisher = Publisher(slots, frozenset((1,)), ("img16",))
    publisher.publish_newest(made_frames("ph1024", 1))
    publisher.publish_newest(made_frames("img16", 1, module=2))
    assert client.waiting == 0
    publisher.publish_newest(made_frames("img16", 1))
    assert client.waiting == 1


def test_a_frame_of_a_file_that_was_pushed_before_does_not_come_again(monkeypatch):
    slots, now = Slots(), [100.0]
    monkeypatch.setattr(publish, "time", SimpleNamespace(monotonic=lambda: now[0]))
    client = slots.subscribe(True, True)
    publisher, frames = Publisher(slots), made_frames("ph256", 12)  # boards in turn

    def published(row, pushed):
        publisher.publish(frames, row, pushed=pushed)
        return [image.frame_number for image in everything_of(client)]

    assert published(4, True) == [4]
    assert published(4, False) == []
    assert published(0, False) == []  # older, of the same board
    assert published(5, False) == [5]  # of another board
    assert published(8, False) == [8]  # newer
    assert published(8, True) == []
    assert published(0, False) == [0]  # a clock that is set back
    now[0] += 9.0
    assert published(8, True) == [8]
    now[0] += 11.0
    assert published(4, False) == [4]  # nothing is pushed any more


def test_an_uploaded_image_must_be_of_a_board_that_there_is():
    slots = Slots()
    client = slots.subscribe(True, True)
    Publisher(slots).publish_newest(made_frames("ph256", 2)[1:])
    image = pb.StreamImagesResponse.FromString(client.next()).pano_image
    Publisher(slots).publish_message(image)
    assert everything_of(client)[0].quabo == 1
    for quabo in (4, -1, 0.5):
        image.header.update({"quabo_num": quabo})
        with pytest.raises(DataError, match="quabo_num must be a number from 0 to 3"):
            Publisher(slots).publish_message(image)
