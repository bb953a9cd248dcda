"""How frames get from the thread that receives them to the one that looks at them."""

import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from threading import Condition
from typing import Any

Action = Callable[[], None]


@dataclass
class Frame:
    header: Any
    message: Any
    """None for a frame that is not to be looked at: there was no time."""


class FrameQueue:
    """The frames of one camera that wait. When there are too many, old ones are given up for the new.

    At most `depth` images wait. One more, and the images of as many frames are dropped as a clip has: those
    behind a hole that waits already, or else the oldest that the clip begun does not lack. The frames
    themselves still come out, in order, so that all are accounted for. Belongs to a :class:`Handover`.
    """

    def __init__(self, changed: Condition, depth: int, clip: int):
        self._wanted_depth = depth
        self.fit(clip)
        self.items: deque[Frame | Action] = deque()
        self.skipped = 0
        """Frames given up so far."""
        self._images = 0
        self._changed = changed

    def fit(self, clip: int) -> None:
        """Clips have this many frames."""
        self.clip = clip
        self.expect(0, clip)

    def expect(self, lacking: int, span: int) -> None:
        """As far as who takes the frames knows: how many the clip begun still lacks, 0 if none is begun, and
        how many a clip spans, those counted that come too soon for it.

        There is room for a clip that has begun and for what is given up at a time, whatever depth was wanted.
        """
        self.lacking, self.span = lacking, span
        self.depth = max(self._wanted_depth, span + self.clip)

    def __len__(self) -> int:
        """Images that wait."""
        return self._images

    def put(self, message) -> None:
        with self._changed:
            self.items.append(Frame(message.header, message))
            self._images += 1
            if self._images > self.depth:
                self._give_up_old_frames()
            self._changed.notify()

    def call(self, action: Action) -> None:
        """Something else to do, once all that waits here now is done."""
        with self._changed:
            self.items.append(action)
            self._changed.notify()

    def pop(self) -> Frame | Action:
        item = self.items.popleft()
        if isinstance(item, Frame) and item.message is not None:
            self._images -= 1
        return item

    def drop_frames(self) -> None:
        self.skipped += self._images
        self.items = deque(item for item in self.items if not isinstance(item, Frame))
        self._images = 0

    def _give_up_old_frames(self) -> None:
        """Make a hole, or a longer one, after the clip begun: a hole costs the clip that it cuts short."""
        frames = [item for item in self.items if isinstance(item, Frame)]
        holes = [place for place, frame in enumerate(frames) if frame.message is None]
        begin = holes[-1] + 1 if holes else min(self.lacking, len(frames) - self.clip)
        for frame in frames[begin : begin + self.clip]:
            frame.message = None
            self._images -= 1
            self.skipped += 1


class Handover:
    """The queues of all cameras, and the thread that empties them, clip by clip."""

    def __init__(self):
        self._changed = Condition()
        self._queues: list[FrameQueue] = []
        self._closed = False

    def add_queue(self, depth: int, clip: int) -> FrameQueue:
        self._queues.append(FrameQueue(self._changed, depth, clip))
        return self._queues[-1]

    def get(
        self, busy: Collection[FrameQueue] = (), until: float | None = None
    ) -> tuple[FrameQueue, Frame | Action] | None:
        """The next item of the queues that are not busy: of the one whose clip lacks most frames.

        So all clips get whole at about the same time, and no camera has two while another has none, however
        many frames a clip of it spans or skips. Queues that lack equally many take turns.

        Waits for an item until the time.monotonic() of `until`, or as long as it takes. None if none came
        until then, also where more wait, and when the handover is closed and empty.
        """
        # A queue that is never empty must not keep those from their turn that are busy
        if until is not None and time.monotonic() >= until:
            return None
        with self._changed:
            free = [queue for queue in self._queues if queue not in busy]
            while free and not any(queue.items for queue in free):
                left = None if until is None else until - time.monotonic()
                if self._closed or (left is not None and left <= 0):
                    return None
                self._changed.wait(left)
            ready = [queue for queue in free if queue.items]
            if not ready:
                return None
            queue = max(ready, key=lambda queue: queue.lacking or queue.span)
            self._queues.remove(queue)  # max takes the first of several
            self._queues.append(queue)
            return queue, queue.pop()

    def close(self) -> None:
        """Drop the frames that wait; what else there is to do still comes out."""
        with self._changed:
            self._closed = True
            for queue in self._queues:
                queue.drop_frames()
            self._changed.notify_all()
