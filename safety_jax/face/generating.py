"""Generates answers: a greedy one, or several sampled ones, to each prompt."""

import dataclasses
from collections.abc import Sequence

from safety_jax.base import meshes
from safety_jax.base.errors import DataError
from safety_jax.base.settings import Real, Whole
from safety_jax.data import prompt_ids, records, thoughts
from safety_jax.data.chat import answer_ends
from safety_jax.data.prompts import load_template
from safety_jax.data.text_rules import FIXED
from safety_jax.face import given
from safety_jax.face.given import Prompt
from safety_jax.models.decoding import generation
from safety_jax.models.decoding.ends import endings
from safety_jax.models.model import Model

LANES = 64  # answers that each device writes at a time
PREFILL_TOKENS = 128  # tokens of prompts that each device reads at a time
BUCKET_TOKENS = 64  # the shortest compiled length of prompts and of answers
CHUNK_STEPS = 16  # tokens that each lane writes before the host collects them


def generate(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop: str | Sequence[str] = (),
    template: str = "",
    seed: int = 0,
) -> list[str]:
    """One answer to each prompt, greedy unless a temperature is given.

        sj.generate(model, ["What does a cow eat?"], max_new_tokens=20)
        sj.generate(model, [[{"role": "user", "content": "What does a cow eat?"}]])

    The text of a reasoning model includes the thought before its answer.
    See `sample` for arguments and errors.
    """
    found = sample(
        model,
        prompts,
        candidates=1,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        stop=stop,
        template=template,
        seed=seed,
    )
    return [answer.text or "" for (answer,) in found]


def sample(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    candidates: int = 4,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stop: str | Sequence[str] = (),
    template: str = "",
    seed: int = 0,
) -> list[list[generation.Completion]]:
    """Several answers to each prompt, in the order of the prompts. Each has `text`, token `ids`,
    their `logprobs_sum` in nats, and how it ended in `finish`: "eos", "stop" or "length".

        best = [max(row, key=lambda a: a.logprobs_sum) for row in sj.sample(model, prompts)]

    An answer depends only on the seed, its prompt, the place of the prompt, and its own place among
    the answers. Other prompts do not affect it.

    Args:
        temperature: 0 is greedy.
        top_p, top_k: as in `transformers`; 1 and 0 are off.
        stop: one string or several that end an answer, and are cut off. It also ends at the
            model's own tokens.
        template: a name of `data/prompts.py`; "" is the tokenizer's chat template, or "plain".

    Raises:
        ConfigError: a setting cannot be used, or the model has no tokenizer.
        DataError: a prompt is empty or withheld ("REDACTED"), longer than the model can read, or
            not in a list.
    """
    tokens = given.tokenizer(model)
    settings = generation.SamplingParams(
        temperature=given.number("temperature", temperature, Real(0.0)),
        top_k=given.whole("top_k", top_k, Whole(0)),
        top_p=given.number("top_p", top_p, Real(0.0, 1.0, low_open=True)),
        frequency_penalty=0.0,
        beams=1,
        length_penalty=1.0,
        candidates=given.whole("candidates", candidates, Whole(1)),
        max_new_tokens=given.whole("max_new_tokens", max_new_tokens, Whole(1, unit="tokens")),
    )
    stops, drawn = given.names("stop", stop), given.whole("seed", seed, given.SEED)
    rows = [{"prompt": prompt} for prompt in given.turns(prompts)]
    read = given.every(records.read_prompts, "prompt", rows)
    worded = given.template_name(template, tokens)
    ids = prompt_ids.encode_prompts(read, load_template(worded, tokens), tokens)
    for record, row in zip(read, ids, strict=True):
        _check_fits(model, record.where, len(row), settings.max_new_tokens)
    ends = [*model.ends, *(answer_ends(tokens, FIXED.chat) if worded == "chat" else ())]
    end_ids, strings = endings(tokens, ends, stops, thoughts.reader(tokens))
    setup = generation.Setup(settings, _pace(model), end_ids, strings)
    found = generation.generate(model, setup, ids, range(len(ids)), drawn, None)
    return [
        [
            dataclasses.replace(one, text=thoughts.said(strings.text, prompt, one.text or ""))
            for one in row
        ]
        for prompt, row in zip(ids, found, strict=True)
    ]


def _check_fits(model: Model, where: str, count: int, new: int) -> None:
    most = model.config.max_positions
    if count + new > most:
        raise DataError(
            f"{where}: {count} tokens and {new} new ones are more than the {most} positions of the "
            "model; shorten the prompt or lower max_new_tokens"
        )


def _pace(model: Model) -> generation.Pace:
    """The same pace for any number of answers, so that a notebook needs few compiled programs. A
    step with a quarter of the lanes takes hardly longer than one with a single lane."""
    return generation.Pace(
        lanes=LANES * meshes.row_parts(model.mesh),
        prefill_tokens=PREFILL_TOKENS,
        bucket_tokens=BUCKET_TOKENS,
        chunk_steps=CHUNK_STEPS,
        cache_dtype=model.execution.compute_dtype,
    )
