"""Our models behind lm-evaluation-harness's interface; imports the harness, see `lm_eval_tasks.py`.

Requests are scored token for token as by its `HFLM`: the split of context and continuation is
inherited, truncation and rolling windows are the harness's own functions. Three things differ. A
stop string that is a special token ends an answer. Unknown generation settings are refused; HFLM
passes them to `generate`. The thoughts of a reasoning model are not part of its answer; HFLM keeps
them unless it is told their last token.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.data import thoughts
from safety_jax.data.chat import Unwritable, chat_template
from safety_jax.data.control import SECRET, control_tokens
from safety_jax.data.text_rules import ERROR, FIXED, TextRules
from safety_jax.evaluation.harness.loglikelihood import ContextPair, LikelihoodScorer, RequestLimits
from safety_jax.models.decoding import generation, layout
from safety_jax.models.decoding.ends import endings
from safety_jax.models.model import Model

# New tokens if a task does not set them, as in HFLM.
MAX_NEW_TOKENS = 256
_KNOWN = ("do_sample", "temperature", "top_k", "top_p", "num_beams", "until", "max_gen_toks")


class HarnessLM(TemplateLM):
    """Answers the harness's three kinds of requests; every process answers all of them.

    Args:
        limits: of scoring; `longest` also of prompt and answer together.
        pace: of decoding.
        eos_ids: tokens that end an answer.
        seed: of tasks that sample.
        rules: how requests are read.

    Attributes:
        cut: requests whose context lost tokens on its left, by kind of request.
    """

    def __init__(
        self,
        model: Model,
        limits: RequestLimits,
        pace: generation.Pace,
        eos_ids: tuple[int, ...],
        seed: int,
        rules: TextRules = FIXED,
    ):
        super().__init__()
        assert model.tokenizer is not None
        self.tokenizer = model.tokenizer
        self.max_length = limits.longest
        self._model, self._scorer = model, LikelihoodScorer(model, limits)
        self._text = thoughts.reader(self.tokenizer)
        self._pace, self._eos_ids, self._seed = pace, eos_ids, seed
        self.cut: Counter[str] = Counter()
        self._rules, self._control = rules, control_tokens(model.tokenizer)
        self._dialogues: dict[str, str] = {}  # as the harness has them -> in code words

    # ------------------------------------------------------------------------ tokens

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids with the tokenizer's own special tokens and those of a chat template. Special
        tokens in a document are read as text, except a BOS token at its beginning.

        Raises:
            DataError: the text holds a control token, and `rules` refuse those.
        """
        text = self._coded(string)
        if self._rules.special_text == ERROR and (found := self._control.find(text)):
            raise DataError(
                f"a request of a task holds the special token {found.group()!r} ({text!r:.60}); "
                "set data.special_text to text, which reads it as letters, or leave the task out"
            )
        begin = str(self.tokenizer.bos_token or "")
        if begin and text.startswith(begin):
            text = self._control.encode(begin) + text.removeprefix(begin)
        if add_special_tokens is None:
            add_special_tokens = not (begin and text.startswith(self._control.encode(begin)))
        if not add_special_tokens:
            return self._control.read([text])[0]
        return [int(token) for token in self._control.reader(text, verbose=False)["input_ids"]]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return super()._encode_pair(self._coded(context), continuation)

    def _coded(self, text: str) -> str:
        """The text; if it begins with a dialogue from `apply_chat_template`, with the dialogue's
        control tokens encoded."""
        if SECRET in text:
            return text
        if text in self._dialogues:
            return self._dialogues[text]
        for length in sorted({len(dialogue) for dialogue in self._dialogues}, reverse=True):
            if (found := self._dialogues.get(text[:length])) is not None:
                return found + text[length:]
        return text

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The dialogue as text, without its system message if the template takes none.

        Raises:
            ConfigError: the tokenizer has no chat template.
            DataError: the template refuses the dialogue.
        """
        if not self.tokenizer.chat_template:
            raise ConfigError(
                "the tokenizer has no chat template; expected one in the model folder, or run the "
                "tasks without one"
            )
        try:
            code = self._rendered(chat_history, add_generation_prompt)
        except Unwritable as reason:
            others = [message for message in chat_history if message["role"] != "system"]
            try:
                code = self._rendered(others, add_generation_prompt)
            except Unwritable:
                raise DataError(
                    f"a request of a task has no place in the chat template ({reason}); leave the "
                    "task out, or run tasks without the template"
                ) from reason
        text = self._control.decode(code)
        # If two dialogues have the same text, one contains what the template wrote in the other:
        # keep the one with fewer control tokens, which obeys less of a document.
        known = self._dialogues.get(text, code)
        self._dialogues[text] = min(code, known, key=lambda one: one.count(SECRET))
        return text

    def _rendered(self, turns: list[dict[str, str]], asking: bool) -> str:
        template = chat_template(self.tokenizer, self._rules.chat)
        if not asking:
            return template.begun(turns)
        (written,) = template.write([turns], asking=True)
        if isinstance(written, Unwritable):
            raise written
        return written.code

    # ------------------------------------------------------------------------ likelihood

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """log p of each continuation, and whether it is greedy; see `loglikelihood.py`."""
        return super().loglikelihood(requests, disable_tqdm or jax.process_index() != 0)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        pairs = []
        for (context, continuation), before, behind in requests:
            if not 0 < len(behind) <= self.max_length:
                raise DataError(
                    f"the continuation {continuation!r:.60} of {context!r:.60} has {len(behind)} "
                    f"tokens; expected 1 to {self.max_length}, the most that the model reads"
                )
            self.cut["loglikelihood"] += len(before) + len(behind) > self.max_length + 1
            pairs.append(ContextPair(tuple(before) or (self.prefix_token_id,), tuple(behind)))
        title = None if disable_tqdm else "log-likelihoods"
        answers = [(found.logprob, found.greedy) for found in self._scorer.score(pairs, title)]
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """log p of whole texts, long ones in windows; each token is predicted once."""
        pairs, owners = [], []
        for number, request in enumerate(requests):
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for window in windows:
                before, behind = utils.make_disjoint_window(window)
                pairs.append(ContextPair(tuple(before), tuple(behind)))
                owners.append(number)
        totals = [0.0] * len(requests)
        title = None if disable_tqdm else "rolling log-likelihoods"
        for owner, found in zip(owners, self._scorer.score(pairs, title), strict=True):
            totals[owner] += found.logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    # ------------------------------------------------------------------------ generation

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers, each cut before the first of its stop strings."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        answers = [""] * len(requests)
        for settings, members in groups.items():
            contexts = [requests[number].args[0] for number in members]
            texts = self._generate(contexts, members, json.loads(settings), disable_tqdm)
            for number, text in zip(members, texts, strict=True):
                answers[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return answers

    def _generate(
        self, contexts: Sequence[str], numbers: Sequence[int], asked: dict[str, Any], quiet: bool
    ) -> list[str]:
        """Answers to requests with the same settings; `numbers` seed their randomness."""
        settings, until = read_settings(asked)
        room = self.max_length - settings.max_new_tokens
        if room < 1:
            raise ConfigError(
                f"a task generates {settings.max_new_tokens} tokens; expected fewer than the "
                f"{self.max_length} that the model reads, lower max_gen_toks in the task's file"
            )
        strings = [string for string in until if string]
        ends, stop = endings(self.tokenizer, self._eos_ids, strings, self._text)
        if settings.beams > 1:  # beam search ends at tokens only; its text is cut afterwards
            stop = generation.Stop((), self._text)
        setup = generation.Setup(settings, self._pace, ends, stop)
        prompts = [self.tok_encode(text) or [self.prefix_token_id] for text in contexts]
        self.cut["generate_until"] += sum(len(prompt) > room for prompt in prompts)
        title = None if quiet else "answers"
        with layout.lent(self._model) as speaker:
            found = generation.generate(
                speaker, setup, [prompt[-room:] for prompt in prompts], numbers, self._seed, title
            )
        texts = [
            self._answer(prompt, answer.text or "")
            for prompt, (answer,) in zip(prompts, found, strict=True)
        ]
        return [postprocess_generated_text(text, list(strings), None) for text in texts]

    def _answer(self, prompt: Sequence[int], text: str) -> str:
        """The answer without its thought, for the task's metrics."""
        whole = thoughts.opened(self._text(prompt[-16:])) + text
        return thoughts.split(whole, unwrap=False).answer


def read_settings(asked: dict[str, Any]) -> tuple[generation.SamplingParams, list[str]]:
    """A task's `generation_kwargs` as settings of our decoder, and its stop strings.

    Raises:
        ConfigError: an unknown setting, or sampling without a temperature.
    """
    known = normalize_gen_kwargs(asked, MAX_NEW_TOKENS)
    unknown = sorted(set(known) - set(_KNOWN))
    if unknown:
        raise ConfigError(
            f"a task sets {', '.join(unknown)} in generation_kwargs; expected any of "
            f"{', '.join(_KNOWN)}, mend the task's file"
        )
    temperature = float(known.get("temperature", 0.0))
    if known["do_sample"] and not temperature:
        raise ConfigError(
            "a task sets do_sample in generation_kwargs, but no temperature; expected one above 0, "
            "mend the task's file"
        )
    settings = generation.SamplingParams(
        temperature=temperature,
        top_k=int(known.get("top_k") or 0),
        top_p=float(known.get("top_p") or 1.0),
        frequency_penalty=0.0,
        beams=int(known.get("num_beams", 1)),
        length_penalty=1.0,
        candidates=1,
        max_new_tokens=int(known["max_gen_toks"]),
    )
    return settings, handle_stop_sequences(known["until"], None)
