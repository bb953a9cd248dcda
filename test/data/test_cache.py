import cv2
import numpy as np
import pytest

from amma_core.data.cache import INDEX_FILE, open_or_build, read_frames
from amma_core.errors import AmmaError


@pytest.fixture
def videos(tmp_path) -> dict:
    """Two videos of other sizes and lengths; each frame is one grey value."""
    made = {}
    for name, (frames, width, height) in {"a": (5, 64, 48), "b": (3, 48, 96)}.items():
        path = tmp_path / f"{name}.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (width, height))
        for number in range(frames):
            writer.write(np.full((height, width, 3), 20 * (number + 1), np.uint8))
        writer.release()
        made[name] = path
    return made


def test_cached_frames_are_the_decoded_ones(videos, tmp_path):
    cache = open_or_build(tmp_path / "cache", videos)
    assert len(cache) == 2
    for name, path in videos.items():
        assert (cache[name] == read_frames(path)).all()
    assert cache["b"].shape == (3, 96, 48, 3)
    np.testing.assert_allclose(cache["a"][:, 0, 0, 0], [20, 40, 60, 80, 100], atol=2)


def test_cached_frames_are_read_only(videos, tmp_path):
    frames = open_or_build(tmp_path / "cache", videos)["a"]
    with pytest.raises(ValueError, match="read-only"):
        frames[0] = 0


def test_large_frames_are_shrunk_and_small_ones_kept(videos, tmp_path):
    cache = open_or_build(tmp_path / "cache", videos, max_side=64)
    assert cache["a"].shape == (5, 48, 64, 3)
    assert cache["b"].shape == (3, 64, 32, 3)


def test_a_whole_cache_is_opened_and_another_or_a_broken_one_rebuilt(videos, tmp_path):
    folder = tmp_path / "cache"
    open_or_build(folder, videos)
    built = (folder / INDEX_FILE).stat().st_mtime_ns
    assert "b" in open_or_build(folder, {"a": videos["a"]})
    assert (folder / INDEX_FILE).stat().st_mtime_ns == built
    assert open_or_build(folder, videos, max_side=32)["a"].shape == (5, 24, 32, 3)
    (folder / INDEX_FILE).unlink()  # as after a build that was cut short
    assert open_or_build(folder, videos)["a"].shape == (5, 48, 64, 3)


def test_what_is_no_video_is_named(tmp_path):
    with pytest.raises(AmmaError, match=r"none\.avi"):
        open_or_build(tmp_path / "cache", {"none": tmp_path / "none.avi"})
