"""The detector as a node: images in, tubelets out.

Two threads: ROS calls come in on one, which hands images over and never waits; the other looks at them.
"""

import gc
import sys
import traceback
from dataclasses import dataclass
from threading import Thread
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo

from amma_core import bundle
from amma_core.detector import ActionDetector
from amma_core.errors import AmmaError
from amma_core.types import Tubelets
from amma_ros import conversions, parameters
from amma_ros.handover import Frame, Handover
from amma_ros.msg import TubeletArray
from amma_ros.node import LATCHED, ManagedNode, run
from amma_ros.srv import LoadModel

SETTLING = 0.2
"""Seconds without an image after which the stream of a publisher that has left is over."""


@dataclass(frozen=True)
class _Model:
    name: str
    labels: tuple[str, ...]
    runtime: Any


class DetectorNode(ManagedNode):
    """Publishes one TubeletArray per clip of the stream ``image``; in causal mode also one per frame."""

    def __init__(self, **options):
        super().__init__("detector", parameters.DETECTOR, **options)

    def prepare(self) -> None:
        self._model = self._detector = self._handover = self._subscription = self._ending = self._service = (
            None
        )
        self._publishers = []

    def open(self) -> None:
        self._model = self._load(self.settings["model"])
        self._tubelets = self.create_publisher(
            TubeletArray,
            "tubelets",
            self.settings.qos("tubelets"),
            event_callbacks=PublisherEventCallbacks(matched=self._on_listeners),
        )
        self._label_info = self.create_publisher(LabelInfo, "model_labels", LATCHED)
        self._publishers = [self._tubelets, self._label_info]
        self._publish_labels()
        self._service = self.create_service(LoadModel, "~/load_model", self._on_load_model)

    def close(self) -> None:
        for publisher in self._publishers:
            self.destroy_publisher(publisher)
        self._publishers = []
        if self._service is not None:
            self.destroy_service(self._service)
            self._service = None
        self._model = None
        _free_gpu_memory()

    def start(self) -> None:
        self._begin(self._model)
        self._handover = Handover(self.settings["queue_depth"], self._model.runtime.config.clip_length)
        self._bad_images = 0
        self.apply({})
        self._thread = Thread(target=self._work, args=(self._handover,), name="inference", daemon=True)
        self._thread.start()
        if not self.settings["lazy"] or self._tubelets.get_subscription_count():
            self._subscribe()

    def stop(self) -> None:
        if self._handover is None:
            return
        self._unsubscribe()
        self._handover.close()
        self._thread.join()
        self._handover = self._detector = None

    def check(self, values: dict) -> None:
        if "model" in values:
            bundle.load(values["model"])

    def apply(self, values: dict) -> None:
        self._causal = self.settings["causal"]
        if self._handover is not None:
            self._detector.top = self.settings["top_tubelets"]
            self._detector.min_score = self.settings["min_tubelet_score"]

    def _load(self, name: str) -> "_Model":
        from amma_core.runtime.torch_runtime import TorchRuntime

        model = bundle.load(name)
        if not model.trained:
            self.get_logger().warn(f"the model '{model.name}' is untrained: what it finds means nothing")
        runtime = TorchRuntime(model.build(), self.settings["device"], self.settings["precision"])
        return _Model(model.name, model.labels, runtime)

    def _publish_labels(self) -> None:
        now = self.get_clock().now().to_msg()
        self._label_info.publish(conversions.label_info(self._model.labels, 0.0, now))

    def _on_load_model(self, request: LoadModel.Request, response: LoadModel.Response) -> LoadModel.Response:
        """The old model goes on looking at images until the new one is loaded."""
        try:
            model = self._load(request.model)
        except AmmaError as error:
            response.message = str(error)
            return response
        self._model = model
        self.note("model", request.model)
        self._publish_labels()
        if self._handover is not None:
            self._handover.call(lambda: self._begin(model))
        response.success = True
        response.message = f"{model.name} recognises {', '.join(model.labels)}"
        return response

    # The thread of ROS calls

    def _subscribe(self) -> None:
        compressed = self.settings["image_transport"] == "compressed"
        self._subscription = self.create_subscription(
            CompressedImage if compressed else Image,
            self.resolve_topic_name("image") + "/compressed" if compressed else "image",
            self._on_image,
            self.settings.qos("image"),
            event_callbacks=SubscriptionEventCallbacks(matched=self._on_cameras),
        )

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
            self._handover.call(self._end_stream)
        self._forget_ending()

    def _on_image(self, message: Image | CompressedImage) -> None:
        if self._handover is not None:
            self._handover.put(message)
        if self._ending is not None:
            self._ending.reset()

    def _on_listeners(self, status) -> None:
        """With the parameter lazy: look at images only while somebody wants to know."""
        if not self.active or not self.settings["lazy"]:
            return
        if status.current_count and self._subscription is None:
            self._subscribe()
        elif not status.current_count:
            self._unsubscribe()

    def _on_cameras(self, status) -> None:
        """When the last publisher of images leaves, the stream ends as soon as its images have been read."""
        self._forget_ending()
        if status.current_count == 0:
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._ending = self.create_timer(SETTLING, self._on_ending, clock=steady)

    def _on_ending(self) -> None:
        self._forget_ending()
        if self._handover is not None:
            self._handover.call(self._end_stream)

    def _forget_ending(self) -> None:
        if self._ending is not None:
            self.destroy_timer(self._ending)
            self._ending = None

    # The thread of inference

    def _begin(self, model: "_Model") -> None:
        """Look at what comes with this model, as the first of a new stream."""
        if self._detector is not None:
            self._end_stream()
        self._labels = model.labels
        self._kind: tuple | None = None
        self._detector = ActionDetector(
            model.runtime,
            policy=self.settings["policy"],
            max_gap=self.settings["max_gap"],
            top=self.settings["top_tubelets"],
            min_score=self.settings["min_tubelet_score"],
        )

    def _work(self, handover: Handover) -> None:
        while (item := handover.get()) is not None:
            try:
                if isinstance(item, Frame):
                    self._take(item)
                else:
                    item()
            except AmmaError as error:
                self._bad_images += 1
                self.get_logger().warn(
                    f"{error} (image left out, {self._bad_images} so far)", throttle_duration_sec=30.0
                )
            except Exception:
                if not self.context.ok():
                    return  # the process is ending: nothing can be published any more
                self.get_logger().error(f"looking at an image failed:\n{traceback.format_exc()}")
                self._detector.reset()

    def _take(self, frame: Frame) -> None:
        stamp = conversions.to_nanoseconds(frame.header.stamp)
        if frame.message is None:
            self._publish(self._detector.skip(stamp))
            answered = False
        else:
            image = conversions.image_to_bgr(frame.message)
            kind = (frame.header.frame_id, getattr(frame.message, "encoding", "compressed"))
            if self._kind not in (None, kind):
                self._end_stream()
            self._kind = kind
            answers = self._detector.update(image, stamp)
            self._publish(answers)
            answered = bool(answers) and answers[-1].frame_numbers[-1] == self._detector.frames_seen
        if self._causal and not answered:
            self._tubelets.publish(
                conversions.announcement(self._detector.frames_seen, frame.header, self._detector.stream)
            )

    def _end_stream(self) -> None:
        self._publish(self._detector.flush())
        if self._kind is not None:
            # Nothing of the next stream is known yet, but that the tubes of this one are over.
            header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self._kind[0])
            self._tubelets.publish(TubeletArray(header=header, stream=self._detector.stream))
        self._kind = None

    def _publish(self, answers: list[Tubelets]) -> None:
        for tubelets in answers:
            self._tubelets.publish(conversions.tubelets_to_message(tubelets, self._labels, self._kind[0]))


def _free_gpu_memory() -> None:
    """Give back what torch keeps for the next model."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def main() -> int:
    return run(DetectorNode)


if __name__ == "__main__":
    sys.exit(main())
