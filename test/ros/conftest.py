"""Real nodes over real DDS, on a domain of this test run's own."""

import os

import pytest
import yaml

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed in this Python")

# Before the first rclpy.init, so that test runs side by side on one machine do not hear each other.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

from ros_graph import LABELS, Camera, Graph  # noqa: E402


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    """A small untrained network: three clips of four frames, looking at 64x64 pixels."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    path.mkdir()
    network = {"backbone": "shufflenet_v2", "clips": 3, "clip_length": 4, "input_size": 64}
    config = {"trained": False, "fps": 30.0, "labels": LABELS, "network": network}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    return str(path)


@pytest.fixture(scope="session", autouse=True)
def ros():
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def graph(request):
    graph = Graph("/" + "".join(c if c.isalnum() else "_" for c in request.node.name))
    yield graph
    graph.close()


@pytest.fixture
def camera(graph) -> Camera:
    return Camera(graph)
