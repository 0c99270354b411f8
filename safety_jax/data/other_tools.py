"""Reads the answer files of other tools as rows of a prompt and a response.

    lm-evaluation-harness    samples_TASK.jsonl of --log_samples: doc, arguments, resps
    inspect                  a log in JSON, whose samples have an input and an output
    HarmBench                completions: behavior, test_case, generation
    vLLM                     prompt, outputs: [{"text": ..., "finish_reason": ...}]

Rows of other files stay as they are. Further values of a row, such as a score, stay columns.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from safety_jax.base.errors import DataError
from safety_jax.data.text_files import PlacedRow, Row

# Fields of an lm-evaluation-harness document that may hold the question; the first one counts.
_ASKED = ("prompt", "instruction", "question", "goal", "behavior", "Behavior", "forbidden_prompt")
# How an answer ended, as these tools call it -> as a run of this project does.
FINISHES = {"max_tokens": "length", "model_length": "length", "length": "length", "stop": "stop"}
_CASE, _SAID = "test_case", "generation"


def plain(rows: Sequence[PlacedRow]) -> Sequence[PlacedRow]:
    """The rows of a file; those of another tool's file get the columns `prompt` and `response`.

    Raises:
        DataError: a row of such a file has no answer, or several.
    """
    first = rows[0][1] if rows else {}
    for columns, read in _READERS.items():
        if set(columns) <= first.keys():
            return [
                (where, _read(read, row, where) if set(columns) <= row.keys() else row)
                for where, row in rows
            ]
    return rows


def _read(read: Callable[[Row], Row], row: Row, where: str) -> Row:
    try:
        return read(row)
    except _Unread as why:
        raise DataError(f"{where}: {why}; expected one answer in words, mend the row") from why


class _Unread(ValueError):
    """Says why a row has no single answer."""


def _harmbench(row: Row) -> dict[str, Any]:
    others = {name: value for name, value in row.items() if name not in (_CASE, _SAID)}
    return others | {"prompt": row.get(_CASE), "response": row.get(_SAID)}


def _lm_eval(row: Row) -> Row:
    doc = row["doc"] if isinstance(row["doc"], dict) else {}
    asked = next(filter(None, map(doc.get, _ASKED)), None) or _context(row["arguments"])
    said = row["resps"]
    if _holds_number(said):
        raise _Unread("'resps' holds likelihoods, as multiple choice has")
    while isinstance(said, list):
        if len(said) != 1:
            raise _Unread(f"'resps' holds {len(said)} answers")
        said = said[0]
    if not isinstance(said, str):
        raise _Unread(f"'resps' holds {type(said).__name__}" if said else "'resps' is empty")
    # A document has a row for each filter of its task.
    by = {"filter": row["filter"]} if isinstance(row.get("filter"), str) else {}
    return _plain_values(row) | {"prompt": asked, "response": said} | by


def _holds_number(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_holds_number, value))
    return isinstance(value, int | float)


def _context(arguments: Any) -> Any:
    """The model's input text in `arguments`: [[text, settings]], or a mapping by name."""
    found = arguments
    while isinstance(found, list | dict) and found:
        found = found[0] if isinstance(found, list) else next(iter(found.values()))
    return found


def _inspect(row: Row) -> Row:
    output, asked = row["output"], row["input"]
    if not isinstance(output, dict):  # rows for instruction tuning have these columns, too
        return row
    if error := row.get("error"):
        said = error.get("message") if isinstance(error, dict) else error
        raise _Unread(f"inspect says that this sample failed: {str(said)[:200]!r}")
    choices = output.get("choices")
    choices = choices if isinstance(choices, list) else []
    if len(choices) > 1:
        raise _Unread(f"'output' holds {len(choices)} answers")
    if (count := _answers(row["messages"]) - _answers(asked)) > 1:
        raise _Unread(f"'messages' holds {count} turns of the assistant")
    choice = choices[0] if choices and isinstance(choices[0], dict) else {}
    completion = output.get("completion")
    if completion is None:
        message = choice.get("message")
        completion = _text(message.get("content")) if isinstance(message, dict) else None
    scores = row.get("scores")
    graded = {
        name: score["value"]
        for name, score in (scores.items() if isinstance(scores, dict) else ())
        if isinstance(score, dict) and isinstance(score.get("value"), str | int | float)
    }
    finish: dict[str, Any] = {"finish": FINISHES.get(str(choice.get("stop_reason")), "")}
    if isinstance(row.get("epoch"), int):  # a sample has a row for each
        finish["epoch"] = row["epoch"]
    if not isinstance(asked, list):
        return graded | {"prompt": asked, "response": completion} | finish
    answer = {"role": "assistant", "content": completion}
    return graded | {"messages": [*map(_turn, asked), answer]} | finish


def _answers(turns: Any) -> int:
    """The number of the assistant's turns."""
    if not isinstance(turns, list):
        return 0
    return sum(isinstance(turn, dict) and turn.get("role") == "assistant" for turn in turns)


def _turn(turn: Any) -> Any:
    if not isinstance(turn, dict):
        return turn
    return {"role": turn.get("role"), "content": _text(turn.get("content"))}


def _text(content: Any) -> Any:
    """A message's text; for a message in parts, those parts that are text."""
    if not isinstance(content, list):
        return content
    parts = [part for part in content if isinstance(part, dict)]
    return "".join(str(part.get("text", "")) for part in parts if part.get("type") == "text")


def _vllm(row: Row) -> Row:
    outputs = row["outputs"]
    if not (isinstance(outputs, list) and outputs and isinstance(outputs[0], dict)):
        return row
    if len(outputs) > 1:
        raise _Unread(f"'outputs' holds {len(outputs)} answers")
    finish = FINISHES.get(str(outputs[0].get("finish_reason")), "")
    said = {"prompt": row["prompt"], "response": outputs[0].get("text"), "finish": finish}
    return said | {k: v for k, v in _plain_values(row).items() if k not in said}


def _plain_values(row: Row) -> dict[str, Any]:
    """The values of a row that are numbers or booleans, such as a score."""
    return {name: value for name, value in row.items() if isinstance(value, bool | int | float)}


# The columns by which a tool's file is recognised -> the function that reads its rows.
_READERS: Mapping[tuple[str, ...], Callable[[Row], Row]] = {
    ("doc", "arguments", "resps"): _lm_eval,
    ("input", "output", "messages"): _inspect,
    (_CASE, _SAID): _harmbench,
    ("prompt", "outputs"): _vllm,
}
