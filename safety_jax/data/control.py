"""Finds a tokenizer's control tokens, and tokenizes so that no text ever becomes one.

A model obeys its control tokens: they say where a turn ends and who speaks next. Only templates may
write them. If a row of data, a user's question or an answer to be judged spells `<|im_end|>`, these
are ten characters of text.

A tokenizer gets one string and cannot tell who wrote which part. So templates write control tokens
as code words, which nobody else knows, and a twin of the tokenizer reads the text: there, a control
token has its code word as its only name. All other text gets the ids of the original tokenizer,
because the twin normalizes, splits and merges in the same way.

Control tokens are those that the tokenizer marks as special, by name or, as in Llama 3, only in the
list of added tokens; and added tokens that its chat template writes between turns without their
being marked (DeepSeek's `<｜User｜>`).
"""

import datetime
import functools
import json
import re
import secrets
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from safety_jax.base.errors import CheckpointError
from safety_jax.data import chat_process
from safety_jax.data.chat_process import Job, RunawayTemplate

# Digits only, because no filter of a template and no normalizer of a tokenizer changes them. Each
# process draws its own, so that no text can spell a code word; ids do not depend on it.
SECRET = "9" + "".join(secrets.choice("0123456789") for _ in range(23))
WORD = re.compile(SECRET + r"(\d{6})")


def word(number: int) -> str:
    """Code word `number`, a string that occurs in no text."""
    return f"{SECRET}{number:06d}"


def find_last(text: str, code: str) -> int:
    """Where a text last stands in a coded one, outside code words, whose digits it may spell; -1 if
    nowhere."""
    # Texts of rows hold no halves of surrogate pairs.
    return WORD.sub(lambda found: "\ud800" * len(found.group()), code).rfind(text)


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> "ControlTokens":
    """The control tokens of a tokenizer; cached until the tokenizer changes."""
    state = len(tokenizer), tokenizer.chat_template
    known = _known.get(tokenizer)
    if known is None or known[0] != state:
        known = _known[tokenizer] = state, ControlTokens(tokenizer)
    return known[1]


class ControlTokens:
    """The control tokens of a tokenizer; tokenizes text so that only a template's become ids.

    Attributes:
        texts: their spellings, the longest first.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        added = tokenizer.added_tokens_decoder.values()
        special = {*tokenizer.all_special_tokens, *(t.content for t in added if t.special)}
        others = {t.content for t in added} - special
        # The longest first, so that messages name the whole token.
        self.texts = sorted(special | _between_turns(tokenizer, others), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self.texts)) or "(?!)")
        self._words = {text: word(number) for number, text in enumerate(self.texts)}
        self._begin = self._words.get(str(tokenizer.bos_token or ""))
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self._inputs = list(tokenizer.model_input_names)
        self._name = tokenizer.name_or_path or "the tokenizer"
        # A space in front of a text, as LLaMA 2 has it, belongs to a token in normalized text.
        normal = self._backend.normalizer is not None
        self._conditional = not {*self.texts}.isdisjoint(
            t.content for t in added if t.single_word or (t.normalized and normal)
        )

    def find_all(self, text: str) -> list[str]:
        """The control tokens spelled in a text, in order."""
        return self._pattern.findall(text)

    def find(self, text: str, start: int = 0) -> re.Match[str] | None:
        """The first control token spelled in a text from `start` on."""
        return self._pattern.search(text, start)

    def encode(self, text: str) -> str:
        """A template's text, with code words in place of control tokens."""
        return self._pattern.sub(lambda found: self._words[found.group()], text)

    def begins(self, text: str) -> bool:
        """Whether an encoded text begins with BOS."""
        return self._begin is not None and text.startswith(self._begin)

    def decode(self, text: str) -> str:
        """Undoes `encode`, for people to read."""
        return WORD.sub(lambda found: self.texts[int(found.group(1))], text)

    def read(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts, without the tokens that the tokenizer adds around them.

        Raises:
            CheckpointError: the tokenizer cannot read a character, or as `check`.
        """
        found = self._encoded(self._twin.encode_batch_fast, texts)
        return [encoding.ids for encoding in found]

    def read_with_offsets(self, texts: Sequence[str]) -> list[Encoding]:
        """As `read`; also which characters of its text each token covers."""
        return self._encoded(self._twin.encode_batch, texts)

    def continuation(self, text: str) -> list[int]:
        """Ids of a text that continues another, without the space that LLaMA 1 and 2 put in front
        of a text."""
        alone, anchor, anchored = self.read([text, "\n", "\n" + text])
        return anchored[len(anchor) :] if anchored[: len(anchor)] == anchor else alone

    def check(self, text: str, ids: Sequence[int]) -> None:
        """Raises a CheckpointError if a template's control token was read as letters.

        Some tokens are found only between blanks, or behind one, as tokenizer.json says.
        """
        if not self._conditional:
            return
        written = Counter(int(number) for number in WORD.findall(text))
        there = Counter(ids)
        for number, times in written.items():
            known = self._twin.token_to_id(word(number))
            if known is not None and there[known] < times:
                raise CheckpointError(
                    f"{self._name}: the tokenizer reads {self.texts[number]!r}, which the template "
                    "writes, as letters, depending on what is next to it; set this token's "
                    "single_word and normalized to false in tokenizer.json and "
                    "tokenizer_config.json"
                )

    def _encoded(
        self, encode: Callable[..., list[Encoding]], texts: Sequence[str]
    ) -> list[Encoding]:
        try:
            found = encode(texts, add_special_tokens=False)
        except Exception as error:  # the tokenizers library raises no narrower type
            raise CheckpointError(
                f"{self._name}: the tokenizer cannot read a text ({self.decode(str(error)):.200}); "
                "expected an unk_token that its vocabulary holds, replace tokenizer.json"
            ) from error
        for text, encoding in zip(texts, found, strict=True):
            self.check(text, encoding.ids)
        return found

    @functools.cached_property
    def reader(self) -> PreTrainedTokenizerFast:
        """The twin as a tokenizer of transformers, for text pairs and truncation on the left."""
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(self._twin.to_str()),
            model_input_names=self._inputs,
            truncation_side="left",
        )

    @functools.cached_property
    def _twin(self) -> Tokenizer:
        content = json.loads(self._backend.to_str())
        content |= {"truncation": None, "padding": None}
        if "dropout" in content["model"]:  # BPE's, which would read a text differently each time
            content["model"]["dropout"] = None
        for token in content["added_tokens"]:
            token["content"] = self._words.get(token["content"], token["content"])
        _rename(content["model"], self._words)
        return Tokenizer.from_str(json.dumps(content))


# With the state they were found for, because tokens and templates can be added to a tokenizer.
_known: "weakref.WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Any, ControlTokens]]"
_known = weakref.WeakKeyDictionary()


def _rename(model: dict[str, Any], names: dict[str, str]) -> None:
    """Renames pieces of a tokenizer model's vocabulary, in place.

    Most tokenizers keep their control tokens there too, where text can reach them: Unigram looks up
    every piece, WordPiece and WordLevel whole words, and BPE results of merges or a whole word.
    """
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): i for piece, i in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") is not None:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        pairs = [m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"]]
        model["merges"] = [
            [left, right]
            for left, right in pairs
            if names.keys().isdisjoint((left, right, left + right))
        ]


# ---------------------------------------------------------------------------- between turns

_THOUGHT = re.compile("think|thought|reason", re.IGNORECASE)


def _between_turns(tokenizer: PreTrainedTokenizerBase, added: set[str]) -> set[str]:
    """The added tokens that the chat template writes around messages.

    Marks of thoughts are not among them, because answers may contain those.
    """
    if not added or not isinstance(tokenizer.chat_template, str | dict):
        return set()
    try:
        source = str(tokenizer.get_chat_template())
        turns = [
            {"role": role, "content": word(number)}
            for number, role in enumerate(("user", "assistant", "user"))
        ]
        day = datetime.date(2024, 7, 26)
        variables = {"messages": turns, "add_generation_prompt": False}
        special = tokenizer.special_tokens_map
        (found,) = chat_process.render(source, [Job({**special, **variables}, day)])
        sought = chat_process.read(source).sought
    except (ValueError, RunawayTemplate):  # whoever uses the template reports it
        return set()
    return {
        token
        for token in added.difference(sought)
        if token in found.text and not token.isspace() and not _THOUGHT.search(token)
    }
