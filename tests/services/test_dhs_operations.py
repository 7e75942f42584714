"""The operations that answer from one picture: arguments, units, order and failures."""

import asyncio
import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.dhs import Bench, SlowDetector, bench
from support.loop_pictures import Drawn, empty, to_jpeg, turned

from skywright.errors import DataError, HardwareError
from skywright.instruments.loop.backends.automl import AutoMLDetector
from skywright.instruments.loop.dhs.config import DhsConfig
from skywright.instruments.loop.picture import decode

PLAIN = Drawn()
DARK = to_jpeg(np.full((480, 704), 8, np.uint8))
PX = 2.0
BOX_PX = 4.0  # of an edge of a box; how exact the detector is, other tests say
"""What an edge in a JPEG may be off."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory: Path = tmp_path_factory.mktemp("dhs")
    with bench(config=DhsConfig(video_fps=25.0, osci_delta=0.0), save_directory=directory) as made:
        yield made


@pytest.fixture
def face(shared: Bench) -> Iterator[Bench]:
    """The bench, its camera looking at a plain loop."""
    shared.snapshots[:] = [PLAIN.jpeg()]
    yield shared
    shared.snapshots[:] = [PLAIN.jpeg()]
    assert shared.link.run("addImageToList", new_handle(), -2) == "normal 0 0"
    completed = [text for text in shared.link.messages if "completed" in text]
    handles = [text.split()[2] for text in completed]
    assert len(handles) == len(set(handles)), "an operation was completed twice"


_handles = iter(range(1, 1_000_000))


def new_handle() -> str:
    return f"7.{next(_handles)}"


def ask(face: Bench, operation: str, *arguments: object) -> list[str]:
    """Run an operation and return the words of its reply; no number has more than 5 decimals."""
    words = face.link.run(operation, new_handle(), *arguments).split()
    assert all(len(word.partition(".")[2]) <= 5 for word in words if word[0].isdigit())
    return words


def x(value: str) -> float:
    """Return a column, px, pixel centers at whole numbers."""
    return float(value) * PLAIN.width - 0.5


def y(value: str) -> float:
    return float(value) * PLAIN.height - 0.5


def test_camera_is_there_or_not(face: Bench) -> None:
    assert ask(face, "initializeCamera", "loopCamera") == [
        "normal",
        "loopCamera",
        "704",
        "480",
        "25",
    ]
    face.snapshots[:] = [HardwareError("no route to host")]
    assert ask(face, "initializeCamera", "loopCamera") == ["error", "camera_unreachable"]
    assert ask(face, "initializeCamera")[0] == "error"


@pytest.mark.parametrize("name", ["{my cam}", "a{b", "a[b]", "$cam"])
def test_a_camera_whose_name_would_break_the_reply_is_refused(face: Bench, name: str) -> None:
    assert ask(face, "initializeCamera", name)[:4] == ["error", "the", "name", "of"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_tip_in_the_forms_of_the_flag(face: Bench, side: str) -> None:
    face.snapshots[:] = [replace(PLAIN, side=side).jpeg()]
    tip = PLAIN.tip if side == "left" else PLAIN.width - 1 - PLAIN.tip
    pin = PLAIN.pin_end if side == "left" else PLAIN.width - 1 - PLAIN.pin_end
    for arguments in ((), (0,)):
        words = ask(face, "getLoopTip", *arguments)
        assert words[0] == "normal"
        assert x(words[1]) == pytest.approx(tip, abs=PX)
        assert y(words[2]) == pytest.approx(PLAIN.row, abs=PX)
        assert words[3:] == ["704", "480"]
    words = ask(face, "getLoopTip", 1)
    assert len(words) == 4
    assert x(words[3]) == pytest.approx(pin, abs=2 * PX)
    assert ask(face, "getLoopTip", -1)[3:] == ["0"]


@pytest.mark.parametrize("flag", ["two", "{}", "0.5", "nan", "1e999"])
def test_unreadable_arguments_are_errors(face: Bench, flag: str) -> None:
    assert ask(face, "getLoopTip", flag)[0] == "error"
    assert ask(face, "getLoopInfo", flag.replace("0.5", "half"))[0] == "error"


def test_tip_that_is_not_there(face: Bench) -> None:
    face.snapshots[:] = [replace(PLAIN, stem_end=560.0, tip=720.0).jpeg()]
    assert ask(face, "getLoopTip") == ["error", "TipNotInView", "+"]
    assert ask(face, "getLoopInfo") == ["failed", "clipped"]
    face.snapshots[:] = [to_jpeg(empty())]
    assert ask(face, "getLoopTip") == ["error", "TipNotInView", "+"]
    assert ask(face, "getLoopInfo")[0] == "failed"


def test_no_light_is_no_missing_loop(face: Bench) -> None:
    face.snapshots[:] = [DARK]
    for operation in ("getLoopTip", "getLoopInfo"):
        assert ask(face, operation) == ["error", "flat", "image"]
    assert ask(face, "getVerticalCut", 0.5) == ["error", "flat", "image"]
    assert ask(face, "addImageToList", -1) == ["failed", "flat", "image"]


@pytest.mark.parametrize(
    "trouble", [HardwareError("refused"), DataError("text/html"), PLAIN.jpeg()[:2000], b""]
)
def test_no_picture_is_said(face: Bench, trouble: bytes | Exception) -> None:
    face.snapshots[:] = [trouble]
    for operation in ("getLoopTip", "getLoopInfo"):
        assert ask(face, operation) == ["error", "failed", "to", "get", "image"]
        assert "failed to get image: " in face.link.notes()[-1]
    face.snapshots[:] = [PLAIN.jpeg()]
    assert ask(face, "getLoopTip")[0] == "normal"


def test_loop_info_has_13_values_in_order(face: Bench) -> None:
    words = ask(face, "getLoopInfo", 0.2)
    assert words[0] == "normal"
    tip_x, tip_y, base, fiber, width, x0, x1, y0, y1, length, micro, kind, score = words[1:]
    assert x(tip_x) == pytest.approx(450.0, abs=PX)
    assert y(tip_y) == pytest.approx(240.0, abs=PX)
    assert x(base) == pytest.approx(150.0, abs=2 * PX)
    assert float(fiber) * 480 == pytest.approx(9.0, abs=4)
    assert (x(x0), x(x1)) == pytest.approx((330.0, 450.0), abs=8)
    assert (y(y0), y(y1)) == pytest.approx((190.0, 290.0), abs=BOX_PX)
    assert float(width) == pytest.approx(float(y1) - float(y0), abs=2e-5)
    assert float(length) == pytest.approx(float(x1) - float(x0), abs=2e-5)
    assert (micro, kind) == ("0", "nylon")
    assert 0.5 < float(score) <= 1


def test_a_bare_pin_has_an_end_and_is_no_loop(face: Bench) -> None:
    face.snapshots[:] = [replace(PLAIN, bare=True).jpeg()]
    words = ask(face, "getLoopInfo")
    assert words[0] == "normal"
    assert words[11:13] == ["0", "pin"]
    assert x(words[1]) == pytest.approx(151.0, abs=2 * PX)
    assert ask(face, "getLoopTip", -1)[-1] == "0"


def test_vertical_cut(face: Bench) -> None:
    places = (0.1, 0.35, 390 / 704, 0.9)
    words = ask(face, "getVerticalCut", *places)
    assert words[:2] == ["normal", "4"]
    triples = [words[2 + 3 * i : 5 + 3 * i] for i in range(4)]
    assert [float(t[0]) for t in triples] == pytest.approx(places, abs=1e-5)
    halves = (PLAIN.pin_half, 4.0, PLAIN.half)
    for (_, upper, lower), half in zip(triples[:3], halves, strict=True):
        assert y(upper) == pytest.approx(PLAIN.row - half, abs=PX)
        assert y(lower) == pytest.approx(PLAIN.row + half, abs=PX)
    assert triples[3][1:] == ["-1", "-1"]
    for wrong in ((), ("a",), (1.5,), (-0.1,), (0.1,) * 31):
        assert ask(face, "getVerticalCut", *wrong)[0] == "error"
    face.snapshots[:] = [to_jpeg(empty())]
    assert ask(face, "getVerticalCut", 0.5) == ["normal", "1", "0.5", "-1", "-1"]
    assert ask(face, "getVerticalCut", *[0.123456] * 30)[:2] == ["normal", "30"]


def test_pin_diameters(face: Bench) -> None:
    words = ask(face, "getPinDiameters", 30, 4)
    assert words[0] == "normal"
    assert x(words[1]) == pytest.approx(150.0, abs=2 * PX)
    assert words[2] == "4"
    assert len(words) == 3 + 2 * 4
    for upper, lower in zip(words[3::2], words[4::2], strict=True):
        assert y(upper) == pytest.approx(240 - 45, abs=PX)
        assert y(lower) == pytest.approx(240 + 45, abs=PX)
    right = replace(PLAIN, side="right")
    face.snapshots[:] = [right.jpeg()]
    assert len(ask(face, "getPinDiameters", 30, 4)) == 3 + 2 * 4
    too_many, bad_length = "RequireTooManyDiametersOrNegativeNumber", "InvalidLengthParameter"
    for arguments, expected in (
        ((30, 9), too_many),
        ((30, -1), too_many),
        ((30, 0), too_many),
        ((30, "many"), too_many),
        ((30, 1.5), too_many),
        ((0, 2), bad_length),
        (("long", 2), bad_length),
        ((100, 4), "ScanDeltaWidthListIsNotGoodForPinIDDetction"),
    ):
        assert ask(face, "getPinDiameters", *arguments) == ["error", expected]
    assert ask(face, "getPinDiameters", 30)[0] == "error"
    face.snapshots[:] = [to_jpeg(empty())]
    assert ask(face, "getPinDiameters", 30, 2) == ["error", "PinNotInView", "+"]


def fill_list(face: Bench, count: int = 18, step_deg: float = 10.0, **more: float) -> None:
    """List a loop that turns, face-on at 30 deg."""
    face.snapshots[:] = [turned(i * step_deg - 30.0).jpeg() for i in range(count)]
    for index in range(count):
        extra = (index * step_deg,) if more.get("angles") else ()
        words = ask(face, "addImageToList", index, *extra)
        assert words[0] == "normal"
        assert float(words[2]) == pytest.approx(float(words[1]) / 480, abs=1e-5)


def test_bounding_box_from_18_pictures(face: Bench) -> None:
    fill_list(face)
    words = ask(face, "findBoundingBox", "Both", "Both")
    assert words[0] == "normal"
    assert int(words[1]) == pytest.approx(3, abs=1)
    assert (int(words[2]) - int(words[1])) % 18 == 9
    face_box, edge_box = words[3:7], words[7:11]
    assert len(words) == 11
    assert y(face_box[3]) - y(face_box[1]) == pytest.approx(120, abs=2 * BOX_PX)
    assert y(edge_box[3]) - y(edge_box[1]) == pytest.approx(30, abs=2 * BOX_PX)
    assert (x(face_box[0]), x(face_box[2])) == pytest.approx((330, 450), abs=8)
    assert ask(face, "findBoundingBox", "Both", "Both") == ["error", "no", "image", "list"]


def test_bounding_box_of_any_count_and_by_angles(face: Bench) -> None:
    fill_list(face, count=7, step_deg=30.0, angles=True)
    assert ask(face, "findBoundingBox", "Both", "Both")[1:3] == ["1", "4"]
    fill_list(face, count=6, step_deg=30.0)
    assert ask(face, "findBoundingBox", "Both", "Both")[1:3] == ["1", "4"]
    fill_list(face, count=2)
    assert ask(face, "findBoundingBox", "Both")[0] == "error"
    fill_list(face, count=3, angles=True)
    expected = ["error", "CurrentSettingsAreNotSuitableForCentering"]
    assert ask(face, "findBoundingBox", "Both", "Both") == expected


def test_pictures_that_cannot_be_listed(face: Bench) -> None:
    fill_list(face, count=2)
    far = replace(PLAIN, row=120.0)
    for picture, expected in (
        (far.jpeg(), "PhaseICenterResultIsNotGood"),
        (to_jpeg(empty()), "NoHeightInfo"),
    ):
        fill_list(face, count=2)
        face.snapshots[:] = [picture]
        assert ask(face, "addImageToList", 2) == ["error", expected]
        assert ask(face, "findBoundingBox", "a", "b") == ["error", "no", "image", "list"]
    fill_list(face, count=2)
    face.snapshots[:] = [replace(PLAIN, stem_end=560.0, tip=720.0).jpeg()]
    assert ask(face, "addImageToList", 2) == ["error", "TipNotInView", "+"]
    assert ask(face, "findBoundingBox", "a", "b")[:3] == ["normal", "1", "0"]
    for wrong in ((), ("first",), (-4,), (1.5,)):
        assert ask(face, "addImageToList", *wrong)[0] == "error"


def test_a_full_disk_does_not_take_the_background_away() -> None:
    with bench(save_directory=Path("/dev/null/full")) as face:  # nothing can be made below it
        face.snapshots[:] = [PLAIN.jpeg()]
        assert face.link.run("addImageToList", "1.1", -1) == "normal 0 0"
        assert "is used, but it could not be saved" in face.link.notes()[0]
        # The view divided by itself shows nothing any more.
        assert face.link.run("getLoopTip", "1.2").startswith("error")


def test_a_full_disk_leaves_the_background_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with bench(save_directory=tmp_path) as face:
        face.snapshots[:] = [PLAIN.jpeg()]
        assert face.link.run("addImageToList", "1.1", -1) == "normal 0 0"
        before = (tmp_path / "background.png").read_bytes()
        monkeypatch.setattr(Path, "write_bytes", full)
        assert face.link.run("addImageToList", "1.2", -1) == "normal 0 0"
    assert (tmp_path / "background.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["background.png"]


def test_background_is_divided_out(face: Bench, tmp_path: Path) -> None:
    test_picture = face.link.run("testAutoML", new_handle()).split()[2:]
    shade = np.ones((480, 704))
    shade[200:280, 470:520] = 0.3  # something that stands in the light, at the end of the loop
    face.snapshots[:] = [to_jpeg((empty() * shade).astype(np.uint8))]
    assert ask(face, "addImageToList", -1) == ["normal", "0", "0"]
    loop = to_jpeg((PLAIN.gray() * shade).astype(np.uint8))
    face.snapshots[:] = [loop]
    with_background = ask(face, "getLoopTip")
    assert x(with_background[1]) == pytest.approx(450.0, abs=2 * PX)
    for no_background, status in ((HardwareError("camera: no answer"), "error"), (DARK, "failed")):
        face.snapshots[:] = [no_background]
        assert ask(face, "addImageToList", -1)[0] == status
        face.snapshots[:] = [loop]
        assert ask(face, "getLoopTip") == with_background
    for no_file in ((), ("{}",)):
        assert ask(face, "addImageToList", -2)[0] == "normal"
        assert ask(face, "getLoopTip") != with_background
        assert ask(face, "addImageToList", -3, *no_file)[0] == "normal"  # the one that was taken
        assert ask(face, "getLoopTip") == with_background
    assert face.link.run("testAutoML", new_handle()).split()[2:] == test_picture
    assert ask(face, "addImageToList", -3, tmp_path / "none.png")[0] == "error"
    Image.new("L", (640, 480), 200).save(tmp_path / "small.png")
    assert ask(face, "addImageToList", -3, tmp_path / "small.png")[0] == "normal"
    ask(face, "getLoopTip")
    assert "left out: 640 x 480 px" in face.link.notes()[-1]


def test_the_test_picture(face: Bench) -> None:
    handle = new_handle()
    reply = face.link.run("testAutoML", handle)
    assert face.link.updates(handle) == ["about to predict one test image"]
    status, key, score, rest = reply.split(" ", 3)
    box, _, last = rest.removeprefix("{").partition("} ")
    y0, x0, y1, x1 = map(float, box.split())
    assert (status, key) == ("normal", f"testAutoML:{handle}")
    assert 0 <= y0 < y1 <= 1
    assert 0 <= x0 < x1 <= 1
    kind, again = last.split()
    assert kind == "nylon"
    assert 0.5 < float(score) == float(again) <= 1


def test_the_test_picture_is_answered_whatever_its_score(
    face: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    blank = to_jpeg(empty())
    monkeypatch.setattr(
        "skywright.instruments.loop.dhs.operations.decode", lambda *_: decode(blank)
    )
    handle = new_handle()
    reply = face.link.run("testAutoML", handle)
    head, _, last = reply.partition(" {0 0 0 0} ")
    assert head.startswith(f"normal testAutoML:{handle} ")
    assert last.split()[0] == "none"
    assert float(last.split()[1]) == float(head.split()[2]) < 0.5


def test_a_picture_of_the_detector_that_stands_in_comes_with_a_note() -> None:
    nobody = "http://127.0.0.1:1"
    with bench(AutoMLDetector(nobody)) as face:
        face.snapshots[:] = [PLAIN.jpeg()]
        for count, operation in enumerate(("testAutoML", "getLoopTip"), start=1):
            assert face.link.run(operation, new_handle()).startswith("normal ")
            notes = [text for text in face.link.notes() if "built-in detector" in text]
            assert len(notes) == count
            assert operation in notes[-1]
            assert nobody in notes[-1]


def test_a_detector_that_takes_too_long_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("skywright.instruments.loop.dhs.snapshots.LIMIT_S", 1.0)
    slow = SlowDetector(seconds=30.0)
    with bench(slow) as face:
        face.snapshots[:] = [PLAIN.jpeg()]
        assert face.link.run("getLoopTip", "1.1") == "error nothing found in 1 s"
        slow.release.set()
        assert face.link.run("getLoopTip", "1.2").startswith("normal ")


def test_while_the_detector_is_compiled_operations_wait_and_then_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("skywright.instruments.loop.dhs.service.WARM_UP_WAIT_S", 0.2)
    warm = asyncio.Event()
    with bench(warm=warm) as made:
        made.snapshots[:] = [Drawn().jpeg()]
        link = made.link
        assert link.run("initializeCamera", "1.1", "cam") == "normal cam 704 480 30"
        assert link.run("stopCollectLoopImages", "1.2") == "normal flag set"
        for handle, operation in enumerate(("getLoopInfo", "collectLoopImages", "testAutoML")):
            assert link.run(operation, f"2.{handle}") == "error warming up"
            assert f"{operation} 2.{handle}: warming up" in link.notes()[-1]
            assert link.updates(f"2.{handle}") == []
        monkeypatch.setattr("skywright.instruments.loop.dhs.service.WARM_UP_WAIT_S", 20.0)
        notes = len(link.notes())
        link.start("getLoopTip", "3.1")
        link.until(lambda: len(link.notes()) > notes)
        made.loops[0].call_soon_threadsafe(warm.set)
        assert link.reply("3.1").startswith("normal ")
