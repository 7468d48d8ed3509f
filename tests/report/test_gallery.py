"""Which images the gallery shows, and what it says about them."""

import numpy as np

from pentamask.report.errors import Detection, Errors, Missed
from pentamask.report.gallery import choose_cards

NAMES = ["one", "two"]


def make(image: int, kind: str, score: float = 0.9, label: int = 0) -> Detection:
    return Detection(image, label, score, 0.25, kind, 1)


def choose(detections: list[Detection], missed: list[Missed], count: int):
    return choose_cards(Errors(0.5, detections, missed, np.zeros((3, 3))), NAMES, count)


def test_the_worst_come_first_with_their_errors_in_words():
    detections = [make(1, "correct"), make(1, "both", label=1), make(2, "correct"), make(3, "background")]
    cards = choose([*detections, make(2, "duplicate", score=0.1), make(2, "ignored")], [Missed(1, 1)], 4)
    assert [card.image for card in cards] == [3, 1, 2]
    assert [card.quality for card in cards] == [0, 0.5, 1]
    assert cards[1].lines == ["both: two 90% on two, IoU 0.25", "missed: two"]
    assert cards[0].lines == ["background: one 90%"] and cards[1].classes == NAMES
    assert not cards[2].errors  # below the threshold, or on crowds


def test_three_of_four_are_the_worst_and_every_kind_has_an_example():
    right = [make(image, "correct") for image in range(20) for _ in range(image + 1)]
    wrong = [make(image, "localisation") for image in range(20)]  # F1 rises with the number of the image
    cards = choose([*right, *wrong, make(12, "duplicate")], [], 4)
    assert [card.image for card in cards] == [0, 1, 2, 12, 19]
