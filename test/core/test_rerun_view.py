import numpy as np
import pytest

from amma_core.rerun_view import RerunView
from amma_core.types import FrameDetections


def test_names_with_spaces_and_slashes_stay_one_part_of_the_path(tmp_path):
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    view = RerunView(tmp_path / "run.rrd", ["sit/stand up"])
    view.add(
        np.zeros((48, 64, 3), np.uint8),
        FrameDetections(
            number=1,
            stamp=0,
            labels=np.array([0]),
            scores=np.array([0.5], np.float32),
            boxes=np.array([[1, 2, 30, 40]], np.float32),
            tubes=np.array([7]),
        ),
    )
    view.close()
    content = (tmp_path / "run.rrd").read_bytes()
    assert rb"/score/sit\/stand\ up/7" in content
