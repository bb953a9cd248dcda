"""Small recordings for the tests, made with the writer of `rosbags`."""

from pathlib import Path

import cv2
import numpy as np
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

from amma_ros import conversions

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
DELAY = 7_000_000
"""Nanoseconds from an image's stamp to its reception."""
IMAGE = "/camera/image_raw"
SIZE = (64, 48)


def stamps(count: int, fps: int = 25) -> list[int]:
    return [START + number * SECOND // fps for number in range(count)]


def picture(number: int) -> np.ndarray:
    width, height = SIZE
    image = np.full((height, width, 3), 60, np.uint8)
    left = 2 * number % (width // 2)
    image[height // 4 : height // 2, left : left + width // 4] = (20, 200, 120)
    return image


def image(number: int, stamp: int, frame_id: str = "eye") -> Image:
    return conversions.bgr_to_image(
        picture(number), Header(stamp=conversions.to_stamp(stamp), frame_id=frame_id)
    )


def compressed(number: int, stamp: int, frame_id: str = "eye") -> CompressedImage:
    data = cv2.imencode(".png", picture(number))[1]
    message = CompressedImage(
        header=Header(stamp=conversions.to_stamp(stamp), frame_id=frame_id), format="png"
    )
    message.data.frombytes(data.tobytes())
    return message


def write_bag(
    path: Path,
    topics: dict[str, list],
    storage: str = "mcap",
    compression: str = "none",
) -> Path:
    """topics: by name, a list of (time of reception, message), which may be serialised; the type is that of
    the first message that is not, or Image."""
    writer = Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()])
    writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    types = get_typestore(Stores.ROS2_JAZZY)
    with writer:
        queue = []
        for topic, messages in topics.items():
            kind = next((type(message) for _, message in messages if not isinstance(message, bytes)), Image)
            name = f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"
            connection = writer.add_connection(topic, name, typestore=types)
            queue += [(time, connection, message) for time, message in messages]
        for time, connection, message in sorted(queue, key=lambda entry: entry[0]):
            writer.write(
                connection, time, message if isinstance(message, bytes) else serialize_message(message)
            )
    return path


def film(count: int, make=image, fps: int = 25, **options) -> list:
    times = enumerate(stamps(count, fps))
    return [(stamp + DELAY, make(number, stamp, **options)) for number, stamp in times]


def words(count: int) -> list:
    return [(stamp + 1, String(data=f"word {number}")) for number, stamp in enumerate(stamps(count))]
