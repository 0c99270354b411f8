"""Formats with answers and a verdict on which is better: PKU-SafeRLHF, HelpSteer2 and 3, SHP,
WebGPT's comparisons, the battles of Chatbot Arena, Nectar's rankings.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from safety_jax.data.formats.instructions import prompt_alone
from safety_jax.data.formats.preferences import shared_beginning
from safety_jax.data.formats.row_format import Format, Parsed
from safety_jax.data.labels import Labels, categories_of, flag_of, number_of
from safety_jax.data.messages import BadRow, Message, UnwantedRow, prompt_of, text_of
from safety_jax.data.text_files import Row


def _safe_rlhf(row: Row) -> Parsed:
    """A row of PKU-SafeRLHF (Dai et al., arXiv 2310.12773); the better answer is the chosen one."""
    better, safer = (_answer_number(row, f"{what}_response_id") for what in ("better", "safer"))
    answers = _answers(row, ("response_0", "response_1"))
    unsafe = [not flag_of(row, f"is_response_{i}_safe") for i in (0, 1)]
    categories: set[str] = set()
    for i in (0, 1):
        categories.update(categories_of(row, f"response_{i}_harm_category"))
    worse = 1 - better
    labels = Labels(
        unsafe=(unsafe[better], unsafe[worse]),
        chosen_is_safer=better == safer,
        categories=tuple(sorted(categories)),
    )
    return Parsed(prompt_of(row, "prompt"), answers[better], answers[worse], labels=labels)


def _help_steer(row: Row, *, prompt: str, answers: tuple[str, str], preference: str) -> Parsed:
    """A row of HelpSteer3 (Wang et al., arXiv 2505.11475) or of HelpSteer2's preferences (arXiv
    2410.01257): at -3 the first answer is much better, at 3 the second."""
    expected = "a number from -3 to 3"
    value = number_of(row, preference, expected)
    if not -3 <= value <= 3:
        raise BadRow(f"{preference!r} is {value:g}; expected {expected}")
    return _better(prompt_of(row, prompt), _answers(row, answers), -value)


def _shp(row: Row) -> Parsed:
    """A row of Stanford Human Preferences (Ethayarajh et al., arXiv 2110.08420): a post, and two
    comments, of which people preferred A if the label is 1 and B if it is 0."""
    lead = 2 * _answer_number(row, "labels") - 1
    return _better(prompt_of(row, "history"), _answers(row, ("human_ref_A", "human_ref_B")), lead)


def _webgpt_prompt(row: Row) -> tuple[Message, ...]:
    question = row["question"]
    if isinstance(question, Mapping):
        return (Message("user", text_of(question, "full_text")),)
    return prompt_of(row, "question")


def _webgpt(row: Row) -> Parsed:
    """A comparison of WebGPT (Nakano et al., arXiv 2112.09332): each answer has a score from -1 to
    1, and the quotations that it relies on are not read."""
    scores = [number_of(row, column) for column in ("score_0", "score_1")]
    answers = _answers(row, ("answer_0", "answer_1"))
    return _better(_webgpt_prompt(row), answers, scores[0] - scores[1])


_LEADS = {"model_a": 1, "model_b": -1, "tie": 0, "tie (bothbad)": 0, "both_bad": 0}


def _arena(row: Row) -> Parsed:
    """A battle of Chatbot Arena (Zheng et al., arXiv 2306.05685): two models answer the same
    person, who chooses a winner. The answers begin where the conversations part."""
    winner = row["winner"]
    if not isinstance(winner, str) or winner not in _LEADS:
        raise BadRow(f"'winner' is {winner!r:.80}; expected {', '.join(_LEADS)}")
    prompt, *answers = shared_beginning(row, "conversation_a", "conversation_b")
    return _better(prompt, answers, _LEADS[winner])


def _nectar(row: Row) -> Parsed:
    """A ranking of Nectar (Zhu et al., 2023, with Starling-7B): the answer of the lowest rank, the
    best, against that of the highest; of several with one rank, the first and the last."""
    listed = row["answers"]
    if not isinstance(listed, list) or len(listed) < 2:
        raise BadRow("'answers' is no list of two or more; expected answers with their ranks")
    ranked: list[tuple[float, Mapping[str, Any]]] = []
    for i, one in enumerate(listed):
        rank = one.get("rank") if isinstance(one, Mapping) else None
        if isinstance(rank, bool) or not isinstance(rank, int | float):
            raise BadRow(f"answers[{i}] has the rank {rank!r:.80}; expected a number, 1 the best")
        ranked.append((rank, one))
    ranked.sort(key=lambda pair: pair[0])
    (first, best), (last, worst) = ranked[0], ranked[-1]
    pair = [(Message("assistant", text_of(one, "answer")),) for one in (best, worst)]
    return _better(prompt_of(row, "prompt"), pair, last - first)


def _better(
    prompt: tuple[Message, ...], answers: Sequence[tuple[Message, ...]], lead: int | float
) -> Parsed:
    """The pair, of which the first answer is preferred if `lead` is positive.

    Raises:
        UnwantedRow: it is 0.
    """
    if not lead:
        raise UnwantedRow("neither answer is preferred")
    first, second = answers
    return Parsed(prompt, first, second) if lead > 0 else Parsed(prompt, second, first)


def _answers(row: Row, columns: tuple[str, str]) -> list[tuple[Message, ...]]:
    return [(Message("assistant", text_of(row, column)),) for column in columns]


def _answer_number(row: Row, column: str) -> int:
    value = row.get(column)
    if isinstance(value, str) and value in ("0", "1"):  # a CSV file has no numbers
        return int(value)
    if isinstance(value, bool | list | dict) or value not in (0, 1):
        raise BadRow(f"{column!r} is {value!r:.80}; expected 0 or 1")
    return int(value)


def _arena_prompt(row: Row) -> Parsed:
    return Parsed(shared_beginning(row, "conversation_a", "conversation_b")[0])


_ARENA = ("conversation_a", "conversation_b", "winner")
_WEBGPT = ("question", "answer_0", "answer_1")
PAIRS = (
    Format(
        "safe_rlhf",
        (
            "prompt",
            *("response_0", "response_1", "is_response_0_safe", "is_response_1_safe"),
            *("better_response_id", "safer_response_id"),
        ),
        _safe_rlhf,
    ),
    Format(
        "help_steer",
        ("context", "response1", "response2", "overall_preference"),
        functools.partial(
            _help_steer,
            prompt="context",
            answers=("response1", "response2"),
            preference="overall_preference",
        ),
    ),
    Format(
        "help_steer2",
        ("prompt", "response_1", "response_2", "preference_strength"),
        functools.partial(
            _help_steer,
            prompt="prompt",
            answers=("response_1", "response_2"),
            preference="preference_strength",
        ),
    ),
    Format("shp", ("history", "human_ref_A", "human_ref_B", "labels"), _shp),
    Format("webgpt", (*_WEBGPT, "score_0", "score_1"), _webgpt),
    Format("arena", _ARENA, _arena),
    Format("nectar", ("prompt", "answers"), _nectar, yields=True),
)
PROMPTS = (
    Format(
        "help_steer",
        ("context", "response1"),
        functools.partial(prompt_alone, column="context"),
    ),
    Format("shp", ("history", "human_ref_A"), functools.partial(prompt_alone, column="history")),
    Format("webgpt", _WEBGPT, lambda row: Parsed(_webgpt_prompt(row))),
    Format("arena", _ARENA[:2], _arena_prompt),
)
