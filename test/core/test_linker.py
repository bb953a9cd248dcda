import pickle

import numpy as np
import pytest
from slow_linker import SlowLinker

from amma_core.errors import AmmaError
from amma_core.linker import TubeLinker, link
from amma_core.types import Tubelets

WALK, WAVE = 0, 1
NS = 1_000_000_007  # per frame; not a float's idea of a round number


def at(x, y=0):
    """A box 10 wide; d to the side of another its IoU with that one is (10 - d) / (10 + d)."""
    return [x, y, x + 10, y + 10]


def answer(keys, *tubelets, after=None, stream=0, size=(1000, 1000)):
    """Tubelets from (label, score, x per key frame), settling the frames after the given one."""
    after = keys[-1] - 4 if after is None else after
    numbers = np.arange(after + 1, keys[-1] + 1)
    boxes = [[at(x) for x in xs] for _, _, xs in tubelets]
    return Tubelets(
        image_size=size,
        key_numbers=np.array(keys),
        key_stamps=np.array(keys) * NS,
        frame_numbers=numbers,
        frame_stamps=numbers * NS,
        labels=np.array([label for label, _, _ in tubelets], np.int64),
        scores=np.array([score for _, score, _ in tubelets], np.float32),
        boxes=np.array(boxes, np.float32).reshape(len(tubelets), len(keys), 4),
        stream=stream,
    )


def announcement(*numbers, stream=0):
    step = answer([numbers[-1]], after=numbers[0] - 1, stream=stream)
    return Tubelets(
        step.image_size, step.key_numbers[:0], step.key_stamps[:0], step.frame_numbers, step.frame_stamps,
        step.labels, step.scores, step.boxes[:, :0], stream,
    )  # fmt: skip


def xs(step):
    """{frame number: {tube id: x1}} of a step."""
    return {f.number: dict(zip(f.tubes.tolist(), f.boxes[:, 0].tolist(), strict=True)) for f in step.frames}


def summary(tubes):
    return [(tube.id, tube.ended, tube.start_stamp // NS, tube.end_stamp // NS) for tube in tubes]


def test_a_person_is_followed_step_by_step():
    linker = TubeLinker()

    step = linker.update(answer([4, 8, 12], (WALK, 0.8, [0, 4, 8]), after=0))
    assert xs(step) == {
        **{1: {}, 2: {}, 3: {}},  # before the first key frame
        **{
            4: {1: 0},
            5: {1: 1},
            6: {1: 2},
            7: {1: 3},
            8: {1: 4},
            9: {1: 5},
            10: {1: 6},
            11: {1: 7},
            12: {1: 8},
        },
    }
    assert [frame.stamp for frame in step.frames] == [n * NS for n in range(1, 13)]
    assert not any(frame.extrapolated for frame in step.frames)
    (tube,) = step.tubes
    assert (tube.id, tube.label, tube.ended) == (1, WALK, False)
    assert tube.score == pytest.approx(0.8)
    assert (tube.start_stamp, tube.end_stamp) == (4 * NS, 12 * NS)
    assert tube.numbers.tolist() == list(range(4, 13))
    assert tube.stamps.tolist() == [n * NS for n in range(4, 13)]
    assert tube.boxes[:, 2].tolist() == list(range(10, 19))

    # At 12 the tubelets say 8 and 10: the mean is 9, and the frames go from there to 13.
    step = linker.update(answer([8, 12, 16], (WALK, 0.4, [6, 10, 13])))
    assert xs(step) == {13: {1: 10}, 14: {1: 11}, 15: {1: 12}, 16: {1: 13}}
    (tube,) = step.tubes
    assert tube.score == pytest.approx(0.6)
    assert step.frames[0].scores[0] == pytest.approx(0.6)
    assert (tube.start_stamp, tube.end_stamp) == (4 * NS, 16 * NS)
    assert tube.numbers.tolist() == [13, 14, 15, 16]

    step = linker.finish()
    assert not step.frames
    (tube,) = step.tubes
    assert tube.ended
    assert (tube.start_stamp, tube.end_stamp, len(tube)) == (4 * NS, 16 * NS, 0)
    assert tube.boxes.shape == (0, 4)


def test_the_whole_tube_is_averaged_over_all_its_tubelets():
    stream = [
        answer([4, 8, 12], (WALK, 0.8, [0, 4, 8]), after=0),
        answer([8, 12, 16], (WALK, 0.4, [6, 10, 13])),
        answer([12, 16, 20], (WALK, 0.3, [12, 15, 16])),
    ]
    (tube,) = link(stream)
    # key 8: (4 + 6) / 2; 12: (8 + 10 + 12) / 3; 16: (13 + 15) / 2
    keys = {4: 0, 8: 5, 12: 10, 16: 14, 20: 16}
    assert tube.boxes[:, 0].tolist() == np.interp(range(4, 21), list(keys), list(keys.values())).tolist()
    assert tube.boxes.dtype == np.float32
    assert tube.numbers.tolist() == list(range(4, 21))
    assert tube.stamps.tolist() == [n * NS for n in range(4, 21)]
    assert tube.score == pytest.approx(0.5)
    assert (tube.id, tube.ended, tube.start_stamp, tube.end_stamp) == (1, True, 4 * NS, 20 * NS)


def test_with_history_only_ended_tubes_are_reported():
    linker = TubeLinker(keep_history=True)
    assert not linker.update(answer([4, 8], (WALK, 0.8, [0, 4]))).tubes
    step = linker.update(answer([8, 12], (WALK, 0.8, [4, 8])))
    assert not step.tubes
    assert xs(step)[12] == {1: 8}
    assert len(linker.finish().tubes) == 1


def test_two_people_cross_and_keep_their_ids():
    linker = TubeLinker()
    # One walks right, one left, 4 in a step; at key frame 24 they stand in one place.
    right, left = range(-20, 24, 4), range(20, -24, -4)
    for end in range(4, 12):
        keys = [4 * step for step in range(end - 3, end + 1)]
        people = [(WALK, 0.6, right[end - 4 : end]), (WALK, 0.5, left[end - 4 : end])]
        if end % 2:  # neither the first place nor the better score stays with one of them
            people = [(WALK, 0.9, left[end - 4 : end]), (WALK, 0.4, right[end - 4 : end])]
        step = linker.update(answer(keys, *people))
        assert xs(step)[4 * end] == {1: right[end - 1], 2: left[end - 1]}
        assert [tube.id for tube in step.tubes] == [1, 2]


def test_people_who_do_two_things_have_two_tubes():
    linker = TubeLinker()
    both = (WAVE, 0.9, [0, 1]), (WALK, 0.8, [0, 1])
    for keys in ([4, 8], [8, 12]):
        step = linker.update(answer(keys, *both))
        assert [(tube.id, tube.label) for tube in step.tubes] == [(1, WAVE), (2, WALK)]
        assert step.frames[-1].labels.tolist() == [WAVE, WALK]


def test_another_class_does_not_continue_a_tube():
    linker = TubeLinker()
    linker.update(answer([4, 8], (WALK, 0.9, [0, 0])))
    step = linker.update(answer([8, 12], (WAVE, 0.9, [0, 0])))
    assert xs(step)[12] == {2: 0}


def test_near_copies_of_a_tubelet_are_dropped():
    step = TubeLinker().update(answer([4, 8], (WALK, 0.5, [0, 0]), (WALK, 0.9, [1, 1]), (WALK, 0.4, [5, 5])))
    assert xs(step)[8] == {1: 1, 2: 5}


def test_no_more_than_top_a_class():
    people = [(label, 0.5 + i / 100, [50 * i, 50 * i]) for i in range(5) for label in (WALK, WAVE)]
    step = TubeLinker(top=2).update(answer([4, 8], *people))
    assert [(tube.label, round(tube.score, 2)) for tube in step.tubes] == [
        (WALK, 0.53), (WAVE, 0.53), (WALK, 0.54), (WAVE, 0.54),
    ]  # fmt: skip


def test_the_better_score_wins_over_the_better_place():
    linker = TubeLinker()
    linker.update(answer([4, 8], (WALK, 0.9, [0, 0])))
    step = linker.update(answer([8, 12], (WALK, 0.6, [0, 0]), (WALK, 0.7, [3, 3])))
    assert xs(step)[12] == {1: 3, 2: 0}


def test_the_better_tube_chooses_first_and_takes_only_one():
    linker = TubeLinker()
    # 2.9 apart they are not one (IoU 0.55 <= 0.6), and each fits what comes between them.
    linker.update(answer([4, 8], (WALK, 0.3, [0, 0]), (WALK, 0.8, [2.9, 2.9])))
    step = linker.update(answer([8, 12], (WALK, 0.9, [1, 1])))
    assert xs(step)[12] == {2: 1}
    step = linker.update(answer([12, 16], (WALK, 0.9, [1, 1]), (WALK, 0.2, [4, 4])))
    assert xs(step)[16] == {2: 1, 3: 4}


def test_the_iou_that_links():
    for distance, same in ((10 / 3, True), (3.4, False)):  # IoU 0.5 and 0.49
        linker = TubeLinker(link_iou=0.4999)
        linker.update(answer([4, 8], (WALK, 0.9, [0, 0])))
        step = linker.update(answer([8, 12], (WALK, 0.9, [distance, 50])))
        assert list(xs(step)[12]) == [1 if same else 2]


def test_only_shared_key_frames_are_compared():
    linker = TubeLinker()
    linker.update(answer([4, 8, 12], (WALK, 0.9, [500, 0, 0])))
    # 8 and 12 are shared: IoU 1 and 0, mean 0.5. By position in the list it would be 0, 0, ...
    step = linker.update(answer([8, 12, 16], (WALK, 0.9, [0, 40, 90])))
    assert list(xs(step)[16]) == [1]


def test_a_tube_that_finds_nothing_waits_and_then_ends():
    linker = TubeLinker()
    assert summary(linker.update(answer([4, 8, 12], (WALK, 0.9, [0, 0, 0]))).tubes) == [(1, False, 4, 12)]
    step = linker.update(answer([8, 12, 16]))
    assert (xs(step), step.tubes) == ({13: {}, 14: {}, 15: {}, 16: {}}, [])
    assert not linker.update(answer([12, 16, 20])).tubes  # 12 is still shared
    step = linker.update(answer([16, 20, 24], (WALK, 0.9, [0, 0, 0])))
    assert summary(step.tubes) == [(1, True, 4, 12), (2, False, 16, 24)]
    assert xs(step)[24] == {2: 0}


def test_a_waiting_tube_is_taken_up_again():
    stream = [
        answer([4, 8, 12], (WALK, 0.9, [0, 4, 8]), after=0),
        answer([8, 12, 16]),
        answer([12, 16, 20], (WALK, 0.7, [10, 12, 16])),
    ]
    linker = TubeLinker()
    steps = [linker.update(tubelets) for tubelets in stream]
    assert xs(steps[1]) == {13: {}, 14: {}, 15: {}, 16: {}}
    assert xs(steps[2]) == {17: {1: 13}, 18: {1: 14}, 19: {1: 15}, 20: {1: 16}}
    (tube,) = link(stream)
    assert tube.score == pytest.approx(0.8)
    # The frames that a live stream had to leave out are filled in the end: 12 is (8 + 10) / 2.
    assert tube.numbers.tolist() == list(range(4, 21))
    np.testing.assert_allclose(tube.boxes[8:13, 0], [9, 9.75, 10.5, 11.25, 12])


def test_the_scores_of_a_streams_beginning_count_until_a_whole_window_is_there():
    linker, scores = TubeLinker(), []
    for keys, score in (([1, 1, 1], 0.2), ([1, 1, 4], 0.3), ([1, 4, 8], 0.6), ([4, 8, 12], 0.8)):
        (tube,) = linker.update(answer(keys, (WALK, score, [0, 0, 0]), after=keys[-1] - 1)).tubes
        scores.append(tube.score)
    # A third of the first window has been seen, and two thirds of the second: 0.2 / (1/3), 0.5 / (1/3 + 2/3).
    assert scores == pytest.approx([0.6, 0.5, 0.6, 0.7])


def test_copies_of_the_first_frame_at_the_start_of_a_stream():
    stream = [
        answer([1, 1, 1], (WALK, 0.9, [0, 1, 2]), after=0),
        answer([1, 1, 4], (WALK, 0.9, [3, 3, 6]), after=1),
        answer([1, 4, 8], (WALK, 0.9, [5, 7, 10])),
    ]
    linker = TubeLinker()
    steps = [linker.update(tubelets) for tubelets in stream]
    assert xs(steps[0]) == {1: {1: 1}}  # (0 + 1 + 2) / 3
    # At 1: (1 + 3) / 2, each tubelet counting once.
    np.testing.assert_allclose([x[1] for x in xs(steps[1]).values()], [2 + 4 / 3, 2 + 8 / 3, 6])
    assert xs(steps[2])[8] == {1: 10}
    (tube,) = link(stream)
    assert tube.boxes[[0, 3, 7], 0].tolist() == [3, 6.5, 10]  # (1 + 3 + 5) / 3, (6 + 7) / 2
    assert len(tube) == 8


def test_a_flush_and_skipped_frames_make_uneven_steps():
    stream = [
        answer([4, 8, 12], (WALK, 0.9, [0, 4, 8]), after=0),
        answer([8, 12, 24], (WALK, 0.9, [4, 8, 20]), after=12),  # 13 to 20 were not looked at
        answer([12, 24, 26], (WALK, 0.9, [8, 20, 16]), after=24),
    ]
    linker = TubeLinker()
    steps = [linker.update(tubelets) for tubelets in stream]
    assert xs(steps[1]) == {n: {1: n - 4} for n in range(13, 25)}
    assert xs(steps[2]) == {25: {1: 18}, 26: {1: 16}}
    (tube,) = link(stream)
    assert tube.numbers.tolist() == list(range(4, 27))
    assert tube.boxes[-3:, 0].tolist() == [20, 18, 16]


def test_a_new_stream_ends_the_tubes_of_the_old_one():
    linker = TubeLinker()
    linker.update(answer([4, 8], (WALK, 0.9, [0, 0])))
    step = linker.update(answer([9, 9], (WALK, 0.9, [0, 0]), after=8, stream=1))
    assert summary(step.tubes) == [(1, True, 4, 8), (2, False, 9, 9)]
    assert xs(step) == {9: {2: 0}}


def test_ids_are_not_used_twice_even_after_the_end():
    linker = TubeLinker()
    for expected in (1, 2, 3):
        step = linker.update(answer([4, 8], (WALK, 0.9, [0, 0])))
        assert xs(step) == {n: {expected: 0} for n in (5, 6, 7, 8)}
        assert summary(linker.finish().tubes) == [(expected, True, 4, 8)]
    assert linker.finish().tubes == []


def test_one_clip_alone_has_nothing_to_link_by():
    stream = [answer([4], (WALK, 0.9, [0])), answer([8], (WALK, 0.9, [0]))]
    linker = TubeLinker()
    assert xs(linker.update(stream[0])) == {1: {}, 2: {}, 3: {}, 4: {1: 0}}
    step = linker.update(stream[1])
    assert xs(step) == {5: {}, 6: {}, 7: {}, 8: {2: 0}}
    assert summary(step.tubes) == [(1, True, 4, 4), (2, False, 8, 8)]
    assert [tube.numbers.tolist() for tube in link(stream)] == [[4], [8]]


def test_a_stream_without_people():
    for linker in (TubeLinker(), TubeLinker(keep_history=True)):
        step = linker.update(answer([1, 1], after=0))
        assert xs(step) == {1: {}}
        assert step.frames[0].boxes.shape == (0, 4)
        assert xs(linker.update(answer([1, 4], after=1))) == {2: {}, 3: {}, 4: {}}
        assert linker.finish().tubes == []
    assert link([]) == []


def test_boxes_without_a_size_or_a_number_crash_nothing():
    broken = answer([4, 8], (WALK, 0.9, [np.nan, np.nan]), (WALK, 0.8, [np.inf, 0]), (WALK, 0.7, [0, 0]))
    broken.boxes[2] = 5
    linker = TubeLinker()
    with np.errstate(invalid="ignore"):
        for _ in range(2):
            assert len(linker.update(broken).frames) == 4


# Causal mode


def test_extrapolation_goes_on_along_the_last_trajectory():
    linker = TubeLinker(causal=True)
    assert len(linker.extrapolate(1, NS)) == 0
    step = linker.update(answer([4, 8, 12], (WALK, 0.8, [0, 0, 6]), after=0))
    assert [frame.number for frame in step.frames] == list(range(2, 13))  # 1 is out already
    linker.update(answer([8, 12, 16], (WALK, 0.4, [2, 8, 14])))
    # The tube is at (6 + 8) / 2 at 12, but the line is the last tubelet's: from 8 at 12 to 14 at 16.
    frame = linker.extrapolate(18, 18 * NS)
    assert frame.extrapolated
    assert (frame.number, frame.stamp) == (18, 18 * NS)
    assert (frame.tubes.tolist(), frame.labels.tolist()) == ([1], [WALK])
    assert frame.boxes.tolist() == [at(17)]
    assert frame.scores[0] == pytest.approx(0.6)


def test_each_frame_is_published_once_and_tubes_get_the_settled_boxes():
    linker = TubeLinker(causal=True)
    linker.update(answer([4, 8], (WALK, 0.8, [0, 4]), after=0))
    assert [linker.extrapolate(n, n * NS).boxes[0, 0] for n in (9, 10, 11)] == [5, 6, 7]
    step = linker.update(answer([8, 12], (WALK, 0.8, [4, 0])))
    assert xs(step) == {12: {1: 0}}
    assert step.tubes[0].numbers.tolist() == [9, 10, 11, 12]
    assert step.tubes[0].boxes[:, 0].tolist() == [3, 2, 1, 0]


def test_frames_may_be_carried_on_before_a_slow_answer_comes():
    linker = TubeLinker(causal=True)
    linker.update(answer([4, 8], (WALK, 0.8, [0, 4]), after=0))
    for number in range(9, 15):
        linker.extrapolate(number, number * NS)
    assert xs(linker.update(answer([8, 12], (WALK, 0.8, [4, 8])))) == {}
    assert xs(linker.update(answer([12, 16], (WALK, 0.8, [8, 12])))) == {15: {1: 11}, 16: {1: 12}}


def test_an_announcement_is_extrapolated_in_causal_mode_only():
    linker = TubeLinker(causal=True)
    linker.update(answer([4, 8], (WALK, 0.8, [0, 4])))
    step = linker.update(announcement(9, 10))
    assert xs(step) == {9: {1: 5}, 10: {1: 6}}
    assert all(frame.extrapolated for frame in step.frames)
    assert xs(linker.update(answer([8, 12], (WALK, 0.8, [4, 8])))) == {11: {1: 7}, 12: {1: 8}}

    waiting = TubeLinker()
    waiting.update(answer([4, 8], (WALK, 0.8, [0, 4])))
    assert waiting.update(announcement(9, 10)).frames == []
    assert list(xs(waiting.update(answer([8, 12], (WALK, 0.8, [4, 8]))))) == [9, 10, 11, 12]


def test_nothing_is_carried_on_into_another_stream():
    linker = TubeLinker(causal=True)
    linker.update(answer([4, 8], (WALK, 0.8, [0, 4])))
    assert xs(linker.update(announcement(9))) == {9: {1: 5}}
    step = linker.update(announcement(10, stream=1))
    assert xs(step) == {10: {}}
    assert summary(step.tubes) == [(1, True, 4, 8)]
    assert list(xs(linker.update(answer([10, 13], after=9, stream=1)))) == [11, 12, 13]


def test_another_recording_owes_nothing_to_the_one_before():
    linker = TubeLinker(causal=True)
    linker.update(answer([4, 8], (WALK, 0.8, [0, 4])))
    linker.extrapolate(9, 9 * NS)
    linker.finish()
    assert list(xs(linker.update(answer([4, 10], after=0)))) == list(range(1, 11))


def test_only_tubes_that_the_newest_key_frame_confirmed_are_carried_on():
    linker = TubeLinker(causal=True)
    linker.update(answer([4, 8, 12], (WALK, 0.8, [0, 0, 0]), (WALK, 0.7, [50, 50, 50])))
    linker.update(answer([8, 12, 16], (WALK, 0.8, [0, 0, 0])))
    assert linker.extrapolate(17, 17 * NS).tubes.tolist() == [1]


def test_carried_boxes_stay_on_the_image_and_vanish_with_the_person():
    linker = TubeLinker(causal=True)
    linker.update(answer([4, 8], (WALK, 0.8, [60, 80]), size=(100, 100)))
    assert linker.extrapolate(9, 9 * NS).boxes.tolist() == [[85, 0, 95, 10]]
    assert linker.extrapolate(11, 11 * NS).boxes.tolist() == [[95, 0, 99, 10]]
    assert len(linker.extrapolate(12, 12 * NS)) == 0


def test_one_clip_alone_is_carried_on_where_it_stands():
    linker = TubeLinker(causal=True)
    linker.update(answer([4], (WALK, 0.8, [60])))
    assert linker.extrapolate(9, 9 * NS).boxes.tolist() == [at(60)]


# What is worth reporting


def test_a_live_tube_appears_once_it_is_long_enough_and_stays():
    linker = TubeLinker(min_frames=12, causal=True)
    linker.update(answer([4, 8], after=0))
    assert xs(linker.update(answer([8, 12], (WALK, 0.9, [0, 0]))))[12] == {}  # 5 frames long
    assert len(linker.extrapolate(13, 13 * NS)) == 0
    step = linker.update(answer([12, 16], (WALK, 0.9, [0, 0])))  # 9
    assert (xs(step)[16], step.tubes) == ({}, [])
    step = linker.update(answer([16, 20], (WALK, 0.9, [0, 0])))  # 13
    assert xs(step)[20] == {1: 0}
    assert summary(step.tubes) == [(1, False, 8, 20)]
    assert summary(linker.finish().tubes) == [(1, True, 8, 20)]


def test_a_tube_that_begins_with_the_stream_appears_no_sooner():
    linker = TubeLinker(min_frames=12)
    for end in (4, 8, 12):
        step = linker.update(answer([1, max(end - 4, 1), end], (WALK, 0.9, [0, 0, 0])))
        assert xs(step)[end] == ({1: 0} if end == 12 else {})
        assert summary(step.tubes) == ([(1, False, 1, 12)] if end == 12 else [])


def test_a_tube_that_never_was_long_enough_leaves_in_silence():
    for linker in (TubeLinker(min_frames=8), TubeLinker(min_frames=8, keep_history=True)):
        linker.update(answer([4, 8], (WALK, 0.9, [0, 0]), after=0))
        assert linker.finish().tubes == []


def test_a_short_stream_asks_for_no_more_than_its_length():
    short = [answer([1, 1], (WALK, 0.9, [0, 0]), after=0), answer([1, 4], (WALK, 0.9, [0, 0]), after=1)]
    assert [len(tube) for tube in link(short, min_frames=20)] == [4]
    linker = TubeLinker(min_frames=20, keep_history=True)
    for _ in range(2):  # the length of each stream counts by itself
        for tubelets in short:
            linker.update(tubelets)
        assert len(linker.finish().tubes) == 1


def test_weak_tubes_live_and_in_the_end():
    stream = [
        answer([4, 8], (WALK, 0.1, [0, 0]), (WALK, 0.5, [50, 50]), after=0),
        answer([8, 12], (WALK, 0.3, [0, 0]), (WALK, 0.1, [50, 50])),
        answer([12, 16], (WALK, 0.3, [0, 0]), (WALK, 0.1, [50, 50])),
    ]
    linker = TubeLinker(min_score=0.199)
    steps = [linker.update(tubelets) for tubelets in stream]
    assert [list(xs(step)[key]) for step, key in zip(steps, (8, 12, 16), strict=True)] == [
        [2],
        [1, 2],
        [1, 2],
    ]
    # The first has 0.7 / 3, the second 0.7 / 3; an end at 0.25 keeps none, a live one the second.
    assert [tube.id for tube in link(stream, min_score=0.23)] == [1, 2]
    assert link(stream, min_score=0.25) == []
    assert [tube.id for tube in linker.finish().tubes] == [1, 2]


def test_each_class_may_have_a_score_of_its_own():
    stream = [answer([4, 8], (WALK, 0.5, [0, 0]), (WAVE, 0.5, [0, 0]), after=0)]
    for scores, labels in (([0.4, 0.6], [0]), ([0.6, 0.4], [1]), ([0.5, 0.5], [0, 1])):
        assert [tube.label for tube in link(stream, min_score=np.array(scores))] == labels
    with pytest.raises(AmmaError, match="min_score is 1"):
        TubeLinker(min_score=np.array([0.5, 1.5]))
    with pytest.raises(AmmaError, match="min_score has 1 numbers, but there are tubelets of class 1"):
        link(stream, min_score=[0.5])


def test_a_live_stream_takes_no_more_and_more_memory():
    linker = TubeLinker(causal=True)
    sizes = []
    for step in range(2, 402):
        keys = [4 * step - 4, 4 * step]
        linker.update(announcement(4 * step - 3, 4 * step - 2))
        linker.update(answer(keys, (WALK, 0.9, [0, 0]), (WALK, 0.5, [50 + 40 * step, 50 + 40 * step])))
        sizes.append(len(pickle.dumps(linker)))
    assert max(sizes[200:]) <= max(sizes[:200]) + 32


def test_streams_that_are_cut_before_their_first_key_frame_leave_nothing():
    linker = TubeLinker(causal=True)
    sizes = []
    for number in range(1, 400):
        assert xs(linker.update(announcement(number, stream=number))) == {number: {}}
        sizes.append(len(pickle.dumps(linker)))
    assert max(sizes) <= sizes[0] + 32


def test_history_is_forgotten_with_the_tubes():
    linker = TubeLinker(keep_history=True)
    sizes = []
    for step in range(2, 202):
        people = [(WALK, 0.9, [40 * step] * 2)] if step % 4 else []
        linker.update(answer([4 * step - 4, 4 * step], *people))
        sizes.append(len(pickle.dumps(linker)))
    assert max(sizes[100:]) <= max(sizes[:100]) + 32


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nms_iou", -0.1),
        ("nms_iou", float("nan")),
        ("link_iou", 1.5),
        ("link_iou", "half"),
        ("min_score", 2),
        ("top", 0),
        ("top", 2.5),
        ("min_frames", 0),
        ("min_frames", None),
    ],
)
def test_bad_settings_are_refused_by_name_and_value(name, value):
    with pytest.raises(AmmaError, match=f"{name} is {value!r}"):
        TubeLinker(**{name: value})


# Against the rules, one box at a time


def random_stream(seed):
    """People who walk about, are missed, and are seen twice; three classes, gaps, cuts and ties of score."""
    rng = np.random.default_rng(seed)
    clips, step = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    people = int(rng.integers(1, 7))
    start, speed = rng.uniform(0, 80, (people, 2)), rng.normal(0, 1, (people, 2))
    side, label = rng.uniform(15, 40, (people, 2)), rng.integers(0, 3, people)
    number, answers, stream = 0, [], 0
    while len(answers) < 25:
        first = number + 1
        keys = [first] * clips if rng.random() < 0.5 else [first + step * k for k in range(clips)]
        previous = number
        for _ in range(int(rng.integers(4, 15))):
            number = max(keys)
            rows = [p for p in range(people) for _ in range(rng.choice([0, 1, 1, 2]))]
            centres = start[rows, None] + speed[rows, None] * np.array(keys)[:, None]
            centres = centres + rng.normal(0, 2.5, centres.shape)
            boxes = np.concatenate([centres - side[rows, None] / 2, centres + side[rows, None] / 2], axis=-1)
            labels = np.where(rng.random(len(rows)) < 0.85, label[rows], rng.integers(0, 3, len(rows)))
            frames = np.arange(previous + 1, number + 1)
            scores = (rng.integers(1, 20, len(rows)) / 20).astype(np.float32)
            answers.append(
                Tubelets(
                    image_size=(100, 100),
                    key_numbers=np.array(keys),
                    key_stamps=np.array(keys) * NS,
                    frame_numbers=frames,
                    frame_stamps=frames * NS,
                    labels=labels,
                    scores=scores,
                    boxes=boxes.astype(np.float32),
                    stream=stream,
                )
            )
            previous = number
            skip = step + int(rng.choice([0, 0, 0, 3 * step])) - (rng.random() < 0.1) * (step - 1)
            keys = [*keys[1:], number + skip]
        stream += 1
    return answers


@pytest.mark.parametrize("seed", range(30))
def test_equal_to_the_rules_one_box_at_a_time(seed):
    rng = np.random.default_rng(seed)
    parameters = {
        "nms_iou": rng.choice([0.4, 0.6]),
        "top": int(rng.choice([2, 10])),
        "link_iou": rng.choice([0.2, 0.5]),
        "min_score": rng.choice([0.005, 0.5]),
        "min_frames": int(rng.choice([1, 7, 30])),
    }
    slow = SlowLinker(**parameters)
    live, whole = TubeLinker(**parameters), TubeLinker(**parameters, keep_history=True)
    stamped, alive = {}, {}

    def compare_frames(frames, expected):
        assert [frame.number for frame in frames] == list(expected)
        for frame, detections in zip(frames, expected.values(), strict=True):
            assert frame.stamp == frame.number * NS
            assert sorted(frame.tubes.tolist()) == sorted(detections)
            for row, id_ in enumerate(frame.tubes.tolist()):
                label, score, box = detections[id_]
                assert frame.labels[row] == label
                assert frame.scores[row] == pytest.approx(score)
                np.testing.assert_allclose(frame.boxes[row], box, rtol=1e-5, atol=1e-4)

    def compare_ended(live_tubes, whole_tubes, ended):
        assert [tube.id for tube in live_tubes if tube.ended] == sorted(t.id for t in ended if t.reported)
        assert [tube.id for tube in whole_tubes] == sorted(tube.id for tube in slow.ended_well)
        expected = {tube.id: tube for tube in ended}
        for tube in whole_tubes:
            rules = expected[tube.id]
            assert (tube.label, tube.ended) == (rules.label, True)
            assert (tube.start_stamp, tube.end_stamp) == (rules.first * NS, rules.newest * NS)
            assert tube.score == pytest.approx(rules.score)
            assert tube.numbers.tolist() == [n for n in stamped if rules.first <= n <= rules.newest]
            assert tube.stamps.tolist() == [stamped[n] for n in tube.numbers.tolist()]
            np.testing.assert_allclose(
                tube.boxes, [rules.box(n) for n in tube.numbers.tolist()], rtol=1e-5, atol=1e-4
            )

    for tubelets in random_stream(seed):
        stamped |= dict(zip(tubelets.frame_numbers.tolist(), tubelets.frame_stamps.tolist(), strict=True))
        expected, ended = slow.update(tubelets)
        live_step, whole_step = live.update(tubelets), whole.update(tubelets)
        compare_frames(live_step.frames, expected)
        compare_frames(whole_step.frames, expected)
        compare_ended(live_step.tubes, whole_step.tubes, ended)
        for tube in live_step.tubes:
            if not tube.ended:
                assert tube.start_stamp == alive.setdefault(tube.id, tube.start_stamp)
                shown = {frame.number: frame for frame in live_step.frames}
                for number, box in zip(tube.numbers.tolist(), tube.boxes, strict=True):
                    frame = shown[number]
                    np.testing.assert_array_equal(box, frame.boxes[frame.tubes == tube.id][0])
    ended = slow.finish()
    compare_ended(live.finish().tubes, whole.finish().tubes, ended)


@pytest.mark.parametrize("seed", range(10))
def test_causal_mode_publishes_every_frame_once_and_changes_no_tube(seed):
    rng = np.random.default_rng(seed)
    answers = random_stream(seed)
    waiting, causal = TubeLinker(), TubeLinker(causal=True)
    published, carried, due = [], set(), []
    for now, following in zip(answers, [*answers[1:], None], strict=True):
        # Some frames are announced, a slow answer being overtaken by frames that it does not settle yet.
        due += [n for n in now.frame_numbers.tolist() if n not in due]
        if following is not None and following.stream == now.stream:
            due += following.frame_numbers[: rng.integers(0, 3)].tolist()
        for number in due:
            if number not in carried and number > max(published, default=0) and rng.random() < 0.7:
                (frame,) = causal.update(announcement(number, stream=now.stream)).frames
                assert frame.extrapolated
                published.append(frame.number)
                carried.add(number)
        expected, step = waiting.update(now), causal.update(now)
        published += [frame.number for frame in step.frames]
        settled = [frame for frame in expected.frames if frame.number not in carried]
        for frame, same in zip(step.frames, settled, strict=True):
            assert frame.number == same.number
            np.testing.assert_array_equal(frame.tubes, same.tubes)
            np.testing.assert_array_equal(frame.boxes, same.boxes)
        grown = [tube for tube in expected.tubes if not tube.ended]
        for tube, same in zip([tube for tube in step.tubes if not tube.ended], grown, strict=True):
            assert tube.id == same.id
            np.testing.assert_array_equal(tube.boxes, same.boxes)
    assert sorted(published) == sorted(n for a in answers for n in a.frame_numbers.tolist())
    assert summary(causal.finish().tubes) == summary(waiting.finish().tubes)
