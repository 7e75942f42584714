"""Images by the HTTP API: of squares, atlases and micrographs, corrected ones."""

import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from support.epu_api import events, hole

from skywright.instruments.epu.api.app import create_app
from skywright.instruments.epu.database import Database, read
from skywright.instruments.epu.twin.visit import plan_visit
from skywright.instruments.epu.twin.writer import write_visit
from skywright.instruments.epu.watch.watcher import Watcher

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_images_come_only_from_mapped_directories(database: Database, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "shown").mkdir()
    for directory in (tmp_path, tmp_path / "shown"):
        Image.new("L", (8, 4), 7).save(directory / "square.jpg")
    app = create_app(database, path_map={"Z:\\visit": tmp_path / "shown"})
    with TestClient(app) as client:
        client.post("/acquisitions", json={"uuid": "a", "name": "n"})
        client.post("/acquisitions/a/grids", json={"uuid": "g", "name": "n"})
        for uuid, path in (
            ("inside", "Z:\\visit\\square.mrc"),
            ("cygwin", "/cygdrive/z/visit/square.jpg"),  # as the agent sends it
            ("outside", "Z:\\visit\\..\\square.mrc"),
            ("elsewhere", str(tmp_path / "square.jpg")),
            ("none", None),
        ):
            body = {"uuid": uuid, "gridsquare_id": "1", "image_path": path}
            client.post("/grids/g/gridsquares", json=body)
        answers = {
            uuid: client.get(f"/gridsquares/{uuid}/gridsquare_image")
            for uuid in ("inside", "cygwin", "outside", "elsewhere", "none", "unknown")
        }
        assert client.get("/grids/g/atlas_image").status_code == 404
    assert answers["inside"].headers["content-type"] == "image/png"
    for uuid in ("inside", "cygwin"):
        assert answers.pop(uuid).content.startswith(b"\x89PNG")
    assert {answer.status_code for answer in answers.values()} == {404}


def test_an_image_that_cannot_be_read_is_not_found(database: Database, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (400, 400), np.uint8)
    Image.fromarray(noise).save(tmp_path / "damaged.png")
    data = bytearray((tmp_path / "damaged.png").read_bytes())
    second = data.index(b"IDAT", data.index(b"IDAT") + 4)
    data[second : second + 4] = b"\x01\x02\x03\x04"
    (tmp_path / "damaged.png").write_bytes(data)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    app = create_app(database, path_map={"Z:\\visit": tmp_path, "Y:": Path("/")})
    with TestClient(app) as client:
        client.post("/acquisitions", json={"uuid": "a", "name": "n"})
        long = f"Z:\\visit\\{300 * 'x'}"
        client.post("/acquisitions/a/grids", json={"uuid": "g", "name": "n", "atlas_dir": long})
        for path in ("Z:\\visit\\damaged.png", "Z:\\visit\\loop\\a.mrc", f"{long}.mrc", "Y:\\"):
            body = {"uuid": "s", "gridsquare_id": "1", "image_path": path}
            client.post("/grids/g/gridsquares", json=body)
            assert client.get("/gridsquares/s/gridsquare_image").status_code == 404, path
        assert client.get("/grids/g/atlas_image").status_code == 404


def test_images_of_a_tree_that_the_watcher_recorded(database: Database, tmp_path: Path) -> None:
    from PIL import Image

    plan = plan_visit(seed=4, grids=1, squares=3, imaged=1, holes=2, areas=(1, 1))
    write_visit(plan, tmp_path)
    Watcher(tmp_path, database).run(idle_exit=0)
    (manifest,) = tmp_path.rglob("GridSquare_*_*.xml")
    (atlas,) = tmp_path.rglob("Atlas.dm")
    with database.read() as connection:
        (grid,) = read.page(connection, "grid")
        (square,) = (row for row in read.page(connection, "gridsquare") if row["image_path"])
    image = square["image_path"].rpartition("/")[2]
    Image.new("L", (8, 4), 7).save(manifest.with_name(image).with_suffix(".jpg"))
    Image.new("L", (6, 6), 7).save(atlas.with_name("Atlas_1.jpg"))
    urls = {
        f"/gridsquares/{square['uuid']}/gridsquare_image": (8, 4),
        f"/grids/{grid['uuid']}/atlas_image": (6, 6),
    }
    for prefix in ("Z:\\DoseFractions", "z:\\dosefractions\\", "/cygdrive/z/DoseFractions"):
        with TestClient(create_app(database, path_map={prefix: tmp_path})) as client:
            for url, size in urls.items():
                answer = client.get(url)
                assert answer.status_code == 200, (prefix, url)
                assert Image.open(io.BytesIO(answer.content)).size == size
    for other in ("Y:\\DoseFractions", "Z:\\Dose"):
        with TestClient(create_app(database, path_map={other: tmp_path})) as client:
            assert [client.get(url).status_code for url in urls] == [404, 404]


def mrc(pixels: np.ndarray, mode: int, order: str = "<", extended: int = 0) -> bytes:
    head = bytearray(1024)
    struct.pack_into(f"{order}4i", head, 0, pixels.shape[1], pixels.shape[0], 1, mode)
    struct.pack_into(f"{order}i", head, 92, extended)
    head[212:214] = b"\x44\x44" if order == "<" else b"\x11\x11"
    return bytes(head) + bytes(extended) + pixels.tobytes()


@pytest.fixture
def corrected(database: Database, tmp_path: Path) -> Iterator[tuple[TestClient, Path]]:
    """A client of a service with a micrograph, and the directory that it serves as ``Z:``."""
    (tmp_path / "shown").mkdir()
    with TestClient(create_app(database, path_map={"Z:": tmp_path / "shown"})) as client:
        posts: list[tuple[str, Any]] = [
            ("/acquisitions", {"uuid": "a", "name": "n"}),
            ("/acquisitions/a/grids", {"uuid": "g", "name": "n"}),
            ("/grids/g/gridsquares", {"uuid": "s", "gridsquare_id": "3"}),
            ("/gridsquares/s/foilholes", [hole("h")]),
            ("/foilholes/h/micrographs", {"uuid": "m", "foilhole_id": "h"}),
        ]
        for path, body in posts:
            assert client.post(path, json=body).status_code == 201, path
        yield client, tmp_path / "shown"


def correct(client: TestClient, image: Path | str | None, snapshot: Path | str | None) -> None:
    body = {
        "total_motion": 3.0,
        "average_motion": 0.1,
        "motion_corrected_image_path": image and str(image),
        "motion_corrected_snapshot_path": snapshot and str(snapshot),
    }
    answer = client.post("/micrographs/m/motion_correction/completed", json=body)
    assert answer.status_code == 202


def test_the_paths_of_a_corrected_image_are_stored_and_announced(
    tree: TestClient, database: Database
) -> None:
    correct(tree, "/dls/m.mrc", None)
    correct(tree, None, "/dls/m.jpg")
    told = [
        (event["motion_corrected_image_path"], event["motion_corrected_snapshot_path"])
        for event in events(database)
        if event["event_type"] == "motion_correction.completed"
    ]
    assert told == [("/dls/m.mrc", None), (None, "/dls/m.jpg")]
    with database.read() as connection:
        row = read.get(connection, "micrograph", "m")
    assert row is not None
    paths = row["motion_corrected_image_path"], row["motion_corrected_snapshot_path"]
    assert paths == ("/dls/m.mrc", "/dls/m.jpg")  # what a message does not give stays


def test_the_snapshot_of_a_micrograph_is_served_as_it_is(
    corrected: tuple[TestClient, Path],
) -> None:
    from PIL import Image

    client, shown = corrected
    url = "/micrographs/m/micrograph_image"
    assert client.get(url).status_code == 404
    assert client.get("/micrographs/x/micrograph_image").status_code == 404
    Image.new("L", (8, 4), 7).save(shown / "m.jpg")
    for path in (shown / "m.jpg", "Z:\\m.jpg"):
        correct(client, None, path)
        answer = client.get(url, params={"x": 1, "y": 1, "w": 2, "h": 2})
        assert answer.content == (shown / "m.jpg").read_bytes()
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["cache-control"] == "private, max-age=3600"
    Image.new("L", (8, 4), 7).save(shown.parent / "m.jpg")
    (shown / "link.jpg").symlink_to(shown.parent / "m.jpg")
    (shown / "text.jpg").write_text("no image")
    os.mkfifo(shown / "pipe.jpg")
    for path in ("../m.jpg", "link.jpg", "text.jpg", "pipe.jpg", ".", "none.jpg"):
        correct(client, f"{shown}/{path}", f"{shown}/{path}")
        assert client.get(url).status_code == 404, path


def test_a_corrected_image_is_served_as_png(corrected: tuple[TestClient, Path]) -> None:
    from PIL import Image

    client, shown = corrected
    url = "/micrographs/m/micrograph_image"
    correct(client, shown / "m.mrc", shown / "none.jpg")
    levels = np.arange(60).reshape(6, 10)
    for kind, mode, order, extended in (
        ("<f4", 2, "<", 0),
        (">f4", 2, ">", 128),
        ("<i2", 1, "<", 0),
        ("<u2", 6, "<", 0),
        ("<f2", 12, "<", 0),
        ("i1", 0, "<", 0),
    ):
        (shown / "m.mrc").write_bytes(mrc(levels.astype(kind), mode, order, extended))
        answer = client.get(url)
        assert answer.headers["content-type"] == "image/png"
        found = np.asarray(Image.open(io.BytesIO(answer.content)))
        assert np.abs(found - levels * 255 / 59).max() < 1, kind
        answer = client.get(url, params={"x": 5, "y": 2, "w": 4, "h": 2})
        part = np.asarray(Image.open(io.BytesIO(answer.content)))
        assert (part == found[1:3, 3:7]).all()
    assert client.get(url, params={"x": 50, "y": 2, "w": 4, "h": 2}).status_code == 422


def test_a_corrected_image_that_cannot_be_read_is_not_found(
    corrected: tuple[TestClient, Path],
) -> None:
    client, shown = corrected
    pixels = np.full((6, 10), np.nan, "<f4")
    whole = mrc(pixels, 2)
    for content, status in (
        (whole, 200),
        (whole[:-1], 404),
        (whole[:100], 404),
        (b"", 404),
        (mrc(pixels, 4), 404),
        (mrc(pixels[:0], 2), 404),
        (mrc(pixels, 2, extended=4)[:-4], 404),
        (b"\xff" * 4096, 404),
        (b"\x7f" * 4096, 404),
    ):
        (shown / "m.mrc").write_bytes(content)
        correct(client, shown / "m.mrc", None)
        assert client.get("/micrographs/m/micrograph_image").status_code == status


def test_a_part_of_an_atlas(database: Database, tmp_path: Path) -> None:
    from PIL import Image

    image = Image.new("L", (60, 40), 0)
    image.paste(255, (30, 0, 60, 40))
    image.save(tmp_path / "Atlas_1.jpg")
    with TestClient(create_app(database, path_map={"Z:": tmp_path})) as client:
        client.post("/acquisitions", json={"uuid": "a", "name": "n"})
        client.post("/acquisitions/a/grids", json={"uuid": "g", "name": "n", "atlas_dir": "Z:/"})

        def part(**place: int) -> tuple[tuple[int, int], float]:
            answer = client.get("/grids/g/atlas_image", params=place)
            found = Image.open(io.BytesIO(answer.content))
            return found.size, float(np.asarray(found).mean())

        size, level = part(x=45, y=20, w=20, h=10)
        assert (size, round(level)) == ((20, 10), 255)
        assert part(x=0, y=0, w=20, h=10)[0] == (10, 5)  # the rest is outside
        assert part(x=45, y=20)[0] == (60, 40)
        (tmp_path / "Atlas_1.mrc").write_bytes(struct.pack("<2i", 600, 400))
        size, level = part(x=450, y=200, w=200, h=100)
        assert (size, round(level)) == ((20, 10), 255)
        for w in (0, -5):
            place = {"x": 45, "y": 20, "w": w, "h": 10}
            assert client.get("/grids/g/atlas_image", params=place).status_code == 422
