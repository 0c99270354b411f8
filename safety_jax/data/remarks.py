"""Counts what looks wrong in the rows of a source and is no reason to stop: lines for the user."""

import dataclasses
import re

from safety_jax.data.formats.row_format import Parsed

MANY_ROWS = 3
"""Fewer rows may have something in common by chance."""
_ECHO_CHARACTERS = 8  # shorter questions begin answers by chance
# How templates end a prompt: Alpaca's, Vicuna's, Llama 2's, ChatML, Llama 3's, Gemma's, Zephyr's.
_WORDED = re.compile(
    r"(### ?(Response|Assistant|Answer|Output):?|\bASSISTANT:|^(Assistant|AI):|\[/INST\]"
    r"|<\|im_start\|>assistant|<\|start_header_id\|>assistant<\|end_header_id\|>"
    r"|<start_of_turn>model|<\|assistant\|>|<｜Assistant｜>)\s*\Z",
    re.MULTILINE,
)
# The tokens with which models of these families end an answer.
_ENDS = (
    "</s>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>",
    "<eos>", "<|end|>", "<｜end▁of▁sentence｜>",
)  # fmt: skip
EMPTY_CELL = "nan"
"""The text that pandas has in the place of an empty cell."""


@dataclasses.dataclass
class Remarks:
    """Counts of a source's rows.

    Attributes:
        rows: those that can be used.
        no_input: those whose input only says that there is none.
        no_system: those whose system message is the word for an empty cell.
        no_text: those whose request or answer is the word for an empty cell.
        echoes: those whose answer begins with the whole question.
        worded: those whose request ends as templates do.
        ended: those whose answer ends in the text of a token that ends answers.
    """

    rows: int = 0
    no_input: int = 0
    no_system: int = 0
    no_text: int = 0
    echoes: int = 0
    worded: int = 0
    ended: int = 0

    def count(self, parsed: Parsed) -> None:
        asked = parsed.prompt[-1].content if parsed.prompt else ""
        answer = parsed.chosen[-1].content if parsed.chosen else ""
        first = parsed.chosen[0].content if parsed.chosen else ""
        self.rows += 1
        self.no_text += EMPTY_CELL in (asked.strip(), answer.strip())
        self.echoes += bool(parsed.prompt) and echoes(asked, first)
        self.worded += _WORDED.search(asked[-80:]) is not None
        self.ended += ended(answer)

    def lines(self, name: str) -> list[str]:
        found = []
        if self.no_input:
            found.append(
                f"{self.no_input:,} rows of {name}: the input says that there is none, as "
                "<noinput> or nan does, and is not read as text"
            )
        if self.no_system:
            found.append(
                f"{self.no_system:,} rows of {name}: the system message is {EMPTY_CELL}, as pandas "
                "writes an empty cell, and is not read"
            )
        if self.no_text:
            found.append(
                f"warning: {self.no_text:,} rows of {name}: the request or the answer is "
                f"{EMPTY_CELL}, as pandas writes an empty cell, and is read as text; remove such "
                "rows"
            )
        if self._of_all(self.echoes):
            found.append(
                f"warning: every answer of {name} begins with its question; expected the answer "
                "alone, if a pipeline wrote them: return_full_text=False"
            )
        if self._of_all(self.worded):
            found.append(
                f"warning: every request of {name} ends as a template does (### Response:, [/INST] "
                "and the like); expected the request alone, as data.template words it again unless "
                "it is bare"
            )
        if self._of_all(self.ended):
            found.append(
                f"warning: every answer of {name} ends in the text of an end token, which is read "
                "as letters; remove it, as answers get their end token here"
            )
        return found

    def _of_all(self, count: int) -> bool:
        return self.rows >= MANY_ROWS and count == self.rows


def echoes(question: str, answer: str) -> bool:
    """Whether an answer repeats the whole question, and goes on."""
    question, answer = question.strip(), answer.strip()
    return len(answer) > len(question) >= _ECHO_CHARACTERS and answer.startswith(question)


def ended(answer: str) -> bool:
    """Whether an answer ends in the text of a token that ends answers."""
    return answer.rstrip().endswith(_ENDS)
