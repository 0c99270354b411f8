"""Multiple choice by generated letter: what an answer chooses, and what accuracy is worth.

Accuracy alone hides collapse. The base model of Safe to Serve (arXiv 2412.00074) answers "C" to 85%
of OpenBookQA's questions, and its 30% are reported as helpfulness beside models that read them.
"""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from safety_jax.evaluation.measures.counts import rate

# A collapse: the commonest answer is more than half way from its share of the key to being the only
# one. That is 62% of "C" where it is right in 23%, and 75% of "A" where it is right in half.
COLLAPSE = 0.5
_AROUND = " \t\r\n()[]{}<>*_#.:,;!\"'`"
_NO_WORD = r"(?![^\W_])"
# "A plant" and "I think" choose nothing; "A is right" and "A or B" do.
_NO_ARTICLE = r"(?<!\b[AI](?=\s+(?!(?:is|because|since|or|and)\b)[a-z]))"
_SEVERAL = re.compile(r"[ \t).(/,&]*(?:or|and)?[ \t(]*")


def read(answer: str, choices: Sequence[str]) -> str:
    """The choice that an answer names; "" where it names none, or several.

    The whole answer; what stands behind the word "answer"; the only choice in it; or else the one
    it begins with. The paper cut answers after two or three tokens and searched them for letters
    anywhere, which comes to the same there; longer answers are full of letters that choose nothing.

    Args:
        choices: single letters; or words such as True and False, in any case.
    """
    names = {choice.casefold(): choice for choice in choices}
    bare = answer.strip(_AROUND).casefold()
    if bare in names:
        return names[bare]
    mark, cue = _patterns(tuple(choices))
    if behind := cue.search(answer):
        return names[behind[1].casefold()]
    found = list(mark.finditer(answer))
    different = {match[1].casefold() for match in found}
    if len(different) == 1:
        return names[different.pop()]
    if not found or answer[: found[0].start()].strip(_AROUND):
        return ""
    together = _SEVERAL.fullmatch(answer[found[0].end() : found[1].start()])
    return "" if together else names[found[0][1].casefold()]


@functools.cache
def _patterns(choices: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A choice anywhere, and one behind the word "answer"."""
    if all(len(choice) == 1 for choice in choices):
        large = "".join(re.escape(choice) for choice in choices)
        # A small letter is a choice only in brackets; there, too, it must stand for itself.
        mark = rf"(?<![^\W_])([{large}]{_NO_WORD}{_NO_ARTICLE}|(?i:[{large}])(?=\)))"
        named = rf"[{large}]{_NO_WORD}{_NO_ARTICLE}"
    else:
        named = "(?i:" + "|".join(map(re.escape, choices)) + rf"){_NO_WORD}"
        mark = rf"(?<![^\W_])({named})"
    return re.compile(mark), re.compile(rf"(?i:\banswer)\W+(?:(?i:is)\W+)?({named})")


def measure(
    read: Sequence[str], right: Sequence[str], choices: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Accuracy with what it must be compared with, as JSON values.

    Args:
        read: what each answer chooses, or ""; see `read`.
        right: the right choice of each question.
        choices: all choices of each question.

    Returns:
        accuracy: of all questions; an answer that chooses nothing is wrong, as in the paper.
        readable: of the questions whose answer chooses something.
        invalid: the share of answers that choose nothing.
        chance: of a blind guess among each question's choices.
        key, answers: how often each choice is right, and chosen.
        commonest, commonest_share: the choice that is chosen most, and its share of those chosen.
        always_commonest: accuracy of always choosing it; None where nothing is chosen.
        best_constant, always_best: the choice that is right most often, and its share of the key.
        reordered: expected accuracy of the same choices in random order.
        blind: the most that one may score without reading the questions: the largest of chance,
            always_best and reordered.
        above_blind: the interval of accuracy lies above that.
        collapsed: the interval of the commonest share lies beyond COLLAPSE of the way.
        verdict: one sentence.
        These three of accuracy, readable and invalid are rates, see `results.Rate`.

    Raises:
        ValueError: no question, lists of different lengths, or a right answer that is no choice.
    """
    if not read or not all(a in of for a, of in zip(right, choices, strict=True)):
        raise ValueError("expected one question or more, each with its right answer among choices")
    n = len(right)
    accuracy = rate([a == b for a, b in zip(read, right, strict=True)])
    readable = rate([a == b if a else None for a, b in zip(read, right, strict=True)])
    names = list(dict.fromkeys(name for of in choices for name in of))
    key, chosen = Counter(right), Counter(filter(None, read))
    best = max(names, key=key.__getitem__)
    found: dict[str, Any] = {
        "accuracy": dataclasses.asdict(accuracy),
        "readable": dataclasses.asdict(readable),
        "invalid": dataclasses.asdict(rate([not name for name in read])),
        "chance": sum(1 / len(of) for of in choices) / n,
        "key": {name: key[name] for name in names},
        "answers": {name: chosen[name] for name in names},
        **_commonest(chosen, key, names),
        "best_constant": best,
        "always_best": key[best] / n,
        "reordered": sum(chosen[name] / n * key[name] / n for name in names),
    }
    found["blind"] = max(found["chance"], found["always_best"], found["reordered"])
    found["above_blind"] = accuracy.low is not None and accuracy.low > found["blind"]
    found["verdict"] = _verdict(found)
    return found


def _commonest(chosen: Counter[str], key: Counter[str], names: Sequence[str]) -> dict[str, Any]:
    if not chosen:
        return {
            "commonest": "",
            "commonest_share": None,
            "always_commonest": None,
            "collapsed": False,
        }
    name = max(names, key=chosen.__getitem__)
    share = rate([other == name for other in chosen.elements()])
    always = key[name] / key.total()
    assert share.low is not None
    return {
        "commonest": name,
        "commonest_share": share.value,
        "always_commonest": always,
        "collapsed": share.low > always + COLLAPSE * (1 - always),
    }


def _verdict(found: dict[str, Any]) -> str:
    name, accuracy = found["commonest"], found["accuracy"]
    if not name:
        return "No answer names a choice."
    read_or_not = "" if found["above_blind"] else ", which is not more than can be had blindly"
    return (
        f"{name} is {found['commonest_share']:.1%} of the answers and "
        f"{found['always_commonest']:.1%} of the key, {'a' if found['collapsed'] else 'no'} "
        f"collapse: accuracy is {accuracy['value']:.1%} "
        f"[{accuracy['low']:.1%}, {accuracy['high']:.1%}]{read_or_not}; the same answers in random "
        f"order would score {found['reordered']:.1%}, always {found['best_constant']} "
        f"{found['always_best']:.1%}, chance {found['chance']:.1%}."
    )
