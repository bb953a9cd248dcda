"""How many camera images arrive in another process of this machine, and after how long.

    python benchmarks/middleware.py [--sizes 640x480 1768x994] [--images 100] [--rate 30]

For each size of bgr8 images, each reliability, and the middleware as it is and with `config/fastdds.xml`:
the images received and the median milliseconds from stamp to callback. The last line is the table as JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from tqdm import tqdm

from amma_ros import conversions, transports

SIDES = ("send", "receive")
DEPTH = 5
QUIET = 3.0
"""Seconds without an image after which no more is expected."""
PATIENCE = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["640x480", "1768x994"], metavar="WxH")
    parser.add_argument("--images", type=int, default=100, help="images per case (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=30.0, help="images per second (default: %(default)s)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--reliability", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        take_part(arguments)
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    cases = [
        (size, reliability, profile)
        for size in arguments.sizes
        for reliability in ("best_effort", "reliable")
        for profile in (False, True)
    ]
    rows = []
    for size, reliability, profile in tqdm(cases, unit="case", disable=None):
        received, latency = measure(size, reliability, profile, arguments)
        rows.append([size, reliability, profile, received, latency])
    print(f"received of {arguments.images} at {arguments.rate:g} Hz (median latency)")
    print("image      reliability    config/fastdds.xml    received")
    for size, reliability, profile, received, latency in rows:
        after = "" if latency is None else f"({latency:.0f} ms)"
        print(f"{size:<11}{reliability:<15}{'yes' if profile else 'no':<22}{received:>8} {after}")
    print(json.dumps({"columns": ["size", "reliability", "profile", "received", "latency_ms"], "rows": rows}))


def measure(
    size: str, reliability: str, profile: bool, arguments: argparse.Namespace
) -> tuple[int, float | None]:
    """Images received here of those that another process sends, and their median latency in milliseconds."""
    # The middleware reads its environment once per process.
    options = ["--images", str(arguments.images), "--rate", str(arguments.rate)]
    options += ["--sizes", size, "--reliability", reliability]
    command = [sys.executable, __file__, *options, "--side"]
    environment = {name: value for name, value in os.environ.items() if name not in transports.CHOICES}
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if profile:
        environment[transports.VARIABLE] = str(transports.shared("config/fastdds.xml"))
    sender = subprocess.Popen([*command, "send"], env=environment)
    receiver = subprocess.run(
        [*command, "receive"], env=environment, capture_output=True, text=True, check=False
    )
    if sender.wait() or receiver.returncode:
        sys.exit(receiver.stderr)
    latencies = json.loads(receiver.stdout)
    return len(latencies), statistics.median(latencies) if latencies else None


def take_part(arguments: argparse.Namespace) -> None:
    """One side of a measurement, in a process of its own."""
    rclpy.init()
    node = Node(arguments.side, namespace=f"/amma_middleware_{os.getppid()}")
    qos = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy[arguments.reliability.upper()])
    if arguments.side == "send":
        send(node, qos, arguments.sizes[0], arguments.images, arguments.rate)
    else:
        print(json.dumps(receive(node, qos)))
    rclpy.shutdown()


def send(node: Node, qos: QoSProfile, size: str, images: int, rate: float) -> None:
    publisher = node.create_publisher(Image, "image", qos)
    width, height = map(int, size.split("x"))
    message = conversions.bgr_to_image(np.zeros((height, width, 3), np.uint8), Header())
    end = time.monotonic() + PATIENCE
    while not publisher.get_subscription_count():
        if time.monotonic() > end:
            sys.exit("nobody subscribed")
        time.sleep(0.01)
    time.sleep(0.5)  # for the other side to know, too
    begin = time.monotonic()
    for number in range(images):
        time.sleep(max(0.0, begin + number / rate - time.monotonic()))
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
    time.sleep(QUIET)


def receive(node: Node, qos: QoSProfile) -> list[float]:
    """Latencies of the images that come, in milliseconds."""
    latencies: list[float] = []
    heard = time.monotonic() + PATIENCE

    def take(image: Image) -> None:
        nonlocal heard
        heard = time.monotonic()
        sent = conversions.to_nanoseconds(image.header.stamp)
        latencies.append((node.get_clock().now().nanoseconds - sent) / 1e6)

    node.create_subscription(Image, "image", take, qos)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while time.monotonic() < heard + QUIET:
        executor.spin_once(timeout_sec=0.1)
    return latencies


if __name__ == "__main__":
    main()
