"""A file that is written again is whole, or as it was."""

from pathlib import Path

import pytest

from skywright.files.replacing import replacing


@pytest.mark.parametrize("sync", [False, True])
def test_the_new_file_takes_the_place_of_the_old_one(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "a.json"
    for text in ("old", "new"):
        with replacing(path, sync) as new:
            new.write_text(text)
            assert path.exists() == (text == "new")
    assert [each.read_text() for each in tmp_path.iterdir()] == ["new"]


def fail_to_write(new: Path) -> None:
    new.write_text("half")
    raise OSError("disk full")


def test_after_an_error_the_old_file_is_the_only_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), replacing(path) as new:
        fail_to_write(new)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["old"]
