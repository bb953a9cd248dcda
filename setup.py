"""``pip install .`` brings amma_core and the ``amma`` command; with ROS 2, colcon builds it all."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
SHARE = "share/amma_ros"


def data_files() -> list[tuple[str, list[str]]]:
    """The shipped models, and the messages for those who read bags."""
    files = [HERE / "package.xml", *sorted(HERE.glob("msg/*.msg"))]
    files += [path for path in sorted(HERE.glob("models/**/*")) if path.is_file()]
    paths = [path.relative_to(HERE) for path in files]
    return [(f"{SHARE}/{path.parent.as_posix()}", [path.as_posix()]) for path in paths]


setup(
    name="amma-core",
    version=re.search(r'__version__ = "(.+)"', (HERE / "amma_core" / "__init__.py").read_text())[1],
    description="Online spatiotemporal action detection: from video frames to action tubes",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["amma_core", "amma_core.*"]),
    data_files=data_files(),
    install_requires=[
        "numpy>=1.26",
        "opencv-python-headless>=4.8",
        "pyyaml>=6",
        "safetensors>=0.4",
        "torch>=2.4",
        "tqdm>=4.60",
    ],
    extras_require={
        "data": ["scipy>=1.10"],
        "report": ["matplotlib>=3.7"],
        "train": ["lightning-fabric>=2.4", "tensorboard>=2.16"],
        "view": ["rerun-sdk>=0.23"],
    },
    entry_points={"console_scripts": ["amma = amma_core.cli:main"]},
)
