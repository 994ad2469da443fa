"""Error rates and what is right."""

from __future__ import annotations

import random

import pytest

from higgsx.fidelity.quality import ORIGINAL, RIGHT, Rate, distance, plain, qualities


def slow(a, b):
    """By the definition."""
    if not a or not b:
        return len(a) + len(b)
    return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))


def test_distance_is_levenshteins():
    draw = random.Random(1)
    for _ in range(60):
        a, b = ([draw.choice("xyz") for _ in range(draw.randrange(6))] for _ in range(2))
        assert distance(a, b) == slow(a, b) == distance(b, a)
    assert distance("kitten", "sitting") == 3 and distance("", "abc") == 3


def test_plain_text():
    assert plain("  Don't — STOP, “please”!  15th\n") == "dont stop please 15th"
    assert plain("Ёлка, ночь.") == "ёлка ночь"


class Says:
    """Models are lists of answers; a batch is a range of items."""

    rates = (
        Rate("words", str.split),
        Rate("whole", lambda text: [text], share=True),
    )

    def __init__(self, right):
        self.known = right

    def answers(self, model, batch):
        return [model[item] for item in batch]

    def right(self, batch):
        return [self.known[item] for item in batch] if self.known else ()


def test_rates_against_what_is_right():
    right = [("a b c",), ("d e",), ("f", "g h")]
    original = ["a b c", "d x", "g h"]
    compressed = ["a c", "d x", "g"]
    words, whole = qualities(Says(right), original, compressed, [range(2), range(2, 3)])
    assert words.against == RIGHT and words.items == 3
    assert words.original.value == pytest.approx(1 / 7) and words.compressed.value == pytest.approx(3 / 7)
    assert whole.original.value == pytest.approx(2 / 3) and whole.compressed.value == 0
    assert whole.difference.value == pytest.approx(-2 / 3)
    assert words.difference.value == pytest.approx(2 / 7) and words.difference.error > 0


def test_equal_answers_differ_by_exactly_nothing():
    right = [("a b",), ("c",), ("d e f",)]
    answers = ["a", "c", "d e x"]
    for rate in qualities(Says(right), answers, list(answers), [range(3)]):
        assert rate.difference.value == 0 and rate.difference.error == 0


def test_without_right_answers_the_original_is_the_measure():
    words, whole = qualities(Says(None), ["a b", "c d"], ["a b", "c x"], [range(2)])
    assert words.against == ORIGINAL and words.original.value is None
    assert words.compressed.value == pytest.approx(1 / 4) and whole.compressed.value == pytest.approx(1 / 2)
