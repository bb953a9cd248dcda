"""Bags without rosbag2."""

import os
import sys
from pathlib import Path

from rclpy.qos import DurabilityPolicy, QoSProfile
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from amma_core.errors import AmmaError

FORMAT_VERSION = 9
PACKAGES = ("vision_msgs", "amma_ros")
"""Packages whose messages rosbags does not know by itself."""
NO_LIMIT = QosTime(sec=2147483647, nsec=4294967295)


class BagWriter:
    """Writes serialised messages to an MCAP bag, a folder that must not exist; a context manager."""

    def __init__(self, path: str | Path):
        self._writer = Writer(path, version=FORMAT_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._types = get_typestore(Stores.ROS2_JAZZY)
        for package in PACKAGES:
            for file in _definitions(package):
                self._types.register(get_types_from_msg(file.read_text(), f"{package}/msg/{file.stem}"))
        self._connections = {}

    def add(self, topic: str, kind: type, qos: QoSProfile) -> None:
        """A topic to write; players of the bag will offer it as ``qos`` says."""
        package = kind.__module__.partition(".")[0]
        self._connections[topic] = self._writer.add_connection(
            topic, f"{package}/msg/{kind.__name__}", typestore=self._types, offered_qos_profiles=[_offer(qos)]
        )

    def write(self, topic: str, stamp: int, data: bytes) -> None:
        """stamp: nanoseconds; data: the message as it came over the wire."""
        self._writer.write(self._connections[topic], stamp, data)

    def __enter__(self) -> "BagWriter":
        self._writer.open()
        return self

    def __exit__(self, *error) -> None:
        self._writer.close()


def _offer(qos: QoSProfile) -> Qos:
    latched = qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=qos.depth,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=NO_LIMIT,
        lifespan=NO_LIMIT,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=NO_LIMIT,
        avoid_ros_namespace_conventions=False,
    )


def _definitions(package: str) -> list[Path]:
    prefixes = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
    for prefix in prefixes:
        if files := sorted(Path(prefix, "share", package, "msg").glob("*.msg")):
            return files
    raise AmmaError(f"the messages of {package} are not installed; is the workspace built and sourced?")
