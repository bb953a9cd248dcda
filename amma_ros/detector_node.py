"""The detector as a node: images in, tubelets out.

Two threads: ROS calls come in on one, which hands images over and never waits; the other looks at them.
"""

import sys
import time
import traceback
from dataclasses import dataclass
from threading import Thread
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from vision_msgs.msg import LabelInfo

from amma_core import bundle
from amma_core.errors import AmmaError
from amma_core.streams import Stream, advance
from amma_ros import conversions, parameters
from amma_ros.camera import Camera
from amma_ros.handover import Frame, Handover
from amma_ros.meter import memory, status
from amma_ros.node import LATCHED, ManagedNode, camera_names, run
from amma_ros.srv import LoadModel


@dataclass(frozen=True)
class _Model:
    name: str
    labels: tuple[str, ...]
    fps: float
    runtime: Any
    loaded_from: tuple


class DetectorNode(ManagedNode):
    """Publishes one TubeletArray per clip of each camera's stream; in causal mode also one per frame.

    All cameras share one copy of the weights, and clips that are ready together go through it together.
    """

    def __init__(self, **options):
        super().__init__("detector", parameters.DETECTOR, **options)

    def prepare(self) -> None:
        self._model: _Model | None = None
        self._handover: Handover | None = None
        self._thread: Thread | None = None
        self._cameras: list[Camera] = []
        self._label_info = self._service = None

    def open(self) -> None:
        self._model = self._model or self._load(self.settings["model"])
        self._cameras = [Camera(self, self.settings, name) for name in camera_names(self.settings)]
        self._label_info = self.create_publisher(LabelInfo, "model_labels", LATCHED)
        self._publish_labels()
        self._service = self.create_service(LoadModel, "~/load_model", self._on_load_model)

    def reopen(self) -> None:
        """Loading takes long: the model stays if it is still the one that is wanted."""
        wanted = self._what_to_load(self.settings["model"])
        kept = self._model if self._model is not None and self._model.loaded_from == wanted else None
        self.close()
        self._model = kept
        self._open()

    def close(self) -> None:
        for camera in self._cameras:
            camera.close()
        self._cameras = []
        if self._service is not None:
            self.destroy_service(self._service)
            self.destroy_publisher(self._label_info)
            self._service = self._label_info = None
        self._model = self._runtime = None
        if "torch" in sys.modules:  # also where loading a model failed half way
            from amma_core.runtime.torch_runtime import free_gpu_memory

            free_gpu_memory()

    def start(self) -> None:
        self._begin(self._model)
        self._handover = Handover()
        for camera in self._cameras:
            clip = self._model.runtime.config.clip_length
            camera.start(self._handover.add_queue(self.settings["queue_depth"], clip))
        thread = Thread(target=self._work, args=(self._handover,), name="inference", daemon=True)
        thread.start()
        self._thread = thread

    def stop(self) -> None:
        if self._handover is None:
            return
        for camera in self._cameras:
            camera.stop()
        self._handover.close()
        if self._thread is not None:  # there is none where starting failed on the way
            self._thread.join()
        self._handover = self._thread = None
        for camera in self._cameras:
            camera.forget_queue()

    def check(self, values: dict) -> None:
        if "model" in values:
            bundle.load(values["model"])
        if "cameras" in values:
            camera_names(values)

    def diagnose(self) -> list[DiagnosticStatus]:
        name = self._model.name if self._model is not None else ""
        fault = "" if self.active else "not active"
        node = status(self.get_fully_qualified_name(), name, fault, {"model": name, **memory()})
        return [node, *(camera.report(name) for camera in self._cameras if self.active)]

    def _load(self, name: str) -> _Model:
        from amma_core.runtime.torch_runtime import TorchRuntime

        model = bundle.load(name)
        if not model.trained:
            self.get_logger().warning(f"the model '{model.name}' is untrained: what it finds means nothing")
        runtime = TorchRuntime(model.build(), **parameters.of_runtime(self.settings))
        return _Model(model.name, model.labels, model.fps, runtime, self._what_to_load(name))

    def _what_to_load(self, name: str) -> tuple:
        return name, parameters.of_runtime(self.settings)

    def _publish_labels(self) -> None:
        now = self.get_clock().now().to_msg()
        self._label_info.publish(conversions.label_info(self._model.labels, 0.0, now))

    def _on_load_model(self, request: LoadModel.Request, response: LoadModel.Response) -> LoadModel.Response:
        """The old model stays until the new one is loaded, and for good if that fails."""
        try:
            model = self._load(request.model)
        except AmmaError as error:
            response.message = str(error)
            return response
        except Exception as error:  # no memory on the GPU, for instance
            self.get_logger().error(traceback.format_exc())
            response.message = f"{request.model} could not be loaded: {error}"
            return response
        self._model = model
        self.note("model", request.model)
        self._publish_labels()
        if self._handover is not None:
            self._cameras[0].queue.call(lambda: self._change(model))
        response.success = True
        response.message = f"{model.name} recognises {', '.join(model.labels)}"
        return response

    # The thread of inference

    def _begin(self, model: _Model) -> None:
        """What comes is looked at with this model, as the first of new streams."""
        self._runtime = model.runtime
        for camera in self._cameras:
            stream = Stream(model.runtime.config, **parameters.of_streams(self.settings, model.fps))
            camera.begin(stream, model.labels, self._advance)

    def _change(self, model: _Model) -> None:
        for camera in self._cameras:
            try:
                camera.end_stream()
            except Exception:  # the other cameras have last answers too, and the next model may do better
                camera.fail(traceback.format_exc())
            camera.queue.fit(model.runtime.config.clip_length)
        self._begin(model)

    def _work(self, handover: Handover) -> None:
        cameras = {camera.queue: camera for camera in self._cameras}
        wait = self.settings["batch_wait"] / 1000 if len(cameras) > 1 else 0.0
        since = 0.0
        while True:
            busy = {queue: camera for queue, camera in cameras.items() if camera.stream.waiting}
            since = (since or time.monotonic()) if busy else 0.0
            found = handover.get(busy, since + wait if busy else None)
            if found is None and not busy:
                return  # closed
            advancing = found is None or len(busy) == len(cameras)
            try:
                if advancing:
                    self._advance(list(busy.values()))
                    since = 0.0
                elif isinstance(found[1], Frame):
                    cameras[found[0]].take(found[1])
                else:
                    found[1]()
            except Exception:
                if not self.context.ok():
                    return  # the process is ending: nothing can be published any more
                for camera in busy.values() if advancing else [cameras[found[0]]]:
                    camera.fail(traceback.format_exc())

    def _advance(self, cameras: list[Camera]) -> None:
        """One step for each of these cameras, in one batch."""
        begin = time.monotonic()
        by_stream = {camera.stream: camera for camera in cameras}
        answers = advance(
            self._runtime,
            list(by_stream),
            self.settings["top_tubelets"],
            self.settings["min_tubelet_score"],
        )
        took = (time.monotonic() - begin) * 1000
        for stream, tubelets in answers:
            by_stream[stream].publish(tubelets, took)
        for camera in cameras:
            if not camera.stream.waiting:
                camera.settle()


def main() -> int:
    return run(DetectorNode)


if __name__ == "__main__":
    sys.exit(main())
