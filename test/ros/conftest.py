"""Real nodes over real DDS, on a domain of this test run's own."""

import os

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this Python")

# Before the first rclpy.init, so that parallel test runs on one machine do not hear each other.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
