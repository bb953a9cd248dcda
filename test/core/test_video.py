import time

import cv2
import numpy as np
import pytest

from amma_core.errors import AmmaError
from amma_core.video import VideoReader, VideoWriter


def grey(level: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    return np.full((size[1], size[0], 3), level, np.uint8)


@pytest.mark.parametrize("size", [(64, 48), (63, 47), (321, 240), (16, 16)])
@pytest.mark.parametrize("ending", [".mp4", ".avi"])
def test_what_is_written_can_be_read(tmp_path, size, ending):
    path = tmp_path / f"video{ending}"
    with VideoWriter(path, size, 25) as writer:
        for level in (20, 120, 220):
            writer.write(grey(level, size))
    reader = VideoReader(path)
    frames = list(reader)
    assert [stamp for _, stamp in frames] == [0, 40_000_000, 80_000_000]
    assert np.allclose([image.mean() for image, _ in frames], [20, 120, 220], atol=4)
    assert abs(reader.size[0] - size[0]) <= 1
    assert abs(reader.size[1] - size[1]) <= 1


@pytest.mark.parametrize("ending", [".mp4", ".avi"])
def test_a_name_with_a_colon_is_no_protocol(tmp_path, monkeypatch, ending):
    monkeypatch.chdir(tmp_path)
    name = f"2024-01-01T12:30:00{ending}"
    with VideoWriter(name, (64, 48), 25) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
    assert VideoReader(name).size == (64, 48)


def test_after_an_error_there_is_no_half_written_file(tmp_path):
    def write_and_fail():
        with VideoWriter(tmp_path / "video.mp4", (64, 48), 25) as writer:
            writer.write(grey(1))
            writer.write(grey(1, (32, 32)))

    with pytest.raises(AmmaError, match="takes images of 64x48"):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_images_is_read_in_the_order_of_names(tmp_path):
    for name, level in [("b.png", 50), ("a.png", 10), ("c.jpg", 90)]:
        cv2.imwrite(str(tmp_path / name), grey(level))
    (tmp_path / "notes.txt").write_text("not an image")
    reader = VideoReader(tmp_path, fps=10)
    frames = list(reader)
    assert (reader.frame_count, reader.size) == (3, (64, 48))
    assert np.allclose([image.mean() for image, _ in frames], [10, 50, 90], atol=2)
    assert [stamp for _, stamp in frames] == [0, 10**8, 2 * 10**8]


def test_a_folder_whose_name_is_a_number_is_no_camera(tmp_path, monkeypatch):
    (tmp_path / "98").mkdir()
    cv2.imwrite(str(tmp_path / "98" / "1.png"), grey(50))
    monkeypatch.chdir(tmp_path)
    assert len(list(VideoReader("98"))) == 1
    for camera in (98, "97"):
        with pytest.raises(AmmaError, match=f"camera {camera} cannot be opened"):
            VideoReader(camera)


def test_a_cameras_stamps_are_those_of_the_clock(tmp_path, monkeypatch):
    """A file stands in for the camera: it gives frames at any time."""
    with VideoWriter(tmp_path / "film.avi", (64, 48), 30.0) as writer:
        for level in (10, 50, 90):
            writer.write(grey(level))
    monkeypatch.setattr(VideoReader, "_open", lambda reader: cv2.VideoCapture(str(tmp_path / "film.avi")))
    stamps = []
    for _, stamp in VideoReader(0):
        stamps.append(stamp)
        time.sleep(0.1)
    assert min(np.diff(stamps)) >= 0.1e9
    assert stamps[0] < 0.1e9


@pytest.mark.parametrize("fps", [119.8765, 59.9401, 239.76])
def test_odd_frame_rates_can_be_written(tmp_path, fps):
    with VideoWriter(tmp_path / "film.mp4", (64, 48), fps) as writer:
        writer.write(grey(10))
    assert VideoReader(tmp_path / "film.mp4").fps == pytest.approx(fps, rel=1e-3)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(AmmaError, match=r"nothing\.mp4 does not exist"):
        VideoReader(tmp_path / "nothing.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(AmmaError, match=r"empty\.mp4 cannot be read as a video"):
        VideoReader(tmp_path / "empty.mp4")
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(AmmaError, match=r"noise\.mp4"):
        VideoReader(tmp_path / "noise.mp4")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(AmmaError, match="a folder without images"):
        VideoReader(folder)
    (folder / "broken.png").write_bytes(b"no image")
    with pytest.raises(AmmaError, match=r"broken\.png is not an image"):
        VideoReader(folder)
    with pytest.raises(AmmaError, match="camera 98 cannot be opened"):
        VideoReader(98)


def test_a_video_that_breaks_off_gives_what_is_whole(tmp_path):
    path = tmp_path / "video.avi"
    noise = np.random.default_rng(0)
    with VideoWriter(path, (64, 48), 25) as writer:
        for _ in range(50):
            writer.write(noise.integers(0, 255, (48, 64, 3), np.uint8))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert 10 < len(list(VideoReader(path))) < 50


def test_what_cannot_be_written_is_named(tmp_path):
    with pytest.raises(AmmaError, match="needs an ending"):
        VideoWriter(tmp_path / "video", (64, 48), 25)
    with pytest.raises(AmmaError, match="cannot be written"):
        VideoWriter(tmp_path / "nowhere" / "video.mp4", (64, 48), 25)
