"""Messages to arrays and back. Stamps, frame ids and frame numbers pass unchanged."""

import sys
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import (
    BoundingBox2D,
    Detection2D,
    Detection2DArray,
    LabelInfo,
    ObjectHypothesisWithPose,
    VisionClass,
)

from amma_core.behavior import Event, Sightings
from amma_core.errors import AmmaError
from amma_core.types import Floats, FrameDetections, Ints, Tube, Tubelets
from amma_ros.msg import ActionEvent, ActionTube, ActionTubeArray, Tubelet, TubeletArray

Picture = NDArray[np.uint8]

# encoding -> (name that the converters know it by, bytes of a value, values of a pixel)
_ENCODINGS = {
    "bgr8": ("bgr8", 1, 3),
    "rgb8": ("rgb8", 1, 3),
    "bgra8": ("bgra8", 1, 4),
    "rgba8": ("rgba8", 1, 4),
    "mono8": ("mono8", 1, 1),
    "8UC1": ("mono8", 1, 1),
    "8UC3": ("bgr8", 1, 3),
    "8UC4": ("bgra8", 1, 4),
    "bgr16": ("bgr16", 2, 3),
    "rgb16": ("rgb16", 2, 3),
    "bgra16": ("bgra16", 2, 4),
    "rgba16": ("rgba16", 2, 4),
    "mono16": ("mono16", 2, 1),
    "uyvy": ("yuv422", 1, 2),
    "yuv422": ("yuv422", 1, 2),
    "yuyv": ("yuv422_yuy2", 1, 2),
    "yuv422_yuy2": ("yuv422_yuy2", 1, 2),
} | {
    f"bayer_{order}{bits}": (f"bayer_{order}{bits}", bits // 8, 1)
    for order in ("rggb", "bggr", "gbrg", "grbg")
    for bits in (8, 16)
}
# A plane of brightness, then one of colour at half the size: cv_bridge has no name for these two.
_TWO_PLANES = {"nv12": cv2.COLOR_YUV2BGR_NV12, "nv21": cv2.COLOR_YUV2BGR_NV21}
FARTHEST = 1e6
"""Pixels; no box is as large or as far away."""
_REFUSED = {
    "16UC1": "it holds depths in millimetres, not a picture (use mono16 for a 16-bit grey picture)",
    "32FC1": "it holds depths in metres, not a picture",
}


@cache
def converter() -> Callable[[Any, str], Picture]:
    """What turns an image message into a picture of an encoding: cv_bridge, which ROS users have and trust.

    Where there is none, or one that was built for another numpy, which shows only when it is used,
    rosbags-image does the same work.
    """
    try:
        from cv_bridge import CvBridge

        convert = CvBridge().imgmsg_to_cv2
        convert(_tight("rgb8", 1, 1, np.zeros((1, 3), np.uint8)), "bgr8")
    except Exception:
        from rosbags.image import image_to_cvimage as convert
    return convert


def _tight(encoding: str, height: int, width: int, rows: Picture) -> SimpleNamespace:
    """As much of an image message as a converter needs, without padding, in this machine's byte order."""
    return SimpleNamespace(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"),
        step=rows.shape[1],
        data=np.ascontiguousarray(rows),
    )


def image_to_bgr(message) -> Picture:
    """The picture in a ``sensor_msgs/Image`` or ``CompressedImage``: (H, W, 3) uint8, BGR.

    A tightly packed bgr8 image is not copied: the result then looks into the message's own data.
    Raises :class:`AmmaError` for an encoding that is unknown or holds no picture, for an empty image
    and for data shorter than the message says.
    """
    if hasattr(message, "format"):
        return _decompress(message)
    height, width, encoding = message.height, message.width, message.encoding
    if encoding in _REFUSED:
        raise AmmaError(f"an image has the encoding '{encoding}': {_REFUSED[encoding]}")
    if encoding not in _ENCODINGS and encoding not in _TWO_PLANES:
        known = ", ".join(sorted({*_ENCODINGS, *_TWO_PLANES}))
        raise AmmaError(f"an image has the unknown encoding '{encoding}'; known are {known}")
    if height == 0 or width == 0:
        raise AmmaError(f"an image is empty: {width}x{height} pixels")

    if encoding in _TWO_PLANES:
        if height % 2 or width % 2:
            raise AmmaError(f"an {encoding} image has an odd size: {width}x{height} pixels")
        return cv2.cvtColor(_rows(message, height * 3 // 2, width), _TWO_PLANES[encoding])

    name, value_bytes, values = _ENCODINGS[encoding]
    rows = _rows(message, height, width * values * value_bytes)
    if name == "bgr8":
        return np.ascontiguousarray(rows).reshape(height, width, 3)
    if value_bytes > 1 and bool(message.is_bigendian) != (sys.byteorder == "big"):
        rows = np.ascontiguousarray(rows).view(f"u{value_bytes}").byteswap().view(np.uint8)
    try:
        return converter()(_tight(name, height, width, rows), "bgr8")
    except (cv2.error, RuntimeError, TypeError) as error:
        raise AmmaError(f"a {width}x{height} {encoding} image could not be converted: {error}") from error


def _rows(message, rows: int, row_bytes: int) -> Picture:
    """The pixels' bytes without the padding at the end of each row: (rows, row_bytes), not copied."""
    step, size = message.step, len(message.data)
    if step < row_bytes:
        raise AmmaError(f"an image has a step of {step} bytes, but a row of it needs {row_bytes}")
    need = step * (rows - 1) + row_bytes
    if size < need:
        raise AmmaError(
            f"an image has too little data: {size} bytes, but {message.width}x{message.height} "
            f"{message.encoding} with a step of {step} needs {need}"
        )
    return np.ndarray((rows, row_bytes), np.uint8, message.data, strides=(step, 1))


def _decompress(message) -> Picture:
    # image_transport writes the encoding of the original first: "16UC1; png compressed"
    original = message.format.partition(";")[0].strip()
    if original in _REFUSED or "compressedDepth" in message.format:
        raise AmmaError(f"a compressed image holds depths, not a picture: its format is '{message.format}'")
    data = np.frombuffer(message.data, np.uint8)
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    except cv2.error:  # a damaged header may promise more pixels than OpenCV takes
        picture = None
    if picture is None:
        raise AmmaError(
            f"a compressed image could not be decoded: format '{message.format}', {len(data)} bytes; "
            "JPEG and PNG are understood"
        )
    # image_transport stores what it says after "compressed"; left to itself, that is bgr8
    swapped = "compressed rgb" in message.format
    return np.ascontiguousarray(picture[..., ::-1]) if swapped else picture


def bgr_to_image(picture: Picture, header: Header) -> Image:
    """A bgr8 image message of ``picture``, (H, W, 3) uint8 BGR, with this header."""
    height, width = picture.shape[:2]
    message = Image(header=header, height=height, width=width, encoding="bgr8", step=3 * width)
    # Assigning to `data` would walk over every byte; this is one copy.
    message.data.frombytes(np.ascontiguousarray(picture))
    return message


def to_stamp(nanoseconds: int) -> Time:
    seconds, rest = divmod(int(nanoseconds), 1_000_000_000)
    return Time(sec=seconds, nanosec=rest)


def to_nanoseconds(stamp: Time) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def tubelets_to_message(
    tubelets: Tubelets, labels: Mapping[int, str] | list[str], frame_id: str
) -> TubeletArray:
    width, height = tubelets.image_size
    return TubeletArray(
        header=Header(stamp=to_stamp(tubelets.key_stamps[-1]), frame_id=frame_id),
        stream=tubelets.stream,
        image_width=width,
        image_height=height,
        key_numbers=_numbers(tubelets.key_numbers),
        key_stamps=_stamps(tubelets.key_stamps),
        frame_numbers=_numbers(tubelets.frame_numbers),
        frame_stamps=_stamps(tubelets.frame_stamps),
        tubelets=[
            Tubelet(class_id=label, label=labels[label], score=score, boxes=_floats(boxes))
            for label, score, boxes in zip(
                tubelets.labels.tolist(), tubelets.scores.tolist(), tubelets.boxes, strict=True
            )
        ],
    )


def message_to_tubelets(message: TubeletArray) -> Tubelets:
    """Raises AmmaError if the message's lists do not fit together, its numbers fall, or a score or box is no
    number: one such tubelet would spoil the means of a tube for good."""
    keys, found = len(message.key_numbers), message.tubelets
    whole = (
        keys == len(message.key_stamps)
        and len(message.frame_numbers) == len(message.frame_stamps)
        and all(len(tubelet.boxes) == 4 * keys for tubelet in found)
        and (keys or not found)
    )
    if not whole:
        raise AmmaError(
            f"a TubeletArray does not fit together: {keys} key frames, {len(message.key_stamps)} key stamps, "
            f"{len(message.frame_numbers)} frames, {len(message.frame_stamps)} frame stamps, and boxes of "
            f"{sorted({len(tubelet.boxes) for tubelet in found})} numbers; a box has 4 numbers per key frame"
        )
    boxes = np.array([tubelet.boxes for tubelet in found], np.float32).reshape(len(found), keys, 4)
    scores = np.array([tubelet.score for tubelet in found], np.float32)
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
        raise AmmaError("a TubeletArray has a score or a box that is not finite; leave such tubelets out")
    return Tubelets(
        image_size=(message.image_width, message.image_height),
        key_numbers=_rising("key_numbers", message.key_numbers),
        key_stamps=_nanoseconds(message.key_stamps),
        frame_numbers=_rising("frame_numbers", message.frame_numbers),
        frame_stamps=_nanoseconds(message.frame_stamps),
        labels=np.array([tubelet.class_id for tubelet in found], np.int64),
        scores=scores,
        boxes=boxes,
        stream=message.stream,
    )


def _rising(name: str, numbers: Sequence[int]) -> Ints:
    found = np.array(numbers, np.uint64)
    if (found[1:] < found[:-1]).any() or (found > np.iinfo(np.int64).max).any():
        raise AmmaError(
            f"a TubeletArray has the {name} {found.tolist()}, but they must not fall, and be less than 2^63"
        )
    return found.astype(np.int64)


def announcement(number: int, header: Header, stream: int) -> TubeletArray:
    """Says that a camera frame has arrived, before anything is known of it."""
    return TubeletArray(header=header, stream=stream, frame_numbers=[number], frame_stamps=[header.stamp])


def detections_to_message(
    frame: FrameDetections, labels: Mapping[int, str], frame_id: str
) -> Detection2DArray:
    """The frame's detections, with its own stamp; a detection's id is its tube's."""
    header = Header(stamp=to_stamp(frame.stamp), frame_id=frame_id)
    message = Detection2DArray(header=header)
    centers = (frame.boxes[:, :2] + frame.boxes[:, 2:]) / 2
    sizes = frame.boxes[:, 2:] - frame.boxes[:, :2]
    for tube, label, score, center, size in zip(
        frame.tubes.tolist(),
        frame.labels.tolist(),
        frame.scores.tolist(),
        centers.tolist(),
        sizes.tolist(),
        strict=True,
    ):
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = labels[label]
        hypothesis.hypothesis.score = score
        detection = Detection2D(header=header, results=[hypothesis], id=str(tube))
        detection.bbox.center.position.x, detection.bbox.center.position.y = center
        detection.bbox.size_x, detection.bbox.size_y = size
        message.detections.append(detection)
    return message


def detections_from_message(
    message: Detection2DArray, min_score: float = 0.0
) -> tuple[Floats, list[str], Floats, list[int]]:
    """Boxes (D, 4), labels, scores (D,) and tube ids of the detections that score enough and have a place."""
    kept = [
        d
        for d in message.detections
        if d.results and d.results[0].hypothesis.score >= min_score and _has_place(d.bbox)
    ]
    centers = np.array([(d.bbox.center.position.x, d.bbox.center.position.y) for d in kept], np.float32)
    halves = np.array([(d.bbox.size_x, d.bbox.size_y) for d in kept], np.float32) / 2
    centers, halves = centers.reshape(-1, 2), halves.reshape(-1, 2)
    return (
        np.hstack([centers - halves, centers + halves]),
        [d.results[0].hypothesis.class_id for d in kept],
        np.array([d.results[0].hypothesis.score for d in kept], np.float32),
        [_tube_number(d.id) for d in kept],
    )


def _has_place(box: BoundingBox2D) -> bool:
    """Any node may publish detections, and no picture has room for some of them."""
    numbers = (box.center.position.x, box.center.position.y, box.size_x, box.size_y)
    return all(abs(number) < FARTHEST for number in numbers)  # not where one is no number


def _tube_number(text: str) -> int:
    """Other nodes may have ids that are no numbers."""
    return int(text) if text.isdecimal() else crc32(text.encode())


def tubes_to_message(tubes: list[Tube], labels: Mapping[int, str], header: Header) -> ActionTubeArray:
    return ActionTubeArray(
        header=header, tubes=[_tube_to_message(tube, labels, header.frame_id) for tube in tubes]
    )


def _tube_to_message(tube: Tube, labels: Mapping[int, str], frame_id: str) -> ActionTube:
    message = ActionTube(
        header=Header(stamp=to_stamp(tube.end_stamp), frame_id=frame_id),
        id=str(tube.id),
        state=ActionTube.ENDED if tube.ended else ActionTube.ACTIVE,
        class_id=tube.label,
        label=labels[tube.label],
        score=float(tube.score),
        start_stamp=to_stamp(tube.start_stamp),
        end_stamp=to_stamp(tube.end_stamp),
        frame_numbers=_numbers(tube.numbers),
        stamps=_stamps(tube.stamps),
        boxes=_floats(tube.boxes),
    )
    if len(tube):
        message.box = tube.boxes[-1].astype(np.float32)
    return message


def message_to_sightings(message: ActionTubeArray) -> Sightings:
    """What is seen at the message's stamp: the tubes that go on."""
    alive = [tube for tube in message.tubes if tube.state == ActionTube.ACTIVE]
    return Sightings(
        stamp=to_nanoseconds(message.header.stamp),
        image_size=(message.image_width, message.image_height),
        tubes=[tube.id for tube in alive],
        labels=[tube.label for tube in alive],
        scores=np.array([tube.score for tube in alive], np.float32),
        boxes=np.array([tube.box for tube in alive], np.float32).reshape(-1, 4),
    )


def event_to_message(event: Event, frame_id: str) -> ActionEvent:
    return ActionEvent(
        header=Header(stamp=to_stamp(event.stamp), frame_id=frame_id),
        rule=event.rule,
        active=event.begins,
        people=event.people,
        tube_id=event.tube,
        label=event.label,
        score=event.score,
        box=np.array(event.box, np.float32),
    )


def label_info(labels: Sequence[str], threshold: float, stamp: Time) -> LabelInfo:
    return LabelInfo(
        header=Header(stamp=stamp),
        class_map=[VisionClass(class_id=number, class_name=name) for number, name in enumerate(labels)],
        threshold=threshold,
    )


def _numbers(values: Ints) -> array:
    return array("Q", values.tolist())


def _stamps(values: Ints) -> list[Time]:
    return [to_stamp(value) for value in values.tolist()]


def _nanoseconds(stamps: list[Time]) -> Ints:
    return np.array([to_nanoseconds(stamp) for stamp in stamps], np.int64)


def _floats(values: Floats) -> array:
    return array("f", np.ascontiguousarray(values, np.float32).tobytes())
