from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest

from amma_core.clips import ClipAssembler
from amma_ros.handover import Frame, Handover


def message(number: int) -> SimpleNamespace:
    return SimpleNamespace(header=number)


def contents(queue) -> list:
    """Numbers of the frames; negative where the image was given up."""
    frames = [queue.pop() for _ in range(len(queue.items))]
    return [frame.header if frame.message is not None else -frame.header for frame in frames]


def filled(count: int, depth: int, clip: int):
    queue = Handover().add_queue(depth, clip)
    for number in range(1, count + 1):
        queue.put(message(number))
    return queue


def test_frames_come_out_as_they_went_in():
    assert contents(filled(8, depth=8, clip=4)) == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (9, [-1, -2, -3, -4, 5, 6, 7, 8, 9]),
        (12, [-1, -2, -3, -4, 5, 6, 7, 8, 9, 10, 11, 12]),
        (13, [-1, -2, -3, -4, -5, -6, -7, -8, 9, 10, 11, 12, 13]),
    ],
)
def test_a_full_queue_gives_up_its_oldest_clip_and_keeps_the_newest(count, expected):
    queue = filled(count, depth=8, clip=4)
    assert len(queue) == sum(number > 0 for number in expected)
    assert queue.skipped == sum(number < 0 for number in expected)
    assert contents(queue) == expected


@pytest.mark.parametrize("slowness", [1, 2, 5, 10])
def test_too_slow_a_reader_gets_whole_clips(slowness):
    """However slow: a clip that was begun is finished, and what is given up begins where it ends."""
    queue = Handover().add_queue(depth=8, clip=4)
    taken, begun, clips = [], 0, 0
    for number in range(1, 401):
        queue.put(message(number))
        assert len(queue) <= 8
        if number % slowness == 0:
            frame = queue.pop()
            taken.append(frame)
            while frame.message is None:  # a hole costs no time
                assert begun == 0, "a clip was torn"
                frame = queue.pop()
                taken.append(frame)
            begun = (begun + 1) % 4
            clips += begun == 0
            queue.lacking = (4 - begun) % 4
    assert clips == 400 // slowness // 4
    assert [frame.header for frame in taken] == list(range(1, len(taken) + 1))
    assert queue.skipped + len(queue) + sum(frame.message is not None for frame in taken) == 400


def test_a_queue_that_is_never_empty_does_not_keep_a_finished_clip_waiting():
    handover = Handover()
    left, right = handover.add_queue(8, 4), handover.add_queue(8, 4)
    right.put(message(1))
    assert handover.get(busy=[left], until=0.0) is None
    assert handover.get(busy=[left])[0] is right


def test_there_is_room_for_two_clips_at_least():
    assert filled(10, depth=1, clip=5).skipped == 0


def test_images_do_not_pile_up_however_many_come():
    queue = filled(1000, depth=8, clip=4)
    assert len(queue) <= 8
    assert queue.items[-1].header == 1000


def test_queues_take_turns_and_busy_ones_are_passed_over():
    handover = Handover()
    left, right = handover.add_queue(8, 4), handover.add_queue(8, 4)
    for number in (1, 2, 3):
        left.put(message(number))
        right.put(message(10 * number))
    taken = [handover.get()[1].header for _ in range(4)]
    assert taken == [1, 10, 2, 20]
    assert handover.get(busy=[left])[1].header == 30
    assert handover.get(busy=[left, right]) is None
    assert handover.get()[1].header == 3
    assert handover.get(until=0.0) is None


@pytest.mark.parametrize(
    ("rates", "target"),
    [([30, 30], None), ([30, 60], None), ([120, 30], 30.0), ([60, 15], 15.0), ([30, 30, 30, 30], 10.0)],
)
def test_all_cameras_get_as_many_clips_whatever_their_rates(rates, target):
    """Where the network is too slow for all of them, and takes one clip at a time."""
    handover = Handover()
    queues = [handover.add_queue(10, 4) for _ in rates]
    assemblers = {queue: ClipAssembler(4, 3, 8, target_fps=target) for queue in queues}
    clips, picture, ready, most = dict.fromkeys(queues, 0), np.zeros((8, 8, 3), np.uint8), 0.0, 0
    arrivals = sorted((n / rate, queue) for queue, rate in enumerate(rates) for n in range(30 * rate))
    for now, number in arrivals:
        queues[number].put(message(round(now * 1e9)))
        most = max(most, len(queues[number].items))
        while now >= ready and any(queue.items for queue in queues):
            queue, frame = handover.get()
            assembler, stamp = assemblers[queue], frame.header
            steps = assembler.skip(stamp) if frame.message is None else assembler.add(picture, stamp)
            queue.expect(assembler.lacking, assembler.span)
            if steps:
                clips[queue] += 1
                ready = now + 0.2
    assert sum(clips.values()) > 0.95 * 30 / 0.2, "the network was idle"
    assert max(clips.values()) - min(clips.values()) <= 2
    assert sum(assembler.torn for assembler in assemblers.values()) < 30
    assert most <= 0.2 * len(rates) * max(rates) + 40, "what was skipped piles up"


def test_waiting_ends_when_something_comes():
    handover = Handover()
    queue = handover.add_queue(8, 4)
    got = []
    thread = Thread(target=lambda: got.append(handover.get()))
    thread.start()
    queue.put(message(7))
    thread.join(10)
    assert got[0] == (queue, Frame(7, message(7)))


def test_closing_drops_frames_but_not_what_else_there_is_to_do():
    handover = Handover()
    queue = handover.add_queue(8, 4)
    done = []
    queue.put(message(1))
    queue.call(lambda: done.append(1))
    queue.put(message(2))
    handover.close()
    handover.get()[1]()
    assert handover.get() is None
    assert done == [1]
    assert queue.skipped == 2


def test_longer_clips_get_more_room():
    queue = filled(8, depth=8, clip=4)
    queue.fit(6)
    for number in range(9, 13):
        queue.put(message(number))
    assert queue.skipped == 0
    queue.put(message(13))
    assert contents(queue) == [-1, -2, -3, -4, -5, -6, *range(7, 14)]
    assert len(queue) == 0
