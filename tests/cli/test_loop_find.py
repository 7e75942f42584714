"""`skywright loop find` over real pictures."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skywright.cli import main

KEYS = ["file", "tip", "bbox", "class", "width", "side", "score", "ms"]
PICTURES = {"nylon_crystal_right.jpg": "right", "loop_liquid_top.jpg": "top"}


@pytest.fixture
def pictures(test_data: Path, tmp_path: Path) -> list[Path]:
    for name in PICTURES:
        shutil.copy(test_data / "loop" / name, tmp_path)
    return [tmp_path / name for name in PICTURES]


def find(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["loop", "find", *map(str, args)])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_one_object_a_line(capsys: pytest.CaptureFixture[str], pictures: list[Path]) -> None:
    status, out, err = find(capsys, "--json", *pictures)
    assert (status, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["file"] for row in rows] == [str(path) for path in pictures]
    for row, path in zip(rows, pictures, strict=True):
        with Image.open(path) as image:
            width_px, height_px = image.size
        assert list(row) == KEYS
        assert row["side"] == PICTURES[path.name]
        x, y = row["tip"]
        xmin, ymin, xmax, ymax = row["bbox"]
        assert -0.5 <= xmin < xmax <= width_px - 0.5
        assert -0.5 <= ymin < ymax <= height_px - 0.5
        assert xmin - 1 <= x <= xmax + 1
        assert ymin - 1 <= y <= ymax + 1
        assert row["class"] in ("nylon", "mitegen", "pin")
        assert 0 < row["width"] < max(width_px, height_px)
        assert 0 < row["score"] <= 1
        assert row["ms"] > 0


def test_empty_view_is_null(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(180, 2, (480, 704)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "empty.png")
    status, out, _ = find(capsys, tmp_path / "empty.png", "--json")
    assert status == 0
    row = json.loads(out)
    assert (row["tip"], row["bbox"], row["width"], row["side"]) == (None, None, None, None)
    assert row["class"] == "none"
    assert 0 <= row["score"] < 0.5


def test_unreadable_files_do_not_stop_the_others(
    capsys: pytest.CaptureFixture[str], pictures: list[Path], tmp_path: Path
) -> None:
    whole = pictures[0].read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    bad = [tmp_path / name for name in ("cut.jpg", "empty.jpg", "text.jpg", "absent.jpg", ".")]
    status, out, err = find(capsys, "--json", *bad[:2], pictures[0], *bad[2:], pictures[1])
    assert status == 2
    assert [json.loads(line)["file"] for line in out.splitlines()] == [str(p) for p in pictures]
    assert [line.split(": ")[1] for line in err.splitlines()] == [str(path) for path in bad]
    assert "BytesIO" not in err  # Pillow names its object


def test_table(capsys: pytest.CaptureFixture[str], pictures: list[Path]) -> None:
    status, out, _ = find(capsys, *pictures)
    assert status == 0
    assert out.split()[: len(KEYS)] == KEYS
    assert len(out.splitlines()) >= 1 + len(pictures)


def test_an_edge_a_little_outside_the_picture_is_no_minus_zero(
    capsys: pytest.CaptureFixture[str], test_data: Path
) -> None:
    status, out, _ = find(capsys, test_data / "loop" / "nylon_crystal_cut_by_top_right.jpg")
    assert status == 0
    assert "-0" not in out


def test_no_file_is_bad_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert find(capsys, "--json")[0] == 2


def test_needs_no_store_and_prints_json_alone(pictures: list[Path], tmp_path: Path) -> None:
    """A fresh process: no server, no configuration, and stdout is JSON to the last byte."""
    done = subprocess.run(
        [sys.executable, "-m", "skywright.cli", "loop", "find", "--json", *pictures, "absent.jpg"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 2
    assert "absent.jpg" in done.stderr
