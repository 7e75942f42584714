"""How near fits come to the truth, against what the noise allows; for the accuracy tests."""

import json

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.psss.processing import FWHM_PER_SIGMA, FitStatus, Spectrum


class FitScores:
    """Errors of center and FWHM, over their bounds, their own uncertainties and the width."""

    def __init__(self) -> None:
        self.count = self.flagged = self.silent = 0
        self._errors: list[NDArray[np.float64]] = []
        self._bounds: list[tuple[float, float]] = []
        self._stated: list[tuple[float, float]] = []
        self._widths: list[float] = []

    def add(self, found: Spectrum, center: float, fwhm: float, bound: NDArray[np.float64]) -> None:
        """Score one fit; `bound` is what `cramer_rao` returns."""
        self.count += 1
        if found.status is not FitStatus.OK:
            self.flagged += 1
            return
        error = np.array([found.center - center, found.fwhm - fwhm])
        self.silent += bool((np.abs(error) > 0.1 * fwhm).any())
        self._errors.append(error)
        self._bounds.append((bound[1], FWHM_PER_SIGMA * bound[2]))
        self._stated.append((found.center_error, found.fwhm_error))
        self._widths.append(fwhm)

    def figures(self) -> dict[str, float]:
        errors = np.array(self._errors)
        of_bound = np.sqrt(np.mean((errors / self._bounds) ** 2, axis=0))
        of_stated = np.sqrt(np.mean((errors / self._stated) ** 2, axis=0))
        bias = np.abs(np.mean(errors / np.array(self._widths)[:, None], axis=0))
        return {
            "count": self.count,
            "center_over_bound": round(float(of_bound[0]), 3),
            "width_over_bound": round(float(of_bound[1]), 3),
            "center_bias_of_width": round(float(bias[0]), 5),
            "width_bias_of_width": round(float(bias[1]), 5),
            "center_pull": round(float(of_stated[0]), 3),
            "width_pull": round(float(of_stated[1]), 3),
            "flagged": self.flagged,
            "silent": self.silent,
        }

    def check(self, name: str) -> None:
        """Print the figures, and hold them against the goals."""
        found = self.figures()
        print(json.dumps({"name": name, **found}))
        assert found["center_over_bound"] <= 1.3
        assert found["width_over_bound"] <= 1.3
        assert found["center_bias_of_width"] < 0.01
        assert found["width_bias_of_width"] < 0.01
        assert found["silent"] == 0
        assert found["flagged"] <= 0.005 * found["count"]
