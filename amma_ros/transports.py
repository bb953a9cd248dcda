"""How Fast DDS carries large images between the processes of one machine."""

import os
import shutil
from pathlib import Path

VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"
CHOICES = (VARIABLE, "FASTDDS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS")
"""Variables by which users tell Fast DDS what to do; whoever has set one keeps it."""
SHARED_MEMORY = "/dev/shm"
ROOM = 512_000_000
"""Bytes of shared memory that must be free: each process takes 64 MiB, all that many containers have."""


def use_transports_for_images() -> None:
    """Set the profile for this process and its children; to be called before ``rclpy.init``."""
    profile = image_profile()
    if profile is not None:
        os.environ[VARIABLE] = str(profile)


def image_profile() -> Path | None:
    """The profile to set: Fast DDS's own shared memory is smaller than one HD image, so most get lost.

    None where the user has chosen, and where there is too little shared memory.
    """
    if any(name in os.environ for name in CHOICES):
        return None
    if not os.path.isdir(SHARED_MEMORY) or shutil.disk_usage(SHARED_MEMORY).free < ROOM:
        return None
    return shared("config/fastdds.xml")


def shared(path: str) -> Path | None:
    """A file of this package, in the source tree or installed under ``share/amma_ros``; None if not there."""
    prefixes = filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    places = [Path(__file__).parents[1], *(Path(prefix) / "share" / "amma_ros" for prefix in prefixes)]
    return next((place / path for place in places if (place / path).is_file()), None)
