"""Objects made from settings: what is wrong is named in one line."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter

from skywright.arguments import check_output_directory, make_from
from skywright.errors import ConfigError, DataError


@dataclass
class Scale:
    """The value of an argument."""

    um: float
    date: str


class Analyzer:
    """Takes a value of a type that pydantic does not know, and others."""

    def __init__(
        self,
        mask: NDArray[np.float64] | None = None,
        count: int = 1,
        scale: Mapping[str, Any] | None = None,
        file: str = "",
    ) -> None:
        if scale is not None:
            TypeAdapter(Scale).validate_python(scale)
        if file.startswith("/"):
            raise FileNotFoundError(errno.ENOENT, "No such file", file)
        if file:
            raise DataError(file)


class Broken:
    """Cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError("no device")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"mask": [1.0], "count": "x"}, r"count: Input should be a valid integer.*\(got 'x'\)$"),
        ({"count": "2"}, r"count: got the text '2'; write the value without quotes$"),
        ({"scale": {"um": 1.0}}, r"scale: date: is missing$"),
        ({"file": "a" * 300}, r"a{300}$"),
        ({"file": "/a" * 99}, r"file: \[Errno 2\] No such file: '(/a){99}'$"),
    ],
)
def test_the_first_wrong_value_is_named(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=f"^{says}"):
        make_from(Analyzer, given)


def test_a_type_that_is_not_known_here_is_not_checked() -> None:
    def take(inner: list["Absent"], count: int = 1) -> None:  # type: ignore[name-defined]  # noqa: F821
        pass

    make_from(take, {"inner": [1]})
    with pytest.raises(ConfigError, match=r"^count: "):
        make_from(take, {"inner": [1], "count": "x"})
    for unknown in ("Absent", "np.absent", "1 | 2 | None"):
        take.__annotations__["inner"] = unknown
        make_from(take, {"inner": [1]})


def test_an_error_without_arguments_names_none() -> None:
    with pytest.raises(ConfigError, match=r"^no device$"):
        make_from(Broken, {})


@pytest.mark.parametrize("below", ["", "new", "new/er"])
def test_a_directory_that_is_not_writable_is_refused(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_output_directory("--dir", tmp_path / below)
    assert not [*tmp_path.iterdir()]
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(ConfigError, match=f"^--dir .*: {tmp_path} cannot be written by this user$"):
        check_output_directory("--dir", tmp_path / below)
