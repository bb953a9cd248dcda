import os
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest

from amma_ros import transports

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def untouched(monkeypatch):
    for name in transports.CHOICES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("free", "there"), [(10**10, True), (64 * 1024 * 1024, False)])
def test_the_profile_is_for_machines_with_room(monkeypatch, free, there):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**11, 0, free))
    assert (transports.image_profile() is not None) == there


@pytest.mark.parametrize("name", transports.CHOICES)
def test_whoever_has_chosen_keeps_the_choice(monkeypatch, name):
    monkeypatch.setenv(name, "mine")
    before = dict(os.environ)
    transports.use_transports_for_images()
    assert dict(os.environ) == before


@pytest.mark.skipif(
    shutil.disk_usage("/dev/shm").free < transports.ROOM, reason="there is too little shared memory here"
)
def test_fast_dds_takes_the_profile():
    """It would complain of a wrong one, and go on without."""
    profile = transports.shared("config/fastdds.xml")
    script = "import rclpy; rclpy.init(); rclpy.create_node('reader'); rclpy.shutdown()"
    environment = os.environ | {transports.VARIABLE: str(profile)}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert result.returncode == 0
    assert "Error" not in result.stdout + result.stderr
