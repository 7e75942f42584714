"""The analysis that the documentation shows as a whole one is one."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from skywright.analysis import Analysis, Batch

PAGE = Path(__file__).parents[1] / "docs" / "explanations" / "analysis.md"


def test_the_example_works_and_is_short() -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    assert len(code.splitlines()) <= 45
    names: dict[str, Any] = {}
    exec(code, names)
    analysis: Analysis[Any] = names["BeamPosition"]()
    pictures = np.zeros((3, 20, 30), np.uint8)
    pictures[0, 4, 7] = pictures[1, 5, 9] = 200
    numbers = np.arange(1, 4)
    rows = analysis.update(Batch(numbers, numbers * 1.0, {"image": pictures}))
    assert rows["x"][:2].tolist() == [7, 9]
    assert rows["y"][:2].tolist() == [4, 5]
    assert np.isnan(rows["x"][2])
    result = analysis.result()
    assert (result["x_mean"], result["x_sd"]) == (8, 1)
    assert np.isnan(analysis.fresh().result()["x_mean"])
