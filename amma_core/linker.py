"""From coarse tubelets to dense action tubes, online (section 3.5 of the paper)."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat
from numbers import Integral, Real

import numpy as np

from amma_core import boxes as box
from amma_core.errors import AmmaError
from amma_core.types import Floats, FrameDetections, Ints, LinkStep, Tube, Tubelets

_NO_KEYS = np.zeros(0, np.int64)


class TubeLinker:
    """Links tubelets into tubes, key frame by key frame.

    At every step, in each class by itself:

    1. Tubelets that mostly repeat a better one are suppressed, and the best ``top`` are kept.
    2. Tubes choose in turn, the highest mean score first. A tube looks at the key frames that its last
       tubelet shares with the new ones and takes, of the tubelets not yet taken whose mean IoU there
       reaches ``link_iou``, the one with the highest score.
    3. A tube whose last tubelet shares no key frame with the new ones ends; until then a tube that found
       nothing may still be taken up again.
    4. Tubelets that no tube took start new tubes.

    A tube's score is the mean score of its tubelets. At a stream's beginning, where windows repeat a key
    frame and have lower scores for it, it is the mean of what these were before, weighted by how much each
    window had seen; once a tube has a tubelet of a whole window, the early ones no longer count. Its box at
    a key frame is the mean box of its tubelets there (clips that repeat a key frame count as one, with their
    mean box), and its box between key frames lies on the line between these. It lasts from its first
    tubelet's first key frame to its last tubelet's last one. With K = 1 no two steps share a key frame, and
    every tubelet is a tube.

    **Frames.** Each step gives one :class:`FrameDetections` for each of ``Tubelets.frame_numbers``, with the
    tubes that the newest key frame confirmed. They stay as published, though the tubes' boxes at the newest
    K key frames go on to be averaged with later tubelets.

    **Causal mode.** A robot cannot wait for the next key frame: :meth:`extrapolate` gives a frame's
    detections at once, and the step that settles the frame later leaves it out. With ``causal`` set,
    :meth:`update` does the same with the frames of ``Tubelets`` without key frames (K = 0): these announce
    frames that no key frame has settled yet.

    **Tubes.** While a tube lives, each step reports its boxes on the step's ``frame_numbers``: those just
    published, or, where frames were extrapolated, what they should have been. With ``keep_history`` tubes
    are reported once instead, whole, when they end: the paper's offline result. The memory that this takes
    grows with the tubes that are alive; without it, it does not grow.

    Ids count up from 1 and are never used twice, over any number of streams.
    """

    def __init__(
        self,
        nms_iou: float = 0.6,
        top: int = 10,
        link_iou: float = 0.5,
        min_score: float | Floats = 0.005,
        min_frames: int = 1,
        causal: bool = False,
        keep_history: bool = False,
    ):
        """
        nms_iou: tubelets of a class that overlap more than this are one; lower values merge people who
            stand close together, higher ones give a person several tubes.
        top: tubelets kept per class and step; bounds the work and how many people can do the same thing.
        link_iou: what a tubelet must overlap a tube to go on with it; lower values let tubes jump between
            people, higher ones cut the tubes of fast people in pieces.
        min_score: tubes with a lower mean score are not reported; one number, or one per class. May be
            changed at any time.
        min_frames: tubes that last less are not reported. The paper's value is K * t. A single tubelet
            lasts (K - 1) * t + 1 frames.

        A live tube appears, in frames and in reports, from the step on in which it first has the score and
        the length, and then until it ends. With ``keep_history`` the score and the length that it ends with
        decide whether it is reported; at the end of a stream shorter than ``min_frames`` it need not last
        longer than that.
        """
        scores = zip(repeat("min_score"), np.ravel(min_score).tolist())
        for name, value in (("nms_iou", nms_iou), ("link_iou", link_iou), *scores):
            if not isinstance(value, Real) or not 0 <= value <= 1:
                raise AmmaError(f"The linker's {name} is {value!r}; it must be a number from 0 to 1.")
        for name, value in (("top", top), ("min_frames", min_frames)):
            if not isinstance(value, Integral) or value < 1:
                raise AmmaError(f"The linker's {name} is {value!r}; it must be a whole number from 1 on.")
        self.nms_iou = nms_iou
        self.top = top
        self.link_iou = link_iou
        self.min_score = min_score
        self.min_frames = min_frames
        self.causal = causal
        self._history = _History() if keep_history else None
        self._keys = _NO_KEYS
        self._tubes = _Tubes.none(0)
        self.next_id = 1
        """The id of the next tube; ids never repeat in a run."""
        self._stream: int | None = None
        self._stream_frames = 0
        self._extrapolated: set[int] = set()
        self._image_size = (0, 0)

    def update(self, tubelets: Tubelets) -> LinkStep:
        """Take the tubelets of the next key frame.

        Tubelets of another stream end all tubes first; these come in the same step. See the class for what
        the step holds. Raises AmmaError for a class that has no ``min_score`` where there is one per class.
        """
        ended = []
        if tubelets.stream != self._stream:
            ended = self._end_stream()
            self._stream = tubelets.stream
            # Frames of the old stream will not come again.
            self._extrapolated.intersection_update(tubelets.frame_numbers.tolist())
        if not len(tubelets.key_numbers):
            announced = zip(tubelets.frame_numbers.tolist(), tubelets.frame_stamps.tolist(), strict=True)
            return LinkStep([self.extrapolate(*frame) for frame in announced] if self.causal else [], ended)

        self._image_size = tubelets.image_size
        self._stream_frames += len(tubelets.frame_numbers)
        if self._history is not None:
            self._history.add_frames(tubelets)
        kept = box.tubelet_nms(tubelets.boxes, tubelets.labels, tubelets.scores, self.nms_iou, self.top)
        labels, scores = tubelets.labels[kept], tubelets.scores[kept].astype(np.float64)
        keys, boxes = box.merge_repeats(tubelets.key_numbers, tubelets.boxes[kept].astype(np.float64))

        ended += self._move_window(keys, self.min_frames)
        match = self._match(labels, boxes)
        rows = np.flatnonzero(match >= 0)
        taken = match[rows]
        self._tubes.extend(rows, scores[taken], boxes[taken], tubelets)
        order = np.argsort(kept)  # ids follow the order in which the detector gave the tubelets
        unused = order[~np.isin(order, taken)]
        self._start(labels[unused], scores[unused], boxes[unused], tubelets)

        tubes = self._tubes
        tubes.reported |= self._qualified(tubes, self.min_frames)
        frames, grown = self._settle(tubes[tubes.reported & (tubes.newest == keys[-1])], tubelets)
        return LinkStep(frames, ended + grown)

    def extrapolate(self, number: int, stamp: int) -> FrameDetections:
        """A frame's detections before its key frame is known, for causal mode.

        The tubes that the newest key frame confirmed are carried on along the line through their last
        tubelet's two newest boxes, and cut to the image; a box that has left it or shrunk to nothing is left
        out. The step that settles the frame will not publish it again.
        """
        self._extrapolated.add(number)
        tubes = self._tubes[self._tubes.reported & (self._tubes.newest == self._keys.max(initial=0))]
        boxes = tubes.last[:, -1:].reshape(-1, 4)  # sliced, as there may be no key frame yet
        if len(self._keys) > 1:
            speed = (boxes - tubes.last[:, -2]) / (self._keys[-1] - self._keys[-2])
            boxes = boxes + speed * (number - self._keys[-1])
        boxes = box.clip(boxes, self._image_size)
        there = box.area(boxes) > 0
        tubes, boxes = tubes[there], boxes[there].astype(np.float32)
        scores = tubes.score.astype(np.float32)
        return FrameDetections(number, stamp, tubes.label, scores, boxes, tubes.id, extrapolated=True)

    def finish(self) -> LinkStep:
        """End the stream, and all tubes with it.

        The linker may go on with another recording then, whose frames count from 1 again.
        """
        self._stream = None
        self._extrapolated.clear()
        return LinkStep(tubes=self._end_stream())

    def _end_stream(self) -> list[Tube]:
        ended = self._move_window(_NO_KEYS, min(self.min_frames, self._stream_frames))
        self._stream_frames = 0
        return ended

    def _move_window(self, keys: Ints, min_frames: int) -> list[Tube]:
        """Go on to the key frames of the next answer and end the tubes that share none of them.

        Whole tubes that end must last for ``min_frames``.
        """
        if self._history is not None:
            self._history.add_boxes(self._tubes, self._keys, ~np.isin(self._keys, keys))
        self._tubes.move_window(self._keys, keys)
        self._keys = keys
        over = ~(self._tubes.counts > 0).any(axis=1)
        ended, self._tubes = self._tubes[over], self._tubes[~over]
        if self._history is None:
            nothing = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32)
            ended = ended[ended.reported]
            return ended.as_tubes([nothing] * len(ended), ended=True)
        wanted = self._qualified(ended, min_frames)
        paths = self._history.take(ended, wanted)
        needed = np.concatenate([self._tubes.first, keys])
        self._history.forget_frames_before(needed.min(initial=np.iinfo(np.int64).max))
        return ended[wanted].as_tubes(paths, ended=True)

    def _qualified(self, tubes: "_Tubes", min_frames: int) -> np.ndarray:
        long_enough = tubes.newest - tubes.first + 1 >= min_frames
        needed = np.asarray(self.min_score)
        if not needed.ndim:
            return long_enough & (tubes.score >= needed)
        last = np.max(tubes.label, initial=-1)
        if last >= len(needed):
            raise AmmaError(
                f"The linker's min_score has {len(needed)} numbers, but there are tubelets of class {last}, "
                "counted from 0; give one number, or one for every class."
            )
        return long_enough & (tubes.score >= needed[tubes.label])

    def _match(self, labels: Ints, boxes: np.ndarray) -> Ints:
        """For each tube the index of the tubelet it takes, or -1.

        labels (N,), boxes (N, W, 4): the tubelets, by class, then by falling score.
        """
        tubes = self._tubes
        match = np.full(len(tubes), -1)
        start, stop = (np.searchsorted(labels, tubes.label, side=side) for side in ("left", "right"))
        # (A, P): each tube's candidates are the tubelets of its class, best first.
        candidates = start[:, None] + np.arange(np.max(stop - start, initial=0))
        fits = candidates < stop[:, None]
        candidates = np.minimum(candidates, len(labels) - 1)
        row, place = np.nonzero(fits)
        shared = tubes.counts[row] > 0
        overlap = (box.iou(tubes.last[row], boxes[candidates[row, place]]) * shared).sum(axis=-1)
        fits[row, place] = overlap / shared.sum(axis=-1) >= self.link_iou

        choosers = np.flatnonzero(fits.any(axis=1))
        choosers = choosers[np.lexsort((-tubes.score[choosers], tubes.label[choosers]))]
        firsts = np.flatnonzero(box.starts_of_runs(tubes.label[choosers]))
        turns = np.arange(len(choosers)) - np.repeat(firsts, np.diff(firsts, append=len(choosers)))
        free = np.ones(len(labels), bool)
        for turn in range(np.max(turns, initial=-1) + 1):
            rows = choosers[turns == turn]  # one of each class: they cannot want the same tubelet
            choice = fits[rows] & free[candidates[rows]]
            found = choice.any(axis=1)
            rows, taken = rows[found], candidates[rows, choice.argmax(axis=1)][found]
            match[rows] = taken
            free[taken] = False
        return match

    def _start(self, labels: Ints, scores: np.ndarray, boxes: np.ndarray, tubelets: Tubelets) -> None:
        tubes = _Tubes.none(len(self._keys), len(labels))
        tubes.id[:] = np.arange(self.next_id, self.next_id + len(labels))
        tubes.label[:] = labels
        tubes.first[:], tubes.first_stamp[:] = tubelets.key_numbers[0], tubelets.key_stamps[0]
        tubes.extend(np.arange(len(labels)), scores, boxes, tubelets)
        self.next_id += len(labels)
        self._tubes = self._tubes + tubes

    def _settle(self, tubes: "_Tubes", tubelets: Tubelets) -> tuple[list[FrameDetections], list[Tube]]:
        """The step's frames, and what these tubes have grown by."""
        numbers, stamps = tubelets.frame_numbers, tubelets.frame_stamps
        mean = tubes.sums / tubes.counts[:, :, None]
        boxes = box.interpolate(self._keys, mean, numbers).astype(np.float32)
        covered = numbers >= self._keys[0]
        scores = tubes.score.astype(np.float32)
        frames = []
        for column, (number, stamp) in enumerate(zip(numbers.tolist(), stamps.tolist(), strict=True)):
            if number not in self._extrapolated:
                rows = slice(None if covered[column] else 0)
                at_frame = tubes.label[rows], scores[rows], boxes[rows, column].copy(), tubes.id[rows]
                frames.append(FrameDetections(number, stamp, *at_frame))
        self._extrapolated = {number for number in self._extrapolated if number > self._keys[-1]}
        if self._history is not None:
            return frames, []
        numbers, stamps, boxes = numbers[covered], stamps[covered], boxes[:, covered]
        return frames, tubes.as_tubes([(numbers, stamps, path) for path in boxes], ended=False)


def link(tubelets: Iterable[Tubelets], **parameters) -> list[Tube]:
    """All tubes of a recording, whole, by id. ``parameters`` are those of :class:`TubeLinker`."""
    linker = TubeLinker(keep_history=True, **parameters)
    tubes = [tube for step in tubelets for tube in linker.update(step).tubes]
    return sorted(tubes + linker.finish().tubes, key=lambda tube: tube.id)


@dataclass
class _Tubes:
    """Tubes that may still grow, one a row, by rising id.

    The window, W, is the distinct key frames of the newest answer. What lies before it is settled: the next
    answer has the same key frames less the oldest, and new ones.
    """

    id: Ints
    label: Ints
    score_sum: np.ndarray
    score_weight: np.ndarray
    """Sum of the scores that count, of whole windows, or of all while there are none of these; and of the
    shares of key frames that their windows do not repeat."""
    whole: np.ndarray
    """Whether there are."""
    first: Ints
    newest: Ints
    """Frame numbers of the first and the newest box."""
    first_stamp: Ints
    newest_stamp: Ints
    reported: np.ndarray
    last: np.ndarray
    """(A, W, 4) boxes of the last tubelet, where it lies on the window."""
    sums: np.ndarray
    """(A, W, 4) sums of the boxes of all tubelets on these frames."""
    counts: Ints
    """(A, W) and their number; 0 on the key frames that the tube does not reach."""

    @classmethod
    def none(cls, window: int, rows: int = 0) -> "_Tubes":
        ints = {name: np.zeros(rows, np.int64) for name in ("id", "label", "first", "newest")}
        return cls(
            **ints,
            score_sum=np.zeros(rows),
            score_weight=np.zeros(rows),
            first_stamp=np.zeros(rows, np.int64),
            newest_stamp=np.zeros(rows, np.int64),
            whole=np.zeros(rows, bool),
            reported=np.zeros(rows, bool),
            last=np.zeros((rows, window, 4)),
            sums=np.zeros((rows, window, 4)),
            counts=np.zeros((rows, window), np.int64),
        )

    def __len__(self) -> int:
        return len(self.id)

    def __getitem__(self, rows) -> "_Tubes":
        return _Tubes(**{name: array[rows] for name, array in vars(self).items()})

    def __add__(self, others: "_Tubes") -> "_Tubes":
        mine, theirs = vars(self), vars(others)
        return _Tubes(**{name: np.concatenate([mine[name], theirs[name]]) for name in mine})

    @property
    def score(self) -> np.ndarray:
        return self.score_sum / self.score_weight

    def extend(self, rows: Ints, scores: np.ndarray, boxes: np.ndarray, source: Tubelets) -> None:
        """Give each of these tubes one more tubelet of ``source``: scores (n,), boxes (n, W, 4)."""
        share = boxes.shape[1] / len(source.key_numbers)
        if share == 1:
            early = rows[~self.whole[rows]]
            self.score_sum[early], self.score_weight[early] = 0, 0
            self.whole[rows] = True
        self.score_sum[rows] += scores
        self.score_weight[rows] += share
        self.newest[rows], self.newest_stamp[rows] = source.key_numbers[-1], source.key_stamps[-1]
        self.last[rows] = boxes
        self.sums[rows] += boxes
        self.counts[rows] += 1

    def move_window(self, old: Ints, new: Ints) -> None:
        _, source, target = np.intersect1d(old, new, assume_unique=True, return_indices=True)
        for name in ("last", "sums", "counts"):
            array = getattr(self, name)
            moved = np.zeros((len(self), len(new), *array.shape[2:]), array.dtype)
            moved[:, target] = array[:, source]
            setattr(self, name, moved)

    def as_tubes(self, paths: list[tuple[Ints, Ints, Floats]], ended: bool) -> list[Tube]:
        """One record a row, with (numbers, stamps, boxes) from ``paths``."""
        columns = (self.id, self.label, self.score, self.first_stamp, self.newest_stamp)
        rows = zip(*(column.tolist() for column in columns), paths, strict=True)
        return [
            Tube(id_, label, score, ended, start, end, *path) for id_, label, score, start, end, path in rows
        ]


class _History:
    """What whole tubes need beyond the window: their boxes at older key frames, and all frames' stamps."""

    def __init__(self):
        self._boxes = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)))]
        self._numbers = np.zeros(0, np.int64)
        self._stamps = np.zeros(0, np.int64)

    def add_frames(self, tubelets: Tubelets) -> None:
        numbers = np.concatenate([self._numbers, tubelets.frame_numbers, tubelets.key_numbers])
        stamps = np.concatenate([self._stamps, tubelets.frame_stamps, tubelets.key_stamps])
        self._numbers, index = np.unique(numbers, return_index=True)
        self._stamps = stamps[index]

    def forget_frames_before(self, number: int) -> None:
        start = np.searchsorted(self._numbers, number)
        self._numbers, self._stamps = self._numbers[start:], self._stamps[start:]

    def add_boxes(self, tubes: _Tubes, keys: Ints, leaving: np.ndarray) -> None:
        """Note the mean boxes at key frames that leave the window, as (tube id, frame number, box)."""
        row, column = np.nonzero((tubes.counts > 0) & leaving)
        if len(row):
            mean = tubes.sums[row, column] / tubes.counts[row, column, None]
            self._boxes.append((tubes.id[row], keys[column], mean))

    def take(self, tubes: _Tubes, wanted: np.ndarray) -> list[tuple[Ints, Ints, Floats]]:
        """Forget these tubes, and give the wanted ones' numbers, stamps and boxes, frame by frame."""
        if not len(tubes):
            return []
        ids, keys, boxes = (np.concatenate(parts) for parts in zip(*self._boxes, strict=True))
        gone = np.isin(ids, tubes.id)
        self._boxes = [(ids[~gone], keys[~gone], boxes[~gone])]
        tubes = tubes[wanted]
        gone = np.isin(ids, tubes.id)
        ids, keys, boxes = ids[gone], keys[gone], boxes[gone]
        order = np.lexsort((keys, ids))
        ids, keys, boxes = ids[order], keys[order], boxes[order]

        # All tubes at once: their frames end to end, each between two key boxes of its own tube.
        start = np.searchsorted(self._numbers, tubes.first)
        lengths = np.searchsorted(self._numbers, tubes.newest, side="right") - start
        ends = np.cumsum(lengths)
        tube = np.repeat(np.arange(len(tubes)), lengths)
        frame = np.arange(len(tube)) + (start - ends + lengths)[tube]
        numbers, stamps = self._numbers[frame], self._stamps[frame]
        span = np.max(numbers, initial=0) + 1
        place = np.searchsorted(tubes.id, ids) * span + keys
        before = np.searchsorted(place, tube * span + numbers, side="right") - 1
        after = np.minimum(before + 1, len(keys) - 1)
        gap = np.maximum(keys[after] - keys[before], 1)
        weight = ((numbers - keys[before]) / gap)[:, None]  # 0 at a tube's last key, whatever comes after
        dense = (boxes[before] * (1 - weight) + boxes[after] * weight).astype(np.float32)
        numbers, stamps, dense = (np.split(column, ends)[:-1] for column in (numbers, stamps, dense))
        return list(zip(numbers, stamps, dense, strict=True))
