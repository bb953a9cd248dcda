"""The rules of linking, one box at a time: what the linker is held against, in tests and for speed."""

from collections import defaultdict


def iou(a, b):
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union else 0


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def mean_box(boxes):
    return [mean(coordinates) for coordinates in zip(*boxes, strict=True)]


def nms(tubelets, threshold, top):
    """tubelets: (index, label, score, list of boxes)."""
    kept = []
    for tubelet in sorted(tubelets, key=lambda t: (-t[2], t[0])):
        rivals = [other for other in kept if other[1] == tubelet[1]]
        clear = all(mean(map(iou, tubelet[3], other[3])) <= threshold for other in rivals)
        if clear and len(rivals) < top:
            kept.append(tubelet)
    return kept


class SlowTube:
    def __init__(self, id_, label, window):
        self.id, self.label, self.window = id_, label, window
        self.tubelets = []  # (score, {key frame: box})
        self.reported = False

    @property
    def score(self):
        whole = [score for score, boxes in self.tubelets if len(boxes) == self.window]
        if whole:
            return mean(whole)
        return sum(score for score, _ in self.tubelets) / sum(
            len(boxes) / self.window for _, boxes in self.tubelets
        )

    @property
    def first(self):
        return min(self.tubelets[0][1])

    @property
    def newest(self):
        return max(self.tubelets[-1][1])

    def box(self, number):
        """The box on a frame, or None before the first and after the last."""
        at_key = defaultdict(list)
        for _, boxes in self.tubelets:
            for key, box in boxes.items():
                at_key[key].append(box)
        at_key = {key: mean_box(boxes) for key, boxes in at_key.items()}
        if number in at_key:
            return at_key[number]
        before = [key for key in at_key if key < number]
        after = [key for key in at_key if key > number]
        if not before or not after:
            return None
        left, right = max(before), min(after)
        weight = (number - left) / (right - left)
        return [a + (b - a) * weight for a, b in zip(at_key[left], at_key[right], strict=True)]


class SlowLinker:
    """``update`` gives the step's frames, {number: {id: (label, score, box)}}, and the tubes that ended."""

    def __init__(self, nms_iou=0.6, top=10, link_iou=0.5, min_score=0.005, min_frames=1):
        self.nms_iou, self.top, self.link_iou = nms_iou, top, link_iou
        self.min_score, self.min_frames = min_score, min_frames
        self.active, self.next_id, self.stream, self.frames_seen = [], 1, None, 0

    def qualifies(self, tube, min_frames):
        return tube.score >= self.min_score and tube.newest - tube.first + 1 >= min_frames

    def finish(self):
        ended = self.active
        shortest = min(self.min_frames, self.frames_seen)
        self.ended_well = [tube for tube in ended if self.qualifies(tube, shortest)]
        self.active, self.frames_seen = [], 0
        return ended

    def update(self, tubelets):
        """Also leaves in ``ended_well`` those of the ended tubes that have the length and the score."""
        ended, well = [], []
        if tubelets.stream != self.stream:
            ended = self.finish()
            well = self.ended_well
            self.stream = tubelets.stream
        self.frames_seen += len(tubelets.frame_numbers)
        keys = tubelets.key_numbers.tolist()
        columns = tubelets.labels.tolist(), tubelets.scores.tolist(), tubelets.boxes.tolist()
        found = []
        every = [(i, *rest) for i, rest in enumerate(zip(*columns, strict=True))]
        for index, label, score, boxes in nms(every, self.nms_iou, self.top):
            at_key = defaultdict(list)
            for key, box in zip(keys, boxes, strict=True):
                at_key[key].append(box)
            found.append((index, label, score, {key: mean_box(same) for key, same in at_key.items()}))

        still_active = []
        for tube in self.active:
            if set(tube.tubelets[-1][1]) & set(keys):
                still_active.append(tube)
            else:
                ended.append(tube)
                if self.qualifies(tube, self.min_frames):
                    well.append(tube)
        self.active, self.ended_well = still_active, well

        grown = []
        for tube in sorted(self.active, key=lambda tube: (-tube.score, tube.id)):
            last = tube.tubelets[-1][1]
            fitting = [
                tubelet
                for tubelet in found
                if tubelet[1] == tube.label
                and mean(iou(last[key], tubelet[3][key]) for key in sorted(set(last) & set(keys)))
                >= self.link_iou
            ]
            if fitting:
                best = max(fitting, key=lambda tubelet: (tubelet[2], -tubelet[0]))
                found.remove(best)
                tube.tubelets.append(best[2:])
                grown.append(tube)
        for _, label, score, boxes in sorted(found, key=lambda tubelet: tubelet[0]):
            tube = SlowTube(self.next_id, label, len(keys))
            self.next_id += 1
            tube.tubelets.append((score, boxes))
            self.active.append(tube)
            grown.append(tube)
        for tube in grown:
            tube.reported = tube.reported or self.qualifies(tube, self.min_frames)

        frames = {}
        for number in tubelets.frame_numbers.tolist():
            frames[number] = {
                tube.id: (tube.label, tube.score, tube.box(number))
                for tube in grown
                if tube.reported and number >= keys[0]
            }
        return frames, ended
