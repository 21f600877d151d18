"""Tests that the judge sees each kind of fault, and no other:   python3 -m unittest judge_test"""

import unittest

from judge import judge, judge_idle, judge_redis

PUBLISHED = [("1-1", "message", "a", "plain"), ("1-2", "note", "b", "typed"), ("1-3", "message", "", "empty")]


def heard(id, kind, data):
    return {"what": "event", "id": id, "type": kind, "data": data}


CHECKPOINT = heard("1-0", "checkpoint", '{"from":"now"}')
ALL = [CHECKPOINT, *(heard(id, kind, data) for id, kind, data, _ in PUBLISHED)]


class Judge(unittest.TestCase):
    def expect(self, outcome, lines, over=False):
        self.assertEqual(judge(PUBLISHED, lines, over), outcome)

    def test_all_heard_once_is_fine(self):
        self.expect("fine", ALL)
        self.expect("fine", ALL + [heard("1-4", "checkpoint", "")])

    def test_a_loss_is_seen(self):
        self.expect("loses typed", [line for line in ALL if line["id"] != "1-2"])

    def test_an_event_heard_twice_is_seen(self):
        self.expect("doubles plain", ALL + [ALL[1]])

    def test_changed_data_and_a_changed_type_are_seen(self):
        self.expect("garbles plain", [ALL[0], heard("1-1", "message", "A"), *ALL[2:]])
        self.expect("garbles typed", [*ALL[:2], heard("1-2", "message", "b"), ALL[3]])

    def test_an_event_that_was_never_published_is_seen(self):
        self.expect("garbles others", ALL + [heard(None, "message", "half")])

    def test_an_empty_message_is_told_from_an_event_without_data(self):
        self.expect("empty messages", [heard(None, "message", ""), *ALL])
        self.expect("empty messages", ALL + [heard("1-3", "message", "")])

    def test_who_does_not_hear_the_last_event_has_ended_or_loops_or_is_deaf(self):
        self.expect("ends", ALL[:2], over=True)
        self.expect("deaf", ALL[:2])
        self.expect("loops", [CHECKPOINT] * 3 + ALL[1:2])

    def test_a_gap_where_nothing_may_be_missing_is_seen(self):
        self.expect("gap late", ALL + [heard("1-3", "gap", '{"reason":"late"}')])

    def test_a_restart_of_redis_is_told_on_the_stream_that_was_open(self):
        gap = heard("1-2", "gap", '{"reason":"reset"}')
        self.assertEqual(judge_redis(PUBLISHED, ALL + [gap], False), "fine")
        self.assertEqual(judge_redis(PUBLISHED, ALL, False), "no gap")
        self.assertEqual(judge_redis(PUBLISHED, [CHECKPOINT, *ALL, gap], False), "reopens")

    def test_an_idle_stream_stays_open(self):
        self.assertEqual(judge_idle(PUBLISHED, ALL, False), "fine")
        self.assertEqual(judge_idle(PUBLISHED, [{"what": "error", "why": "time"}, *ALL], False), "reopens")


if __name__ == "__main__":
    unittest.main()
