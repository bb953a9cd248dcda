"""The import rules of docs/architecture.md, checked on the source."""

import ast
from pathlib import Path

CORE = Path(__file__).parents[2] / "amma_core"
FLOORS = [  # lowest first
    {"types", "boxes", "config", "errors", "files"},
    {"network", "linker", "decoding", "drawing", "rerun_view", "video", "behavior"},
    {"runtime", "bundle"},
    {"clips", "streams", "detector"},
    {"pipeline"},
    {"cli", "__main__"},
]
WINGS = {"data", "training", "evaluation"}
ROS = {"rclpy", "sensor_msgs", "vision_msgs", "std_msgs", "cv_bridge", "launch", "amma_ros"}


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, at its top and inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part(module: str) -> str | None:
    words = module.split(".")
    return words[1] if words[0] == "amma_core" and len(words) > 1 else None


def test_every_module_has_its_floor():
    packages = {path.parent.name for path in CORE.glob("*/__init__.py")}
    modules = {path.stem for path in CORE.glob("*.py")} - {"__init__"}
    assert packages | modules == set.union(*FLOORS) | WINGS


def test_no_import_runs_upwards():
    height = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    for path in CORE.rglob("*.py"):
        own = path.relative_to(CORE).parts[0].removesuffix(".py")
        used = {part(module) for module in imports(path)} & (set(height) | WINGS)
        if own in WINGS or own in ("cli", "__init__"):
            continue
        above = {name for name in used if name in WINGS or height[name] > height[own]}
        assert not above, f"{path.relative_to(CORE)} imports {sorted(above)}"


def test_the_library_never_imports_ros():
    for path in CORE.rglob("*.py"):
        used = {module.split(".")[0] for module in imports(path)} & ROS
        assert not used, f"{path.relative_to(CORE)} imports {sorted(used)}"
