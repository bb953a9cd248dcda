import errno
import os
import subprocess
import sys

import pytest

from amma_core.errors import AmmaError
from amma_core.files import check_writable, written_whole


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "answer.json"
    path.write_text("old")
    with written_whole(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["answer.json"]


def write_and_fail(path):
    with written_whole(path) as file:
        file.write(b"ne")
        raise OSError(errno.ENOSPC, "disk full")


def test_a_failure_while_writing_changes_nothing(tmp_path):
    path = tmp_path / "answer.json"
    path.write_text("old")
    with pytest.raises(AmmaError, match=r"answer\.json cannot be written: disk full"):
        write_and_fail(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["answer.json"]


def write(path):
    with written_whole(path) as file:
        file.write(b"new")


@pytest.mark.parametrize("act", [write, check_writable])
@pytest.mark.parametrize(
    ("place", "why"),
    [("none/a", "No such file or directory"), ("file/a", "Not a directory"), ("folder", "folder|directory")],
)
def test_a_place_that_cannot_be_written_is_named(tmp_path, act, place, why):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(AmmaError, match=rf"{place} cannot be written: .*({why})"):
        act(tmp_path / place)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_where_a_file_can_be_written_looking_leaves_nothing(tmp_path):
    check_writable(tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "answer.json"
    path.write_text("old")
    killed = (
        "import os, signal, sys; from pathlib import Path; from amma_core.files import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as file:\n"
        "    file.write(b'ne'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", killed, path]).returncode == -9
    assert path.read_text() == "old"


def test_two_machines_may_write_the_same_file(tmp_path):
    """In processes of the same number: here, one process that writes both."""
    path = tmp_path / "answer.json"
    with written_whole(path) as file:
        file.write(b"ours")
        with written_whole(path) as other:
            other.write(b"theirs")
        assert path.read_text() == "theirs"
    assert path.read_text() == "ours"
    assert os.listdir(tmp_path) == ["answer.json"]


def test_two_processes_may_write_the_same_file(tmp_path):
    path = tmp_path / "answer.json"
    with written_whole(path) as file:
        file.write(b"ours")
        other = (
            "import sys; from pathlib import Path; from amma_core.files import written_whole\n"
            "with written_whole(Path(sys.argv[1])) as file: file.write(b'theirs')\n"
        )
        subprocess.run([sys.executable, "-c", other, path], check=True)
        assert path.read_text() == "theirs"
    assert path.read_text() == "ours"
    assert os.listdir(tmp_path) == ["answer.json"]
