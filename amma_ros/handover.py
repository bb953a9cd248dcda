"""How frames get from the thread that receives them to the one that looks at them."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition
from typing import Any


@dataclass
class Frame:
    header: Any
    message: Any
    """None for a frame that is not to be looked at: there was no time."""


class Handover:
    """A queue that never makes anybody wait long: when it is full, the oldest clip is given up.

    At most `depth` images wait. One more, and the images of the oldest `clip` frames are dropped; the frames
    themselves still come out, in order, so that all are accounted for.
    """

    def __init__(self, depth: int, clip: int):
        self.depth, self.clip = max(depth, 2 * clip), clip
        self._items: deque[Frame | Callable[[], None]] = deque()
        self._images = 0
        self._closed = False
        self._changed = Condition()

    def __len__(self) -> int:
        """Images that wait."""
        return self._images

    def put(self, message) -> None:
        with self._changed:
            self._items.append(Frame(message.header, message))
            self._images += 1
            if self._images > self.depth:
                self._give_up_oldest_clip()
            self._changed.notify()

    def call(self, action: Callable[[], None]) -> None:
        """Something else to do, once all that is here now is done."""
        with self._changed:
            self._items.append(action)
            self._changed.notify()

    def get(self) -> Frame | Callable[[], None] | None:
        """Wait for the next item; None when the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed)
            if not self._items:
                return None
            item = self._items.popleft()
            if isinstance(item, Frame) and item.message is not None:
                self._images -= 1
            return item

    def close(self) -> None:
        """Drop the frames that wait; what else there is to do still comes out."""
        with self._changed:
            self._closed = True
            self._items = deque(item for item in self._items if not isinstance(item, Frame))
            self._images = 0
            self._changed.notify_all()

    def _give_up_oldest_clip(self) -> None:
        left = self.clip
        for item in self._items:
            if left and isinstance(item, Frame) and item.message is not None:
                item.message = None
                self._images -= 1
                left -= 1
