"""What colcon installs and what pip would: messages, executables, models."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PREFIXES = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]


def share(package: str) -> Path:
    """Where a package's files are installed."""
    places = [Path(prefix, "share", package) for prefix in PREFIXES]
    found = next((place for place in places if (place / "package.xml").is_file()), None)
    if found is None:
        pytest.skip(f"{package} is not installed: run `make setup`")
    return found


# Only equal hashes talk to each other: these are the ones of vision_msgs in every ROS 2 distribution.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Detection2DArray", "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968"),
        ("Detection2D", "RIHS01_0d12b69df5c593b3455b7346fac8205437a7d4bcb09b9e0e0b2dde787ded38ea"),
        ("LabelInfo", "RIHS01_3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783"),
    ],
)
def test_vision_msgs_is_the_real_interface(name, expected):
    generated = json.loads((share("vision_msgs") / "msg" / f"{name}.json").read_text())
    hashes = {entry["type_name"]: entry["hash_string"] for entry in generated["type_hashes"]}
    assert hashes[f"vision_msgs/msg/{name}"] == expected


def test_every_ros_package_that_runs_is_declared():
    """colcon and rosdep install what package.xml names, and nothing else."""
    imported = set()
    for path in [*ROOT.glob("amma_ros/*.py"), *ROOT.glob("launch/*.py"), *ROOT.glob("examples/*/*.py")]:
        imported |= set(re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.MULTILINE))
    ros = {name for name in imported if re.search(r"_msgs$|_srvs$|_interfaces$|_parser$|^launch|^rcl|_bridge$", name)}
    declared = set(re.findall(r"<(?:depend|exec_depend)>(\w+)<", (ROOT / "package.xml").read_text()))
    assert ros - declared == set()
    assert "rclpy" in ros and "vision_msgs" in ros


def test_messages_have_the_promised_fields():
    messages = pytest.importorskip("amma_ros.msg", reason="the messages are not built: run `make setup`")
    fields = messages.Tubelet.get_fields_and_field_types()
    assert fields == {
        "class_id": "uint16",
        "label": "string",
        "score": "float",
        "boxes": "sequence<float>",
    }
    fields = messages.TubeletArray.get_fields_and_field_types()
    assert fields["header"] == "std_msgs/Header"
    assert fields["frame_stamps"] == fields["key_stamps"] == "sequence<builtin_interfaces/Time>"
    assert fields["frame_numbers"] == fields["key_numbers"] == "sequence<uint64>"
    assert fields["tubelets"] == "sequence<amma_ros/Tubelet>"
    assert {"stream", "image_width", "image_height"} <= set(fields)
    fields = messages.ActionTube.get_fields_and_field_types()
    assert fields["id"] == "string"
    assert fields["box"] == "float[4]"
    assert {"state", "label", "class_id", "score", "start_stamp", "end_stamp", "stamps", "boxes"} <= set(
        fields
    )
    assert messages.ActionTube.ACTIVE != messages.ActionTube.ENDED
    assert messages.ActionTubeArray.get_fields_and_field_types()["tubes"] == "sequence<amma_ros/ActionTube>"


def test_every_field_of_a_message_is_explained():
    for file in sorted((ROOT / "msg").glob("*.msg")):
        explained = False
        for line in file.read_text().splitlines():
            # A comment holds for all the lines that follow it, up to an empty one.
            if not line.strip():
                explained = False
            elif line.startswith("#"):
                explained = True
            else:
                assert explained or "#" in line, f"{file.name}: {line}"


def test_executables_are_installed_and_can_be_run():
    folder = share("amma_ros").parents[1] / "lib" / "amma_ros"
    scripts = sorted(path.name for path in (ROOT / "scripts").iterdir())
    assert {"detector_node", "linker_node", "visualizer_node", "video_publisher"} <= set(scripts)
    for name in scripts:
        assert (folder / name).stat().st_mode & stat.S_IXUSR, name


def test_every_node_has_an_executable_that_finds_it():
    for script in (ROOT / "scripts").iterdir():
        package, module = re.search(
            r"^from (amma_\w+)\.(\w+) import main$", script.read_text(), re.MULTILINE
        ).groups()
        assert any((ROOT / package / name).exists() for name in (f"{module}.py", f"{module}/__init__.py")), (
            script
        )
        assert script.stat().st_mode & stat.S_IXUSR, script


def test_what_is_installed_is_what_is_in_the_tree():
    installed = share("amma_ros")
    for folder in ("config", "launch", "models", "msg"):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                assert (installed / file.relative_to(ROOT)).is_file(), file


def test_a_wheel_holds_the_library_the_command_and_the_models(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "package.xml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("amma_core", "models", "msg"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors")
        )
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, source], check=True, stdin=subprocess.DEVNULL)
    (file,) = tmp_path.glob("*.whl")
    wheel = zipfile.ZipFile(file)
    names = wheel.namelist()
    assert "amma_core/cli/detect.py" in names
    assert not any(name.startswith(("amma_ros/", "test/", "dev/")) for name in names)
    assert any(name.endswith("data/share/amma_ros/models/untrained/config.yaml") for name in names)
    assert any(name.endswith("data/share/amma_ros/msg/Tubelet.msg") for name in names)
    (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
    commands = ConfigParser()
    commands.read_string(wheel.read(entry_points).decode())
    assert commands["console_scripts"]["amma"] == "amma_core.cli:main"
