"""Rules on timelines walked by hand, against a plain definition, and what is said of files with mistakes."""

import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amma_core.behavior import BehaviorEngine, Rule, Sightings, read_rules
from amma_core.errors import AmmaError

TENTH = 100_000_000
IMAGE = (200, 100)


def seen(tenths: int, *people, image_size=IMAGE) -> Sightings:
    """What is seen after so many tenths of a second; a person is (label, score), or with a box too."""
    people = [person if len(person) == 3 else (*person, (10, 10, 30, 50)) for person in people]
    return Sightings(
        stamp=tenths * TENTH,
        image_size=image_size,
        tubes=[str(number) for number in range(1, len(people) + 1)],
        labels=[label for label, _, _ in people],
        scores=np.array([score for _, score, _ in people], np.float32),
        boxes=np.array([corners for _, _, corners in people], np.float32).reshape(-1, 4),
    )


def changes(rule: Rule, timeline: dict[int, list]) -> list[tuple[int, bool]]:
    """When (in tenths) the rule's events begin (True) and end (False)."""
    engine = BehaviorEngine([rule])
    events = [event for time, people in timeline.items() for event in engine.update(seen(time, *people))]
    return [(event.stamp // TENTH, event.begins) for event in events]


def pattern(text: str, score: float = 0.9) -> dict[int, list]:
    """One column per tenth of a second: ``x`` somebody pushes, ``.`` nobody does, a blank nothing comes."""
    return {time: [("push", score)] * (mark == "x") for time, mark in enumerate(text) if not mark.isspace()}


PUSH = Rule("r", ("push",), min_score=0.5, hold=0.3, gap=0.2, cooldown=0.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("xxx.....", []),  # held for 0.2 s only
        ("xxxx", [(3, True)]),
        ("xxxxxxxx", [(3, True)]),  # and not again
        ("xxxx...", [(3, True), (6, False)]),  # gone at 4, 5 and 6: for more than 0.2 s
        ("xxxx..xx..x..", [(3, True)]),  # gone for 0.2 s, which is forgiven
        ("x..x", [(3, True)]),  # and the holding goes on meanwhile
        ("x...xx", []),  # for longer, it begins anew
        ("x...xxxx", [(7, True)]),
        ("xxx.x", [(4, True)]),  # begins with a sighting, never without one
        ("xxx..", []),
        ("xxxx .  x", [(3, True), (8, False)]),  # gone at 5, and back only at 8
        ("xxxx . x", [(3, True)]),
        ("x  x  x  x", [(3, True)]),  # sightings may be further apart than the gap
        ("x         x", [(10, True)]),  # but not further than a second
        ("x          x  x", [(14, True)]),
        ("xxxx          x", [(3, True), (14, False)]),
        ("xxxx          xxxx", [(3, True), (14, False), (17, True)]),
        ("xxxx          ", [(3, True)]),  # nothing came, so nothing changed
    ],
)
def test_hold_and_gap(text, expected):
    assert changes(PUSH, pattern(text)) == expected


def test_a_rule_without_patience_follows_what_is_seen():
    rule = Rule("r", ("push",), hold=0.0, gap=0.0, cooldown=0.0)
    assert changes(rule, pattern("x.xx.x")) == [
        (0, True), (1, False), (2, True), (4, False), (5, True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x.x.xxxxxxxx", [(0, True), (1, False), (6, True)]),  # ended at 1, ready at 6
        ("x.....x", [(0, True), (1, False), (6, True)]),
        ("x....x.", [(0, True), (1, False)]),
    ],
)
def test_the_cooldown_counts_from_the_end(text, expected):
    rule = Rule("r", ("push",), hold=0.0, gap=0.0, cooldown=0.5)
    assert changes(rule, pattern(text)) == expected


@pytest.mark.parametrize(
    ("gap", "max_gap", "hole", "goes_on"),
    [
        (0.0, 1.0, 10, True),
        (0.0, 1.0, 11, False),
        (2.0, 1.0, 20, True),
        (2.0, 1.0, 21, False),
        (0.0, 3.0, 30, True),
    ],
)
def test_a_hole_is_forgiven_up_to_the_longer_of_both_gaps(gap, max_gap, hole, goes_on):
    engine = BehaviorEngine([Rule("r", ("push",), hold=0.0, gap=gap, cooldown=100.0)], max_gap)
    assert len(engine.update(seen(0, ("push", 0.9)))) == 1
    ends = [event for event in engine.update(seen(hole, ("push", 0.9))) if not event.begins]
    assert bool(ends) != goes_on


def test_what_is_held_during_the_cooldown_counts():
    rule = Rule("r", ("push",), hold=0.3, gap=0.0, cooldown=0.5)
    assert changes(rule, pattern("xxxx.xxxxxxxx")) == [(3, True), (4, False), (9, True)]


def test_a_lower_score_keeps_an_event_than_begins_it():
    rule = Rule("r", ("push",), min_score=0.5, keep_score=0.3, hold=0.0, gap=0.0, cooldown=0.0)
    scores = [0.4, 0.5, 0.4, 0.3, 0.2, 0.4, 0.49, 0.6]
    timeline = {time: [("push", score)] for time, score in enumerate(scores)}
    assert changes(rule, timeline) == [(1, True), (4, False), (7, True)]


def test_the_score_that_keeps_is_a_little_lower_by_itself():
    assert Rule("r", ("push",), min_score=0.5).keep_score == pytest.approx(0.4)
    assert Rule("r", ("push",), min_score=0.5, keep_score=0.5).keep_score == 0.5


def test_a_score_that_meets_the_minimum_in_single_precision_is_enough():
    rule = Rule("r", ("push",), min_score=0.7, hold=0.0)
    assert changes(rule, {0: [("push", 0.7)]}) == [(0, True)]


def test_any_of_the_labels_will_do_and_no_other():
    rule = Rule("r", ("push", "fall"), hold=0.3, gap=0.0)
    timeline = {0: [("push", 0.9)], 1: [("fall", 0.9)], 2: [("push", 0.9)], 3: [("walk", 0.9), ("fall", 0.9)]}
    assert changes(rule, timeline) == [(3, True)]
    assert changes(rule, {time: [("walk", 0.9)] for time in range(9)}) == []


LEFT, RIGHT, FAR = (10, 10, 30, 50), (110, 10, 130, 50), (160, 10, 180, 50)


@pytest.mark.parametrize(
    ("people", "count"),
    [
        ([("push", 0.9, LEFT)], 1),
        ([("push", 0.9, LEFT), ("push", 0.8, RIGHT)], 2),
        ([("push", 0.9, LEFT), ("fall", 0.8, LEFT)], 1),  # one person in two tubes
        # the boxes share 20 of 30 rows: IoU 0.5 is two, one pixel more is one
        ([("push", 0.9, (0, 0, 10, 20)), ("fall", 0.8, (0, 0, 10, 40))], 2),
        ([("push", 0.9, (0, 0, 10, 21)), ("fall", 0.8, (0, 0, 10, 40))], 1),
        ([("push", 0.9, LEFT), ("push", 0.2, RIGHT)], 1),  # too low a score
        ([("push", 0.9, LEFT), ("fall", 0.9, RIGHT), ("push", 0.6, FAR), ("walk", 1.0, FAR)], 3),
    ],
)
def test_people_are_counted_once(people, count):
    for needed in (1, 2, 3):
        rule = Rule("r", ("push", "fall"), people=needed, hold=0.0)
        events = BehaviorEngine([rule]).update(seen(0, *people))
        assert [event.people for event in events] == [count] * (count >= needed)


@pytest.mark.parametrize(
    ("corners", "inside"),
    [
        ((90, 0, 110, 100), True),  # its middle, (100, 50), is the region's corner, which belongs to it
        ((89, 0, 109, 100), False),
        ((90, 0, 110, 99), False),
        ((150, 60, 249, 139), True),  # (199.5, 99.5)
        ((160, 60, 240, 130), False),  # (200, 95): outside the image
    ],
)
def test_the_middle_of_the_box_is_inside_the_region(corners, inside):
    rule = Rule("r", ("push",), region=(0.5, 0.5, 1.0, 1.0), hold=0.0)
    assert bool(BehaviorEngine([rule]).update(seen(0, ("push", 0.9, corners)))) == inside


def test_without_an_image_size_only_the_whole_image_is_sure():
    person = ("push", 0.9, (90, 40, 110, 60))
    part, whole = Rule("part", ("push",), region=(0, 0, 1, 0.9), hold=0.0), Rule("whole", ("push",), hold=0.0)
    events = BehaviorEngine([part, whole]).update(seen(0, person, image_size=(0, 0)))
    assert [event.rule for event in events] == ["whole"]


def test_events_say_who_did_it_best_and_the_end_repeats_the_last_of_them():
    engine = BehaviorEngine([Rule("danger", ("push", "fall"), hold=0.0, gap=0.0)])
    (begin,) = engine.update(seen(1, ("push", 0.6, LEFT), ("fall", 0.75, RIGHT), ("walk", 0.9, FAR)))
    assert (begin.rule, begin.begins, begin.stamp) == ("danger", True, TENTH)
    assert (begin.tube, begin.label, begin.score, begin.box, begin.people) == ("2", "fall", 0.75, RIGHT, 2)
    assert engine.update(seen(2, ("push", 0.5, FAR))) == []
    (end,) = engine.update(seen(3))
    assert (end.rule, end.begins, end.stamp) == ("danger", False, 3 * TENTH)
    assert (end.tube, end.label, end.score, end.box, end.people) == ("1", "push", 0.5, FAR, 1)


def test_a_jump_back_ends_events_at_the_old_time_and_forgets_the_cooldown():
    rule = Rule("r", ("push",), hold=0.1, gap=10.0, cooldown=100.0)
    engine = BehaviorEngine([rule])
    update = lambda tenths: [  # noqa: E731
        (event.stamp // TENTH, event.begins) for event in engine.update(seen(tenths, ("push", 0.9)))
    ]
    assert [update(500), update(501), update(502)] == [[], [(501, True)], []]
    assert [update(0), update(1)] == [[(502, False)], [(1, True)]]
    assert update(1) == [], "an equal stamp is no jump"


def test_rules_do_not_hinder_each_other():
    rules = [Rule("a", ("push",), hold=0.0), Rule("b", ("push",), hold=0.2), Rule("c", ("fall",), hold=0.0)]
    engine = BehaviorEngine(rules)
    events = [[event.rule for event in engine.update(seen(time, ("push", 0.9)))] for time in range(3)]
    assert events == [["a"], [], ["b"]]


def by_definition(rule: Rule, timeline: list[tuple[int, bool]]) -> list[tuple[int, bool]]:
    """The events of a rule with one threshold, from its whole timeline at once (in tenths)."""
    hold, gap, cooldown = (round(10 * value) for value in (rule.hold, rule.gap, rule.cooldown))
    events, ready, first = [], 0, 0
    while True:
        first = next((i for i in range(first, len(timeline)) if timeline[i][1]), None)
        if first is None:
            return events
        over = next((i for i in range(first + 1, len(timeline)) if breaks(timeline, i, gap)), len(timeline))
        held = [t for t, there in timeline[first:over] if there and t - timeline[first][0] >= hold]
        begin = next((t for t in held if t >= ready), None)
        if begin is not None:
            events.append((begin, True))
            if over < len(timeline):
                events.append((timeline[over][0], False))
                ready = timeline[over][0] + cooldown
        first = over


def breaks(timeline: list[tuple[int, bool]], i: int, gap: int) -> bool:
    """Whether the i-th sighting comes after a hole, or shows an interruption longer than the gap."""
    time, there = timeline[i]
    if time - timeline[i - 1][0] > max(gap, 10):
        return True
    gone = i if there else i + 1
    while gone > 0 and not timeline[gone - 1][1]:
        gone -= 1
    missing = time - timeline[min(gone, i)][0]
    return missing > gap if there else missing >= gap


PATIENCE = st.integers(0, 8).map(lambda tenths: tenths / 10)


@given(
    hold=PATIENCE,
    gap=st.integers(0, 20).map(lambda tenths: tenths / 10),
    cooldown=PATIENCE,
    steps=st.lists(st.tuples(st.integers(0, 25), st.booleans()), max_size=60),
    start=st.integers(0, 10**9),
)
def test_any_timeline_gives_what_the_definition_says(hold, gap, cooldown, steps, start):
    rule = Rule("r", ("push",), keep_score=0.5, hold=hold, gap=gap, cooldown=cooldown)
    times = start + np.cumsum([step for step, _ in steps], dtype=int)
    timeline = {}
    for time, (_, there) in zip(times.tolist(), steps, strict=True):
        timeline[time] = there  # of equal times the last one counts, in both
    engine_view = {time: [("push", 0.9)] * there for time, there in timeline.items()}
    assert changes(rule, engine_view) == by_definition(rule, list(timeline.items()))


@given(
    scores=st.lists(st.sampled_from([0.0, 0.3, 0.45, 0.5, 0.9]), max_size=60),
    gap=PATIENCE,
    cooldown=PATIENCE,
)
def test_flicker_never_brings_two_begins_within_the_cooldown(scores, gap, cooldown):
    rule = Rule("r", ("push",), min_score=0.5, hold=0.2, gap=gap, cooldown=cooldown)
    events = changes(rule, {time: [("push", score)] for time, score in enumerate(scores)})
    assert [begins for _, begins in events] == [number % 2 == 0 for number in range(len(events))]
    ends, begins = events[1::2], events[2::2]
    for (end, _), (begin, _) in zip(ends, begins, strict=False):
        assert begin - end >= round(10 * cooldown)


# Files of rules --------------------------------------------------------------------------------------


def read(tmp_path, text: str) -> list[Rule]:
    path = tmp_path / "rules.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return read_rules(path)


def test_a_file_gives_its_rules_in_order(tmp_path):
    stop, come = read(
        tmp_path,
        """
        rules:
          stop:
            labels: [push, fall]
            min_score: 0.6
            keep_score: 0.5
            people: 2
            region: [0.1, 0, 0.9, 1]
            hold: 1
            gap: 0.25
            cooldown: 10
            do:
              - {service: stop, begin: {}}
          come:
            labels: wave
        """,
    )
    assert stop == Rule(
        "stop",
        labels=("push", "fall"),
        min_score=0.6,
        keep_score=0.5,
        people=2,
        region=(0.1, 0, 0.9, 1),
        hold=1,
        gap=0.25,
        cooldown=10,
        do=({"service": "stop", "begin": {}},),
    )
    assert come == Rule("come", ("wave",))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must hold one mapping, 'rules'"),
        ("rule: {}", "must hold one mapping, 'rules'"),
        ("rules: [1]", "must hold one mapping, 'rules'"),
        ("rules: {}", "holds no rule; write at least one"),
        ("rules: {a: {labels: [push}}", "line 1: .*; mend the YAML there"),
        ("rules:\n  a: {labels: push}\n  a: {labels: fall}", "line 2: 'a' is there twice"),
        ("rules: {a: }", "rule 'a' has no fields; it needs 'labels'"),
        ("rules: {a: {hold: 1}}", "rule 'a' has no labels; list the actions"),
        ("rules: {a: {label: push}}", "rule 'a' has an unknown field 'label'; did you mean 'labels'"),
        ("rules: {a: {labels: push, when: 1}}", "unknown field 'when'; there are labels, min_score"),
        ("rules: {a: {labels: push, ~: 1}}", "unknown field 'None'"),
        ("rules: {a: {labels: []}}", r"rule 'a': labels is \[\], but must be names of actions"),
        ("rules: {a: {labels: [yes]}}", r"rule 'a': labels is \[True\], .* put them in quotes"),
        ("rules: {a: {labels: 3}}", "rule 'a': labels is 3, but must be a list"),
        ("rules: {a: {labels: push, min_score: 2}}", "min_score is 2, but must be a number from 0 to 1"),
        ("rules: {a: {labels: push, min_score: .nan}}", "min_score is nan, but must be a number"),
        ("rules: {a: {labels: push, min_score: high}}", "min_score is 'high', but must be a number"),
        (
            "rules: {a: {labels: push, keep_score: 0.6}}",
            "keep_score is 0.6, .* to 0.5, the rule's min_score",
        ),
        ("rules: {a: {labels: push, hold: -1}}", "hold is -1, .* from 0 to 86400 seconds"),
        ("rules: {a: {labels: push, gap: true}}", "gap is True, but must be a number"),
        ("rules: {a: {labels: push, people: 0}}", "people is 0, but must be a whole number from 1 on"),
        ("rules: {a: {labels: push, people: 1.5}}", "people is 1.5, but must be a whole number"),
        ("rules: {a: {labels: push, region: [0, 0, 1]}}", "region is .*, but must be four numbers"),
        ("rules: {a: {labels: push, region: [0, 0, 320, 240]}}", "region .* as shares of the image's size"),
        ("rules: {a: {labels: push, region: [0.5, 0, 0.5, 1]}}", "with x1 < x2 and y1 < y2"),
        ("rules: {a: {labels: push, do: {service: stop}}}", "rule 'a': do is .* but must be a list"),
        ("rules: {a: {labels: push, do: [stop]}}", "rule 'a': do must be a list of reactions"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence_with_file_rule_and_cure(tmp_path, text, complaint):
    with pytest.raises(AmmaError, match=complaint) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "rules.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(AmmaError, match=r"missing\.yaml cannot be read: No such file"):
        read_rules(tmp_path / "missing.yaml")
    (tmp_path / "picture.yaml").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(AmmaError, match=r"picture\.yaml cannot be read: it is not text in UTF-8"):
        read_rules(tmp_path / "picture.yaml")
    (tmp_path / "control.yaml").write_bytes(b"rules: \x07")
    with pytest.raises(AmmaError, match=r"control\.yaml is not YAML: "):
        read_rules(tmp_path / "control.yaml")
