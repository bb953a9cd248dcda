import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from amma_core.data.cache import (
    INDEX_FILE,
    OLD_FRAMES_FILE,
    SECONDS_AT_WORK,
    FrameCache,
    open_or_build,
)
from amma_core.errors import AmmaError
from amma_core.video import VideoReader

ROOT = Path(__file__).parents[2]


@pytest.fixture
def videos(tmp_path) -> dict:
    """Two videos of other sizes and lengths; each frame is one grey value."""
    made = {}
    for name, (frames, width, height) in {"a": (5, 64, 48), "b": (3, 48, 96)}.items():
        made[name] = record(tmp_path / f"{name}.avi", [20 * (i + 1) for i in range(frames)], (width, height))
    return made


def read_frames(path: Path) -> np.ndarray:
    return np.stack([image for image, _ in VideoReader(path)])


def record(path: Path, levels: list[int], size: tuple[int, int]) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, size)
    for level in levels:
        writer.write(np.full((size[1], size[0], 3), level, np.uint8))
    writer.release()
    return path


def test_cached_frames_are_the_decoded_ones(videos, tmp_path):
    cache = open_or_build(tmp_path / "cache", videos)
    assert len(cache) == 2
    for name, path in videos.items():
        assert (cache[name] == read_frames(path)).all()
    assert cache["b"].shape == (3, 96, 48, 3)
    np.testing.assert_allclose(cache["a"][:, 0, 0, 0], [20, 40, 60, 80, 100], atol=2)


def test_runs_that_add_at_the_same_time_lose_nothing(tmp_path):
    imports = "import sys; from pathlib import Path; from amma_core.data.cache import open_or_build\n"
    add = "[open_or_build(sys.argv[1], {f'{sys.argv[3]} {i}': Path(sys.argv[2])}) for i in range(15)]"
    video = record(tmp_path / "video.avi", [20], (16, 16))
    commands = [[sys.executable, "-c", imports + add, tmp_path / "cache", video, run] for run in "abcd"]
    runs = [subprocess.Popen(command, cwd=ROOT) for command in commands]
    assert [run.wait() for run in runs] == [0] * 4
    assert len(FrameCache(tmp_path / "cache")) == 60


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


def test_what_is_missing_is_added_and_the_rest_stays(videos, tmp_path):
    folder = tmp_path / "cache"
    first = open_or_build(folder, {"a": videos["a"]})["a"]
    videos["a"].rename(tmp_path / "elsewhere.avi")  # held by its size and time, not by its place
    both = open_or_build(folder, {"a": tmp_path / "elsewhere.avi", "b": videos["b"]})
    assert both["b"].shape == (3, 96, 48, 3)
    assert (both["a"] == first).all()
    sizes = sorted(path.stat().st_size for path in folder.glob("*.u8"))
    assert sizes == sorted([both["a"].nbytes, both["b"].nbytes])


def test_a_video_that_was_recorded_again_is_decoded_again(videos, tmp_path):
    folder = tmp_path / "cache"
    before = open_or_build(folder, videos)
    record(videos["a"], [200, 210], (64, 48))
    after = open_or_build(folder, videos)
    np.testing.assert_allclose(after["a"][:, 0, 0, 0], [200, 210], atol=2)
    assert (after["b"] == before["b"]).all()
    # A run that began before keeps what it has seen.
    np.testing.assert_allclose(before["a"][:, 0, 0, 0], [20, 40, 60, 80, 100], atol=2)


def test_a_folder_of_frames_counts_as_changed_with_its_images(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    cv2.imwrite(str(images / "1.png"), np.full((8, 8, 3), 10, np.uint8))
    assert len(open_or_build(tmp_path / "cache", {"a": images})["a"]) == 1
    cv2.imwrite(str(images / "2.png"), np.full((8, 8, 3), 20, np.uint8))
    assert open_or_build(tmp_path / "cache", {"a": images})["a"][:, 0, 0, 0].tolist() == [10, 20]
    cv2.imwrite(str(images / "1.png"), np.full((8, 8, 3), 200, np.uint8))
    assert open_or_build(tmp_path / "cache", {"a": images})["a"][:, 0, 0, 0].tolist() == [200, 20]


def test_images_of_different_sizes_are_no_video(tmp_path):
    for i, side in enumerate((8, 16)):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.zeros((side, side, 3), np.uint8))
    with pytest.raises(AmmaError, match="images of different sizes"):
        open_or_build(tmp_path / "cache", {"a": tmp_path})


def test_a_video_may_be_larger_than_the_memory(tmp_path):
    imports = "import resource, sys\nfrom pathlib import Path\n"
    build = "from amma_core.data.cache import open_or_build\n"
    build += "open_or_build(Path(sys.argv[1]), {sys.argv[2]: Path(sys.argv[2])})\n"
    peak = "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)"
    used = []
    for frames in (2, 200):
        video = record(tmp_path / f"{frames}.avi", [20] * frames, (640, 480))
        command = [sys.executable, "-c", imports + build + peak, tmp_path / "cache", video]
        used.append(float(subprocess.check_output(command, cwd=ROOT)))
    assert used[1] - used[0] < 60  # all frames together: 184 MB


def test_frames_that_nothing_needs_any_more_are_removed_but_not_from_who_maps_them(videos, tmp_path):
    folder = tmp_path / "cache"
    mapped = open_or_build(folder, videos)
    shrunk = open_or_build(folder, videos, max_side=32)
    assert len(list(folder.iterdir())) == 3  # the index, its lock and one file of frames
    assert shrunk["a"].shape == (5, 24, 32, 3)
    for name, path in videos.items():
        assert (mapped[name] == read_frames(path)).all()


def test_a_cache_of_an_older_version_is_built_anew(videos, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / OLD_FRAMES_FILE).write_bytes(bytes(5 * 64 * 48 * 3))
    (folder / INDEX_FILE).write_text(json.dumps({"max_side": None, "videos": {"a": [0, 5, 48, 64]}}))
    assert (open_or_build(folder, {"a": videos["a"]})["a"] == read_frames(videos["a"])).all()
    assert not (folder / OLD_FRAMES_FILE).exists()


def test_a_build_that_fails_leaves_the_cache_as_it_was(videos, tmp_path):
    folder = tmp_path / "cache"
    open_or_build(folder, {"a": videos["a"]})
    files = sorted(folder.iterdir())
    (tmp_path / "damaged.avi").write_bytes(b"no video")
    with pytest.raises(AmmaError, match=r"damaged\.avi cannot be read"):
        open_or_build(folder, {"b": videos["b"], "c": tmp_path / "damaged.avi"})
    assert sorted(folder.iterdir()) == files


def test_what_a_killed_build_has_left_is_removed_but_not_what_another_run_writes(videos, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    left, at_work = folder / "frames-1.u8.2.partial", folder / "frames-3.u8.4.partial"
    for path in (left, at_work):
        path.write_bytes(b"some")
    long_ago = time.time() - 2 * SECONDS_AT_WORK
    os.utime(left, (long_ago, long_ago))
    open_or_build(folder, videos)
    assert not left.exists()
    assert at_work.exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [("frames-*.u8", b""), ("frames-*.u8", b"cut short"), (INDEX_FILE, b""), (INDEX_FILE, b"{")],
)
def test_a_damaged_cache_says_so(videos, tmp_path, file, content):
    folder = tmp_path / "cache"
    open_or_build(folder, videos)
    (path,) = folder.glob(file)
    path.write_bytes(content)
    with pytest.raises(AmmaError, match=rf"{path.name} is .*damaged.*; delete the folder .*cache"):
        open_or_build(folder, videos)


def test_what_is_no_video_is_named(tmp_path):
    with pytest.raises(AmmaError, match=r"none\.avi"):
        open_or_build(tmp_path / "cache", {"none": tmp_path / "none.avi"})
