"""Reading rosbag2 recordings without rosbag2: sqlite3 and MCAP, plain or compressed, whole or damaged."""

import os
import re
import shutil
import sqlite3
import struct
import sys
from binascii import crc32
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import BinaryIO, NamedTuple
from urllib.parse import quote

import lz4.frame
import yaml
from rosbags.interfaces import QosDurability
from rosbags.rosbag2 import Reader
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from amma_core.errors import AmmaError
from amma_ros import conversions
from amma_ros.conversions import Picture

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_ENDINGS = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # no serialised message begins like this: they begin with 0


@dataclass(frozen=True)
class Topic:
    name: str
    type: str
    """As ``sensor_msgs/msg/Image``."""
    count: int = 0
    """Messages, as far as the recording can be read."""
    latched: bool = False
    """Whether those who subscribe late are to get the newest message."""


class Message(NamedTuple):
    topic: str
    time: int
    """When it was received, in nanoseconds."""
    data: bytes
    """Serialised (CDR)."""


@dataclass(frozen=True)
class BagImage:
    """One message of an image topic."""

    time: int
    """When it was received, in nanoseconds."""
    stamp: int
    frame_id: str
    encoding: str
    """``compressed`` for a CompressedImage."""
    picture: Picture | None
    """(H, W, 3) uint8 BGR; None where `fault` says why there is none."""
    fault: str = ""


class BagReader:
    """A recording: its folder, or one of its files. A context manager.

    Messages come file by file, in each by the time at which they were received. Where a file is damaged or
    cut off, all that lies before the fault is read, and `fault` then says what is wrong. Raises AmmaError
    if there is nothing that can be read.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.fault = ""
        """One sentence, once reading has met a fault."""
        self._stack = ExitStack()
        try:
            self._files = [_open(file, self._stack) for file in _files_of(self.path)]
        except BaseException:
            self.close()
            raise
        self.topics = _merge([topic for file in self._files for topic in file.topics])
        """By name."""
        if not any(topic.count for topic in self.topics.values()):
            faults = [file.fault for file in self._files if file.fault]
            self.close()
            raise AmmaError(
                f"{self.path} cannot be read: {faults[0]}" if faults else f"{self.path} holds no messages"
            )

    def __enter__(self) -> "BagReader":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def image_topic(self, name: str | None = None) -> Topic:
        """The topic of this name, or the only image topic. Raises AmmaError, listing those that there are."""
        known = [topic for topic in self.topics.values() if topic.type in IMAGES]
        choice = ", ".join(f"{topic.name} ({topic.count} images)" for topic in known)
        if not known:
            others = ", ".join(f"{topic.name} ({topic.type})" for topic in self.topics.values())
            raise AmmaError(f"{self.path} has no images; its topics are {others}")
        if name is None and len(known) > 1:
            raise AmmaError(f"{self.path} has several image topics; choose one with --topic: {choice}")
        found = next((topic for topic in known if name in (None, topic.name)), None)
        if found is None and name in self.topics:
            kind = self.topics[name].type
            raise AmmaError(f"{name} in {self.path} is of type {kind}; its image topics are {choice}")
        if found is None:
            raise AmmaError(f"{self.path} has no topic {name}; its image topics are {choice}")
        if not found.count:
            raise AmmaError(f"{self.path} has no message of {found.name}; its image topics are {choice}")
        return found

    def messages(self, topics: set[str]) -> Iterator[Message]:
        """All messages of these topics, as far as they can be read."""
        for file in self._files:
            try:
                for message in file.read(topics):
                    packed = message.data[:4] == _ZSTD_MAGIC
                    yield message._replace(data=zstd.decompress(message.data)) if packed else message
                if file.fault:
                    raise EOFError(file.fault)
            except Exception as error:  # damaged bytes make the storage raise nearly anything
                self.fault = f"{file.path} is damaged or cut off: {_sentence(error)}"
                return

    def images(self, topic: Topic) -> Iterator[BagImage]:
        """All messages of an image topic, decoded."""
        for message in self.messages({topic.name}):
            yield _decode(message, topic.type)


def _decode(message: Message, kind: str) -> BagImage:
    time = message.time
    try:
        image = _types().deserialize_cdr(message.data, kind)
    # What is no image of this type can read as any length and any text.
    except (SerdeError, AssertionError, ValueError, IndexError, struct.error) as error:
        return BagImage(time, 0, "", "", None, f"a message cannot be read as {kind}: {_sentence(error)}")
    stamp = conversions.to_nanoseconds(image.header.stamp)
    head = time, stamp, image.header.frame_id, getattr(image, "encoding", "compressed")
    try:
        return BagImage(*head, conversions.image_to_bgr(image))
    except AmmaError as error:
        return BagImage(*head, None, str(error))


@lru_cache(maxsize=1)
def _types():
    return get_typestore(Stores.ROS2_JAZZY)


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _merge(topics: list[Topic]) -> dict[str, Topic]:
    """The parts of a recording have the same topics: each once, counts added up."""
    merged: dict[str, Topic] = {}
    for topic in sorted(topics, key=lambda topic: topic.name):
        before = merged.get(topic.name)
        count = topic.count + (before.count if before else 0)
        latched = topic.latched or bool(before and before.latched)
        merged[topic.name] = Topic(topic.name, topic.type, count, latched)
    return merged


# The files of a recording ------------------------------------------------------------------------------


def _files_of(path: Path) -> list[Path]:
    if not path.exists():
        raise AmmaError(f"{path} does not exist")
    if path.is_file():
        if path.suffix == ".bag":
            raise AmmaError(f"{path} is a bag of ROS 1; convert it with `rosbags-convert` first")
        if not path.name.endswith(_ENDINGS):
            raise AmmaError(f"{path} is no rosbag2 recording; give its folder or a .mcap or .db3 file")
        return [path]
    files = _listed_files(path) or sorted(
        (file for file in path.iterdir() if file.name.endswith(_ENDINGS)), key=_by_numbers
    )
    if not files:
        raise AmmaError(f"{path} is no rosbag2 recording: there is no .mcap or .db3 file in it")
    return files


def _listed_files(folder: Path) -> list[Path]:
    """As metadata.yaml has them. A recorder that was killed has left none, or half of one."""
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        metadata = yaml.safe_load((folder / "metadata.yaml").read_text(encoding="utf-8"))
        names = metadata["rosbag2_bagfile_information"]["relative_file_paths"]
        return [folder / PurePath(name).name for name in names]
    return []


def _by_numbers(path: Path) -> list:
    """bag_10 comes after bag_9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


@dataclass(frozen=True)
class _File:
    path: Path
    topics: list[Topic]
    read: Callable[[set[str]], Iterator[Message]]
    """Gives the messages of these topics and raises where it cannot go on."""
    fault: str = ""
    """What is wrong with the file, if that is known already."""


def _open(path: Path, stack: ExitStack) -> _File:
    plain, fault = path, ""
    if path.suffix == ".zstd":
        plain, fault = _unpack(path, Path(stack.enter_context(TemporaryDirectory())))
    log = plain.with_name(f"{plain.name}-wal")
    if log.is_file() and log.stat().st_size:
        fault = (
            f"its newest messages are in {log.name}; `sqlite3 {plain} .tables` moves them where they belong"
        )
    try:
        reader = stack.enter_context(Reader(plain))
    except Exception as error:  # damaged bytes make it raise nearly anything
        salvage = _salvage_mcap if plain.suffix == ".mcap" else _salvage_sqlite
        return _open_damaged(path, plain, salvage, _sentence(error))

    def read(names: set[str]) -> Iterator[Message]:
        chosen = [connection for connection in reader.connections if connection.topic in names]
        if chosen:
            for connection, time, data in reader.messages(chosen):
                yield Message(connection.topic, time, data)

    topics = [
        Topic(
            connection.topic,
            connection.msgtype,
            connection.msgcount,
            any(q.durability is QosDurability.TRANSIENT_LOCAL for q in connection.ext.offered_qos_profiles),
        )
        for connection in reader.connections
    ]
    return _File(path, topics, read, fault)


def _unpack(path: Path, folder: Path) -> tuple[Path, str]:
    """Unpack a compressed file, as far as that goes; returns what is wrong with it, too."""
    plain = folder / path.stem
    try:
        with zstd.open(path, "rb") as packed, plain.open("wb") as file:
            shutil.copyfileobj(packed, file)
    except (zstd.ZstdError, EOFError, FileNotFoundError) as error:
        return plain, _sentence(error)
    except OSError as error:
        raise AmmaError(f"{path} cannot be unpacked: {error}") from None
    return plain, ""


# Damaged files -----------------------------------------------------------------------------------------


def _open_damaged(path: Path, plain: Path, salvage: Callable, fault: str) -> _File:
    counts: Counter[tuple[str, str]] = Counter()
    try:
        for kind, message in salvage(plain):
            counts[message.topic, kind] += 1
    except Exception as error:  # this is where reading will end
        fault = _sentence(error)

    def read(names: set[str]) -> Iterator[Message]:
        return (message for _, message in salvage(plain) if message.topic in names)

    topics = [Topic(name, kind, count) for (name, kind), count in counts.items()]
    return _File(path, topics, read, fault)


def _salvage_sqlite(path: Path) -> Iterator[tuple[str, Message]]:
    """(type, message) in the order of writing, without the indexes."""
    with closing(sqlite3.connect(f"file:{quote(str(path))}?immutable=1", uri=True)) as base:
        # Else a file that is shorter than it says is refused as a whole.
        base.execute("PRAGMA writable_schema = ON")
        topics = {number: names for number, *names in base.execute("SELECT id, name, type FROM topics")}
        query = "SELECT topic_id, timestamp, data FROM messages NOT INDEXED ORDER BY rowid"
        for number, time, data in base.execute(query):
            name, kind = topics[number]
            yield kind, Message(name, time, data)


_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 3, 4, 5, 6, 15


def _salvage_mcap(path: Path) -> Iterator[tuple[str, Message]]:
    """(type, message) in the order of writing, from a file that may lack its end and its index."""
    schemas: dict[int, str] = {}
    channels: dict[int, tuple[str, str]] = {}
    with path.open("rb") as file:
        if file.read(8) != b"\x89MCAP0\r\n":
            raise ValueError("it does not begin like an MCAP file")
        for code, record in _records(file):
            if code == _SCHEMA:
                (number,) = struct.unpack("<H", record.read(2))
                schemas[number] = _string(record)
            elif code == _CHANNEL:
                number, schema = struct.unpack("<HH", record.read(4))
                channels[number] = _string(record), schemas[schema]
            elif code == _MESSAGE:
                channel, _, time, _ = struct.unpack("<HIQQ", record.read(22))
                name, kind = channels[channel]
                yield kind, Message(name, time, record.read())


def _records(stream: BinaryIO, nested: bool = False) -> Iterator[tuple[int, BytesIO]]:
    """The records of an MCAP file, those within chunks too. Raises EOFError where they break off."""
    start = stream.tell()
    size = stream.seek(0, os.SEEK_END)
    stream.seek(start)
    while head := stream.read(9):
        if len(head) < 9:
            raise EOFError("its end is missing")
        code, length = struct.unpack("<BQ", head)
        record = stream.read(min(length, size))
        if code == _CHUNK:
            yield from _records(_unpack_chunk(BytesIO(record)), nested=True)
        elif len(record) == length:
            yield code, BytesIO(record)
        if len(record) < length:
            raise EOFError("its end is missing")
        if code == _DATA_END:
            return
    if not nested:
        raise EOFError("its end is missing")


def _unpack_chunk(record: BytesIO) -> BytesIO:
    """The records in a chunk, as far as they are there."""
    size, checksum = struct.unpack("<QI", record.read(28)[16:])
    compression = _string(record)
    record.read(8)
    content = record.read()
    if compression == "zstd":
        content = zstd.ZstdDecompressor().decompress(content)
    elif compression == "lz4":
        content = lz4.frame.LZ4FrameDecompressor().decompress(content)
    if checksum and len(content) == size and crc32(content) != checksum:
        raise ValueError("the checksum of a chunk is wrong")
    return BytesIO(content)


def _string(record: BytesIO) -> str:
    return record.read(*struct.unpack("<I", record.read(4))).decode()
