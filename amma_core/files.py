"""Writing files so that nobody ever finds half of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO
from uuid import uuid4

from amma_core.errors import AmmaError


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its name, and the place of what was there, only once it is whole.

    Until then it lies beside it, under a name that nobody else uses; if writing fails it is removed,
    and the old file stays as it was. Raises AmmaError where the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        raise AmmaError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # it has its name, or never was
            partial.unlink()


def write_text_whole(path: Path, text: str) -> None:
    """A text file in UTF-8 that appears whole; AmmaError where it cannot be written."""
    with written_whole(path) as file:
        file.write(text.encode())


def check_writable(path: Path) -> None:
    """AmmaError unless a file can be written there: better known before long work than after it."""
    if path.is_dir():
        raise AmmaError(f"{path} cannot be written: it is a folder")
    try:
        TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise AmmaError(f"{path} cannot be written: {error.strerror}") from None


def bytes_of(path: Path) -> int:
    """The size of a file, or of the files of a folder. AmmaError where there is neither."""
    return sum(found.st_size for found in files_of(path))


def files_of(path: Path) -> list[os.stat_result]:
    """What the system knows of a file, or of each file of a folder. AmmaError where there is neither."""
    try:
        return [each.stat() for each in (path.iterdir() if path.is_dir() else [path])]
    except OSError:
        raise AmmaError(f"{path} does not exist") from None


def make_folder(path: Path) -> None:
    """Make a folder, and those that it lies in, where they are not there. AmmaError if it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AmmaError(f"the folder {path} cannot be made: {error.strerror}") from None
