"""The definitions of `amma_core.evaluation` once more, box by box and as plainly as they can be said.

Slow, and shares no code with the package: tests and the benchmark hold the two against each other.
"""


def box_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    area_a = (a[2] - a[0] + 1) * (a[3] - a[1] + 1)
    area_b = (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
    return width * height / (area_a + area_b - width * height)


def best_of(box, candidates):
    """Index and IoU of the candidate that overlaps the box most (the first of equals)."""
    best, best_iou = -1, -1.0
    for i, candidate in enumerate(candidates):
        iou = box_iou(box, candidate)
        if iou > best_iou:
            best, best_iou = i, iou
    return best, best_iou


def area_below(recalls, heights):
    total = 0.0
    for i in range(1, len(recalls)):
        total += (recalls[i] - recalls[i - 1]) * (heights[i] + heights[i - 1]) / 2
    return 100 * total


def frame_class(detections, truth, label, threshold, mode):
    """AP and errors of one class, None without truth. Rows: video, frame, label, score, x1, y1, x2, y2."""
    own, others, videos = {}, {}, set()
    for row in truth:
        key = int(row[0]), int(row[1])
        if row[2] == label:
            own.setdefault(key, []).append(tuple(row[4:8]))
            videos.add(key[0])
        else:
            others.setdefault(key, []).append(tuple(row[4:8]))
    positives = sum(len(boxes) for boxes in own.values())
    if not positives:
        return None
    left = {key: list(boxes) for key, boxes in own.items()}
    rows = [(-row[3], int(row[0]), int(row[1]), i) for i, row in enumerate(detections) if row[2] == label]
    counts = dict.fromkeys("HLCTO", 0)
    recalls, shares = [0.0], {"H": [1.0], "L": [0.0], "C": [0.0], "T": [0.0], "O": [0.0]}
    for _, video, frame, i in sorted(rows):
        key, box = (video, frame), tuple(detections[i][4:8])
        if mode == "trimmed" and video in videos and key not in own:
            continue
        if key in own:
            best, iou = best_of(box, left[key])
            kind = "H" if iou >= threshold else "L"
            if kind == "H":
                del left[key][best]
        elif key in others:
            kind = "C" if best_of(box, others[key])[1] >= threshold else "O"
        else:
            kind = "T" if video in videos else "O"
        counts[kind] += 1
        seen = sum(counts.values())
        recalls.append(counts["H"] / positives)
        for name, count in counts.items():
            shares[name].append(count / seen)
    areas = {name: area_below(recalls, heights) for name, heights in shares.items()}
    ap = areas.pop("H")
    return ap, {**areas, "M": 100 - 100 * recalls[-1]}


def tube_iou(a, b):
    """Spatio-temporal IoU of two lists of (frame, x1, y1, x2, y2)."""
    shared = min(a[-1][0], b[-1][0]) - max(a[0][0], b[0][0]) + 1
    if shared <= 0:
        return 0.0
    union = max(a[-1][0], b[-1][0]) - min(a[0][0], b[0][0]) + 1
    of_frame = {row[0]: row[1:] for row in b}
    ious = [box_iou(row[1:], of_frame[row[0]]) for row in a if row[0] in of_frame]
    return sum(ious) / len(ious) * shared / union if ious else 0.0


def tube_nms(tubes, threshold):
    """Indices of what stays of the (score, rows) tubes of one video and class, best first."""
    live = sorted(range(len(tubes)), key=lambda i: (-tubes[i][0], tubes[i][1][0][0], i))
    kept = []
    while live:
        kept.append(live[0])
        live = [i for i in live[1:] if tube_iou(tubes[kept[-1]][1], tubes[i][1]) <= threshold]
    return kept


def video_class(tubes, truth, label, threshold):
    """AP of one class from (video, label, score, rows) tubes; None without truth."""
    left = {}
    for video, true_label, _, rows in truth:
        if true_label == label:
            left.setdefault(video, []).append(rows)
    positives = sum(len(group) for group in left.values())
    if not positives:
        return None
    ranked = []
    for video in sorted({tube[0] for tube in tubes}):
        group = [(score, rows) for v, name, score, rows in tubes if (v, name) == (video, label)]
        ranked += [(-group[i][0], video, group[i][1][0][0], i, group[i][1]) for i in tube_nms(group, 0.3)]
    hits, recalls, precisions = 0, [0.0], [1.0]
    for seen, (_, video, _, _, rows) in enumerate(sorted(ranked, key=lambda entry: entry[:4]), 1):
        ious = [tube_iou(true, rows) for true in left.get(video, [])]
        if ious and max(ious) >= threshold:
            del left[video][ious.index(max(ious))]
            hits += 1
        recalls.append(hits / positives)
        precisions.append(hits / seen)
    return area_below(recalls, precisions)


def soft_nms(boxes, scores, threshold):
    """New scores of the boxes of one frame and class."""
    scores = list(scores)
    live = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    while live:
        leader, rest = live[0], live[1:]
        live = []
        for i in rest:
            iou = box_iou(boxes[leader], boxes[i])
            if iou > threshold:
                scores[i] *= 1 - iou
            else:
                live.append(i)
    return scores
