"""Writing bags without rosbag2."""

import os
import shutil
import sys
from array import array
from pathlib import Path

import numpy as np
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from amma_core.errors import AmmaError

FORMAT_VERSION = 9
PACKAGES = ("vision_msgs", "amma_ros")
"""Packages whose messages rosbags does not know by itself."""
NO_LIMIT = QosTime(sec=2147483647, nsec=4294967295)
STORAGES = {"": StoragePlugin.MCAP, ".mcap": StoragePlugin.MCAP, ".db3": StoragePlugin.SQLITE3}


class BagWriter:
    """Writes a new bag; a context manager. It appears when all is written: after an exception there is none.

    A path that ends in .mcap or .db3 is a single file, one without an ending a folder with an MCAP file and
    metadata.yaml. Raises AmmaError if there is something at the path already, or it cannot be written.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if self.path.exists():
            raise AmmaError(f"{self.path} exists already; remove it, or write to another path")
        if self.path.suffix not in STORAGES:
            raise AmmaError(
                f"{self.path} must end in .mcap or .db3, or without an ending for a folder, to be a bag"
            )
        self._partial = self.path.with_name(f".partial-{self.path.name}")
        # The name within, which goes into the metadata, is the final one.
        self._writer = Writer(
            self._partial / self.path.stem,
            version=FORMAT_VERSION,
            storage_plugin=STORAGES[self.path.suffix],
        )
        self._types = get_typestore(Stores.ROS2_JAZZY)
        for package in PACKAGES:
            for file in _definitions(package):
                self._types.register(get_types_from_msg(file.read_text(), f"{package}/msg/{file.stem}"))
        self._connections = {}

    def add(self, topic: str, kind: type, qos: QoSProfile) -> None:
        """A topic to write; players of the bag will offer it as ``qos`` says."""
        self._connections[topic] = self._writer.add_connection(
            topic, _name(kind), typestore=self._types, offered_qos_profiles=[_offer(qos)]
        )

    def write(self, topic: str, stamp: int, data: bytes | memoryview) -> None:
        """stamp: nanoseconds; data: the message as it came over the wire."""
        self._writer.write(self._connections[topic], stamp, data)

    def write_message(self, topic: str, stamp: int, message) -> None:
        """The same message always gives the same bytes; rclpy leaves what is between the fields to chance."""
        kind = self._connections[topic].msgtype
        self.write(topic, stamp, self._types.serialize_cdr(self._convert(message), kind))

    def _convert(self, value):
        """A message, or what is in its fields, as rosbags has it."""
        if isinstance(value, array):
            return np.array(value)
        if isinstance(value, list):
            return [self._convert(item) for item in value]
        if not hasattr(value, "get_fields_and_field_types"):
            return value
        fields = {name: self._convert(getattr(value, name)) for name in value.get_fields_and_field_types()}
        return self._types.types[_name(type(value))](**fields)

    def __enter__(self) -> "BagWriter":
        shutil.rmtree(self._partial, ignore_errors=True)  # of a run that was killed
        try:
            self._writer.open()
        except OSError as error:
            raise AmmaError(f"{self.path} cannot be written: {error.strerror}") from None
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                self._writer.close()
                folder = self._partial / self.path.stem
                whole = folder / self.path.name if self.path.suffix else folder
                whole.rename(self.path)
            else:
                self._writer.abort()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)


def _name(kind: type) -> str:
    return f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"


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
