"""What the tests of the graph work with: nodes in a namespace of their own, and a camera."""

import time
from collections import Counter
from collections.abc import Callable
from threading import Thread

import numpy as np
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from amma_ros import conversions

LABELS = ["fall", "push", "wave"]
SECOND = 1_000_000_000
PATIENCE = 30.0


class Graph:
    """Nodes in a namespace of their own, spun by one thread, and what a test needs to look at them."""

    def __init__(self, namespace: str):
        self.namespace = namespace
        self.nodes: list[Node] = []
        self.executor = SingleThreadedExecutor()
        self.observer = self._take(Node("observer", namespace=namespace))
        self._closing = False
        self._thread = Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while not self._closing:
            self.executor.spin_once(timeout_sec=0.1)

    def add(self, make: Callable[..., Node], remap: dict[str, str] | None = None, **parameters) -> Node:
        """Start a node; ``a__b=1`` sets the parameter ``a.b``."""
        overrides = [Parameter(name.replace("__", "."), value=value) for name, value in parameters.items()]
        rules = [word for old, new in (remap or {}).items() for word in ("-r", f"{old}:={new}")]
        arguments = ["--ros-args", *rules] if rules else []
        return self._take(make(namespace=self.namespace, parameter_overrides=overrides, cli_args=arguments))

    def _take(self, node: Node) -> Node:
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def remove(self, node: Node) -> None:
        self.executor.remove_node(node)
        self.nodes.remove(node)
        node.destroy_node()

    def listen(self, kind: type, topic: str, qos=100) -> list:
        """The messages of a topic, in the order in which they come."""
        messages: list = []
        self.observer.create_subscription(kind, topic, messages.append, qos)
        return messages

    def call(self, kind: type, service: str, request):
        client = self.observer.create_client(kind, service)
        assert client.wait_for_service(PATIENCE), f"no service {service}"
        future = client.call_async(request)
        self.wait(future.done, f"an answer of {service}")
        return future.result()

    def wait(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"waited in vain for {what}"
            time.sleep(0.01)

    def is_connected(self) -> bool:
        """Whether every publisher knows all the subscribers that this graph has for it."""
        wanted = Counter(s.topic_name for node in list(self.nodes) for s in list(node.subscriptions))
        publishers = [publisher for node in list(self.nodes) for publisher in list(node.publishers)]
        return all(
            publisher.get_subscription_count() >= wanted[publisher.topic_name] for publisher in publishers
        )

    def stay(self, seconds: float) -> None:
        """Give what should not happen the time to happen."""
        time.sleep(seconds)

    def close(self) -> None:
        self._closing = True
        self._thread.join()
        self.executor.shutdown()
        for node in self.nodes:
            node.destroy_node()


class Camera:
    """Publishes small pictures of a moving square, at stamps that the test chooses."""

    def __init__(self, graph: Graph, depth: int = 100, topic: str = "image", **qos):
        self._graph = graph
        self.publisher = graph.observer.create_publisher(Image, topic, QoSProfile(depth=depth, **qos))
        self.sent: list[Header] = []

    def wait_for_subscribers(self, count: int = 1) -> None:
        """And until the rest of the graph has found each other too: what is sent then reaches everybody."""
        self._graph.wait(
            lambda: self.publisher.get_subscription_count() >= count, "subscribers of the camera"
        )
        self._graph.wait(self._graph.is_connected, "the nodes to find each other")
        self._graph.stay(0.05)  # a lazy node subscribes when it has been found
        self._graph.wait(self._graph.is_connected, "the nodes to find each other")

    def picture(self, size: tuple[int, int] = (64, 48)) -> np.ndarray:
        width, height = size
        picture = np.full((height, width, 3), 60, np.uint8)
        left = 2 * len(self.sent) % (width // 2)
        picture[height // 4 : height // 2, left : left + width // 4] = (20, 200, 120)
        return picture

    def send(self, stamp: int, size: tuple[int, int] = (64, 48), frame_id: str = "eye") -> None:
        """stamp: nanoseconds."""
        header = Header(stamp=conversions.to_stamp(stamp), frame_id=frame_id)
        self.publisher.publish(conversions.bgr_to_image(self.picture(size), header))
        self.sent.append(header)

    def film(
        self, count: int, start: int = 100 * SECOND, fps: float = 30.0, pause: float = 0.0, **image
    ) -> None:
        for number in range(count):
            self.send(start + round(number * SECOND / fps), **image)
            time.sleep(pause)

    def leave(self) -> None:
        """All images are read first."""
        assert self.publisher.wait_for_all_acked(Duration(seconds=PATIENCE))
        # by the thread that spins: rclpy falls over what goes while it prepares to wait
        task = self._graph.executor.create_task(self._graph.observer.destroy_publisher, self.publisher)
        self._graph.wait(task.done, "the camera to leave")
