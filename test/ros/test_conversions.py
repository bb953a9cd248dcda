import math
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from amma_ros.msg import ActionTube
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from amma_core.errors import AmmaError
from amma_core.types import FrameDetections, Tube, Tubelets
from amma_ros import conversions

BLUE, GREEN, RED = 200, 90, 30
HEIGHT, WIDTH = 6, 8
DEPTHS = np.full((HEIGHT, WIDTH), 900, np.uint16)


def flat_picture() -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), (BLUE, GREEN, RED), np.uint8)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def message(encoding: str, pixels: np.ndarray, height: int = HEIGHT, width: int = WIDTH, **fields) -> Image:
    """`pixels`: (rows, anything) of the values as they are stored."""
    rows = pixels.reshape(len(pixels), -1)
    image = Image(height=height, width=width, encoding=encoding, step=rows.shape[1] * rows.itemsize, **fields)
    image.data.frombytes(rows.tobytes())
    return image


def encoded(suffix: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(f".{suffix}", pixels)[1].tobytes()


def jpeg_that_says(height: int, width: int) -> bytes:
    """A small picture whose header has been damaged."""
    data = bytearray(encoded("jpg", noise()))
    start = data.index(b"\xff\xc0")  # the frame's header: length, bits, height, width
    data[start + 5 : start + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


def mosaic(order: str, dtype: type, scale: int) -> np.ndarray:
    colours = {"r": RED, "g": GREEN, "b": BLUE}
    tile = np.array([colours[c] for c in order], dtype).reshape(2, 2) * dtype(scale)
    return np.tile(tile, (HEIGHT // 2, WIDTH // 2))


def yuv_of_flat() -> tuple[int, int, int]:
    y, u, v = cv2.cvtColor(flat_picture(), cv2.COLOR_BGR2YUV_I420).reshape(-1)[[0, HEIGHT * WIDTH, -1]]
    return y, u, v


@pytest.mark.parametrize(
    ("encoding", "stored"),
    [
        ("bgr8", lambda bgr: bgr),
        ("8UC3", lambda bgr: bgr),
        ("rgb8", lambda bgr: bgr[..., ::-1]),
        ("bgra8", lambda bgr: np.dstack([bgr, np.full_like(bgr[..., 0], 7)])),
        ("8UC4", lambda bgr: np.dstack([bgr, np.full_like(bgr[..., 0], 7)])),
        ("rgba8", lambda bgr: np.dstack([bgr[..., ::-1], np.full_like(bgr[..., 0], 7)])),
        ("bgr16", lambda bgr: bgr.astype(np.uint16) * 257),
        ("rgb16", lambda bgr: bgr[..., ::-1].astype(np.uint16) * 257),
        ("bgra16", lambda bgr: np.dstack([bgr, bgr[..., :1]]).astype(np.uint16) * 257),
        ("rgba16", lambda bgr: np.dstack([bgr[..., ::-1], bgr[..., :1]]).astype(np.uint16) * 257),
    ],
)
def test_colour_encodings_give_back_every_pixel(encoding, stored):
    expected = noise()
    converted = conversions.image_to_bgr(message(encoding, np.ascontiguousarray(stored(expected))))
    assert converted.dtype == np.uint8
    assert converted.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(converted.astype(int), expected, atol=1 if "16" in encoding else 0)


@pytest.mark.parametrize(
    ("encoding", "dtype", "scale"), [("mono8", "u1", 1), ("8UC1", "u1", 1), ("mono16", "<u2", 257)]
)
def test_grey_encodings_fill_all_three_channels(encoding, dtype, scale):
    grey = noise()[..., 0]
    converted = conversions.image_to_bgr(message(encoding, (grey.astype(dtype) * scale).astype(dtype)))
    np.testing.assert_allclose(converted.astype(int), np.dstack([grey] * 3), atol=1 if scale > 1 else 0)


@pytest.mark.parametrize("order", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize(("bits", "dtype", "scale"), [(8, np.uint8, 1), (16, np.uint16, 257)])
def test_bayer_mosaics_know_red_from_blue(order, bits, dtype, scale):
    converted = conversions.image_to_bgr(message(f"bayer_{order}{bits}", mosaic(order, dtype, scale)))
    np.testing.assert_allclose(converted.astype(int), flat_picture(), atol=1)


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("uyvy", "uyvy"), ("yuv422", "uyvy"), ("yuyv", "yuyv"), ("yuv422_yuy2", "yuyv")],
)
def test_packed_yuv(encoding, order):
    values = dict(zip("yuv", yuv_of_flat(), strict=True))
    packed = np.tile(np.array([values[c] for c in order], np.uint8), (HEIGHT, WIDTH // 2))
    converted = conversions.image_to_bgr(message(encoding, packed))
    np.testing.assert_allclose(converted.astype(int), flat_picture(), atol=4)


@pytest.mark.parametrize(("encoding", "swap"), [("nv12", False), ("nv21", True)])
def test_yuv_in_two_planes(encoding, swap):
    y, u, v = yuv_of_flat()
    colour = np.tile(np.array([v, u] if swap else [u, v], np.uint8), (HEIGHT // 2, WIDTH // 2))
    planes = np.concatenate([np.full((HEIGHT, WIDTH), y, np.uint8), colour])
    converted = conversions.image_to_bgr(message(encoding, planes))
    np.testing.assert_allclose(converted.astype(int), flat_picture(), atol=4)


@pytest.mark.parametrize("encoding", ["bgr8", "rgb8"])
def test_padding_at_the_end_of_rows_is_left_out(encoding):
    expected = noise()
    padded = np.full((HEIGHT, 3 * WIDTH + 5), 255, np.uint8)
    padded[:, : 3 * WIDTH] = (expected if encoding == "bgr8" else expected[..., ::-1]).reshape(HEIGHT, -1)
    image = message(encoding, padded)
    np.testing.assert_array_equal(conversions.image_to_bgr(image), expected)
    del image.data[-5:]  # the last row's padding may be missing
    np.testing.assert_array_equal(conversions.image_to_bgr(image), expected)


def test_big_endian_pixels():
    grey = noise()[..., 0]
    image = message("mono16", (grey.astype(">u2") * 257).astype(">u2"), is_bigendian=1)
    np.testing.assert_allclose(conversions.image_to_bgr(image)[..., 0].astype(int), grey, atol=1)


class BridgeToRed:
    """A cv_bridge that works, to see that it is used."""

    def imgmsg_to_cv2(self, message, encoding):
        return np.full((message.height, message.width, 3), (0, 0, 255), np.uint8)


class BrokenBridge:
    """A cv_bridge that was built for another numpy: it can be imported."""

    def imgmsg_to_cv2(self, message, encoding):
        raise AttributeError("_ARRAY_API not found")


@pytest.mark.parametrize(("bridge", "is_used"), [(BridgeToRed, True), (BrokenBridge, False)])
def test_cv_bridge_is_used_where_it_works(monkeypatch, bridge, is_used):
    monkeypatch.setitem(sys.modules, "cv_bridge", SimpleNamespace(CvBridge=bridge))
    conversions.converter.cache_clear()
    try:
        converted = conversions.image_to_bgr(message("rgb8", np.ascontiguousarray(noise()[..., ::-1])))
    finally:
        conversions.converter.cache_clear()
    expected = np.full((HEIGHT, WIDTH, 3), (0, 0, 255)) if is_used else noise()
    np.testing.assert_array_equal(converted, expected)


def test_a_tight_bgr_image_is_not_copied():
    image = message("bgr8", noise())
    converted = conversions.image_to_bgr(image)
    image.data[0] = (image.data[0] + 1) % 256
    assert converted[0, 0, 0] == image.data[0]


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (message("16UC1", np.zeros((HEIGHT, WIDTH), np.uint16)), "16UC1.*depths in millimetres"),
        (message("32FC1", np.zeros((HEIGHT, WIDTH), np.float32)), "32FC1.*depths in metres"),
        (message("jolly8", noise()), "unknown encoding 'jolly8'; known are .*bgr8"),
        (message("", noise()), "unknown encoding ''"),
        (message("bgr8", noise(), width=0), "empty: 0x6"),
        (message("bgr8", noise(), height=0), "empty: 8x0"),
        (message("bgr8", noise(), height=HEIGHT + 1), "too little data: 144 bytes, but .* needs 168"),
        (message("bgr8", noise()[:, :4]), "step of 12 bytes, but a row of it needs 24"),
        (Image(height=6, width=8, encoding="rgb8", step=24), "too little data: 0 bytes"),
        (message("nv12", np.zeros((9, 7), np.uint8), width=7), "odd size: 7x6"),
        (CompressedImage(format="jpeg"), "could not be decoded.*0 bytes"),
        (CompressedImage(format="jpeg", data=b"no picture"), "could not be decoded"),
        (CompressedImage(format="16UC1; compressedDepth png", data=b"x"), "depths"),
        (CompressedImage(format="16UC1; png compressed ", data=encoded("png", DEPTHS)), "depths"),
        (CompressedImage(format="jpeg", data=jpeg_that_says(60000, 60000)), "could not be decoded"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_reason(image, says):
    with pytest.raises(AmmaError, match=says):
        conversions.image_to_bgr(image)


def test_tubes_of_other_nodes_may_have_any_name():
    names = ["7", "", "person-3", "٣"]
    message = Detection2DArray(detections=[Detection2D(id=name) for name in names])
    for detection in message.detections:
        detection.results.append(ObjectHypothesisWithPose())
    tubes = conversions.detections_from_message(message)[3]
    assert tubes[0] == 7
    assert len(set(tubes)) == len(names)
    assert tubes == conversions.detections_from_message(message)[3]


@pytest.mark.parametrize(("suffix", "tolerance"), [("png", 0), ("jpg", 6)])
def test_compressed_images(suffix, tolerance):
    ramp = np.zeros((32, 48, 3), np.uint8)
    ramp[..., 0] = np.arange(48) * 5
    ramp[..., 2] = 255 - ramp[..., 0]
    data = encoded(suffix, ramp)
    bgr = conversions.image_to_bgr(CompressedImage(format=f"bgr8; {suffix} compressed bgr8", data=data))
    np.testing.assert_allclose(bgr.astype(int), ramp, atol=tolerance)
    rgb = conversions.image_to_bgr(CompressedImage(format=f"rgb8; {suffix} compressed rgb8", data=data))
    np.testing.assert_array_equal(rgb, bgr[..., ::-1])


def test_compressed_grey_has_three_channels():
    data = cv2.imencode(".png", noise()[..., 0])[1].tobytes()
    assert conversions.image_to_bgr(CompressedImage(format="png", data=data)).shape == (HEIGHT, WIDTH, 3)


def test_pictures_go_out_and_come_back():
    header = Header(stamp=Time(sec=3, nanosec=4), frame_id="eye")
    image = conversions.bgr_to_image(noise()[:, ::2], header)
    assert (image.width, image.height, image.step, image.encoding) == (WIDTH // 2, HEIGHT, 12, "bgr8")
    assert image.header == header
    np.testing.assert_array_equal(conversions.image_to_bgr(image), noise()[:, ::2])


@pytest.mark.parametrize("nanoseconds", [0, 1, 999_999_999, 1_000_000_000, 1_700_000_000_123_456_789, -1])
def test_stamps_pass_unchanged(nanoseconds):
    assert conversions.to_nanoseconds(conversions.to_stamp(nanoseconds)) == nanoseconds


def tubelets(count: int = 2, clips: int = 3) -> Tubelets:
    return Tubelets(
        image_size=(640, 480),
        key_numbers=np.array([1, 4, 8]),
        key_stamps=np.array([10, 40, 1_700_000_000_000_000_080]),
        frame_numbers=np.array([5, 6, 7, 8]),
        frame_stamps=np.array([50, 60, 70, 1_700_000_000_000_000_080]),
        labels=np.arange(count) % 2,
        scores=np.linspace(0.9, 0.1, count, dtype=np.float32),
        boxes=np.arange(count * clips * 4, dtype=np.float32).reshape(count, clips, 4),
        stream=3,
    )


@pytest.mark.parametrize("count", [0, 2])
def test_tubelets_there_and_back(count):
    sent = tubelets(count)
    message = conversions.tubelets_to_message(sent, ["run", "sit"], "eye")
    assert (message.header.frame_id, message.header.stamp) == ("eye", Time(sec=1_700_000_000, nanosec=80))
    assert [tubelet.label for tubelet in message.tubelets] == ["run", "sit"][:count]
    got = conversions.message_to_tubelets(message)
    assert (got.image_size, got.stream) == (sent.image_size, sent.stream)
    for name in ("key_numbers", "key_stamps", "frame_numbers", "frame_stamps", "labels", "scores", "boxes"):
        np.testing.assert_array_equal(getattr(got, name), getattr(sent, name), name)
        assert getattr(got, name).dtype == getattr(sent, name).dtype, name


def test_tubelets_that_do_not_fit_together_are_refused():
    message = conversions.tubelets_to_message(tubelets(), ["run", "sit"], "eye")
    message.tubelets[1].boxes.pop()
    with pytest.raises(AmmaError, match=r"boxes of \[11, 12\] numbers"):
        conversions.message_to_tubelets(message)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["score", "boxes"])
def test_tubelets_that_are_no_numbers_are_refused(what, value):
    message = conversions.tubelets_to_message(tubelets(2), ["run", "sit"], "eye")
    if what == "score":
        message.tubelets[1].score = value
    else:
        message.tubelets[1].boxes[3] = value
    with pytest.raises(AmmaError, match="not finite"):
        conversions.message_to_tubelets(message)


@pytest.mark.parametrize("numbers", [[5, 1, 5], [1, 2, 2**63]])
@pytest.mark.parametrize("name", ["key_numbers", "frame_numbers"])
def test_frame_numbers_that_fall_are_refused(name, numbers):
    message = conversions.tubelets_to_message(tubelets(0), ["run", "sit"], "eye")
    stamps = [Time()] * len(numbers)
    setattr(message, name, numbers)
    setattr(message, name.replace("numbers", "stamps"), stamps)
    with pytest.raises(AmmaError, match=f"{name} .*must not fall"):
        conversions.message_to_tubelets(message)


@pytest.mark.parametrize("x", [float("nan"), float("inf"), -1e30, 5e9])
def test_boxes_without_a_place_are_not_drawn(x):
    message = Detection2DArray(detections=[Detection2D(id="1"), Detection2D(id="2")])
    for detection in message.detections:
        detection.results.append(ObjectHypothesisWithPose())
    message.detections[0].bbox.center.position.x = x
    assert conversions.detections_from_message(message)[3] == [2]


def test_a_frame_becomes_detections_under_its_own_header():
    frame = FrameDetections(
        number=5,
        stamp=2_000_000_007,
        labels=np.array([1]),
        scores=np.array([0.75], np.float32),
        boxes=np.array([[10, 20, 30, 60]], np.float32),
        tubes=np.array([42]),
    )
    message = conversions.detections_to_message(frame, {1: "sit"}, "eye")
    assert message.header == Header(stamp=Time(sec=2, nanosec=7), frame_id="eye")
    (detection,) = message.detections
    assert detection.header == message.header
    assert detection.id == "42"
    assert (detection.results[0].hypothesis.class_id, detection.results[0].hypothesis.score) == ("sit", 0.75)
    box = detection.bbox
    assert (box.center.position.x, box.center.position.y, box.size_x, box.size_y) == (20, 40, 20, 40)


def test_tubes_become_messages():
    tube = Tube(
        id=7,
        label=0,
        score=0.5,
        ended=True,
        start_stamp=5,
        end_stamp=3_000_000_000,
        numbers=np.array([2, 3]),
        stamps=np.array([2_000_000_000, 3_000_000_000]),
        boxes=np.array([[0, 1, 2, 3], [4, 5, 6, 7]], np.float32),
    )
    array = conversions.tubes_to_message([tube], {0: "run"}, Header(stamp=Time(sec=4), frame_id="eye"))
    assert array.header == Header(stamp=Time(sec=4), frame_id="eye")
    (message,) = array.tubes
    assert message.header == Header(stamp=Time(sec=3), frame_id="eye")
    assert (message.id, message.state, message.label, message.score) == ("7", ActionTube.ENDED, "run", 0.5)
    assert (message.start_stamp, message.end_stamp) == (Time(nanosec=5), Time(sec=3))
    assert message.box.tolist() == [4, 5, 6, 7]
    assert message.frame_numbers.tolist() == [2, 3]
    assert [stamp.sec for stamp in message.stamps] == [2, 3]
    assert message.boxes.tolist() == list(range(8))


def test_label_info_numbers_the_labels_as_the_model_does():
    info = conversions.label_info(["run", "sit"], 0.25, Time(sec=1))
    assert [(label.class_id, label.class_name) for label in info.class_map] == [(0, "run"), (1, "sit")]
    assert info.threshold == 0.25
