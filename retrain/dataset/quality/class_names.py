"""Class names that may mean the same class."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from retrain.dataset.quality.report import Issue

_SHORTEST = 4
"""Letters below which one changed letter makes another word ("car", "cat")."""


def name_issues(classes: Sequence[str], similarity: float) -> Iterator[Issue]:
    """Pairs of names that differ in case, spaces, punctuation or plural only, or in a few letters.

    Similarity is that of Ratcliff & Metzener (1988). Names that differ in a number ("lane 1", "lane 2"), or by a
    whole word more ("car", "car door"), are different on purpose.
    """
    spelt = [levelled(name) for name in classes]
    for second, name in enumerate(spelt):
        # The matcher keeps what it learnt about its second sequence.
        matcher = SequenceMatcher(None, "", name, autojunk=False)
        for first in range(second):
            matcher.set_seq1(spelt[first])
            if spelt[first] == name:
                yield _issue(classes, first, second, "but for case, spaces, punctuation or plural", 1.0)
            elif _comparable(spelt[first], name) and (
                matcher.real_quick_ratio() >= similarity
                and matcher.quick_ratio() >= similarity
                and (ratio := matcher.ratio()) >= similarity
            ):
                yield _issue(classes, first, second, f"by {ratio:.0%}", ratio)


def levelled(name: str) -> str:
    """Without case, punctuation and plural: "Traffic_Lights " becomes "traffic light"."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    words = re.sub(r"[\W_]+", " ", folded).split()
    # A name of punctuation only stays itself, or all of them were the same.
    return " ".join(_singular(word) for word in words) or folded.strip()


def _singular(word: str) -> str:
    if len(word) > _SHORTEST and word.endswith("ies"):
        return word[:-3] + "y"
    if re.search(r"(ss|x|zz|ch|sh|[^o]us)es$", word):
        return word[:-2]
    if len(word) >= _SHORTEST and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def _comparable(a: str, b: str) -> bool:
    """Whether similar letters can be a slip: names long enough, with equal numbers and as many words."""
    long_enough = min(len(a), len(b)) >= _SHORTEST
    numbers = re.findall(r"\d+", a) == re.findall(r"\d+", b)
    return long_enough and numbers and a.count(" ") == b.count(" ")


def _issue(classes: Sequence[str], first: int, second: int, how: str, ratio: float) -> Issue:
    message = f"Classes {first} {classes[first]!r} and {second} {classes[second]!r} are the same {how}."
    return Issue.of("class-name-mismatch", message, value=ratio)
