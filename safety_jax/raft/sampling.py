"""Candidates of a round: the answers sampled, and their log-probability under the start model."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float

from safety_jax.base import hosts, meshes, trees
from safety_jax.base.errors import NotFiniteError
from safety_jax.data import loader, thoughts
from safety_jax.data.examples import Counts, Examples
from safety_jax.models.decoding import generation
from safety_jax.models.model import Model
from safety_jax.raft.prompt_pool import Prompt
from safety_jax.raft.round_files import Candidate, Samples
from safety_jax.training import placement, reference
from safety_jax.training.policy import Policy


def fill(
    samples: Samples,
    prompts: Sequence[Prompt],
    model: Model,
    setup: generation.Setup,
    *,
    seed: int,
    block: int,
    title: str,
) -> None:
    """Answers the prompts that `samples` lacks, block by block.

    Blocks always start at the same prompts, so a run that was killed and resumed decodes the same
    batches and gets the same bits.
    """
    hosts.check_shared(samples.done, samples.path)
    while samples.done < len(prompts):
        asked = prompts[samples.done : samples.done + block]
        found = generation.generate(
            model,
            setup,
            [prompt.ids for prompt in asked],
            [prompt.number for prompt in asked],
            seed,
            f"{title}, prompts {samples.done + 1}-{samples.done + len(asked)} of {len(prompts)}",
        )
        assert setup.stop is not None  # it reads tokens
        samples.add(
            [
                [_candidate(answer, prompt, setup.stop.text) for answer in row]
                for prompt, row in zip(asked, found, strict=True)
            ]
        )


def _candidate(
    answer: generation.Completion, prompt: Prompt, read: Callable[[Sequence[int]], str]
) -> Candidate:
    text = thoughts.said(read, prompt.ids, answer.text or "")
    return Candidate(text, tuple(answer.ids), answer.logprobs_sum, answer.finish)


# ---------------------------------------------------------------------------- the start model


@dataclasses.dataclass(frozen=True)
class RowShape:
    """The packed rows in which the start model scores candidates.

    Attributes:
        row_tokens, rows: T and b of a microbatch.
        mesh: the devices.
    """

    row_tokens: int
    rows: int
    mesh: jax.sharding.Mesh


class StartModel:
    """The model at the start of the run: log p0 of candidates.

    Args:
        policy: the policy in training.
        start: its trainable tree at the start; None for fresh adapters on `frozen`.
        frozen: its frozen tree at the start.
    """

    def __init__(
        self, policy: Policy, start: trees.Tree | None, frozen: trees.Tree, rows: RowShape
    ):
        self._start, self._frozen, self._rows = start, frozen, rows
        self._score = reference.make_score(policy, rows.mesh)

    def logprobs(
        self, prompts: Sequence[Prompt], candidates: Sequence[Sequence[Candidate]]
    ) -> list[Float[np.ndarray, " C"]]:
        """log p0 of every sampled candidate, by prompt; 0 for reference answers."""
        pairs = [
            (prompt.ids, candidate.ids)
            for prompt, row in zip(prompts, candidates, strict=True)
            for candidate in row
        ]
        sums = np.zeros(len(pairs))
        asked = [i for i, (_, ids) in enumerate(pairs) if ids]
        if asked:
            sums[asked] = self._sums(as_examples([pairs[i] for i in asked]))
        if not np.isfinite(sums).all():
            raise NotFiniteError(
                "log-probabilities under the model at the start of the run are not finite: its "
                "weights are damaged, or the numbers overflow; compute in float32"
            )
        edges = np.cumsum([len(row) for row in candidates])[:-1]
        return np.split(sums, edges)

    def _sums(self, examples: Examples) -> Float[np.ndarray, " n"]:
        rows = self._rows
        batches = loader.Loader(
            examples,
            batch_size=rows.rows,  # a row holds at least one, so that a batch is one microbatch
            row_tokens=rows.row_tokens,
            rows_per_microbatch=rows.rows,
            packing=True,
            steps=None,
            seed=None,
            prefetch_steps=0,
            rows_here=meshes.rows_here(rows.mesh, rows.rows),
        )
        put = placement.put_rows(rows.mesh, rows.rows)
        sums = np.zeros(len(examples))
        for number in range(batches.steps):
            batch = batches.batch(number)
            tokens = jax.tree.map(put, batch.tokens)
            [logprobs] = np.asarray(self._score(self._start, self._frozen, tokens))
            layout = batch.layout
            for k, i in enumerate(batch.examples):
                start = int(layout.start[k, 0])
                stop = start + int(examples.lengths[i])
                sums[i] = logprobs[layout.row[k], start:stop].sum(dtype=np.float64)
        return sums


def as_examples(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Examples:
    """Examples of (prompt, answer) ids; the mask covers the answers."""
    ids = [np.array([*prompt, *answer], np.int32) for prompt, answer in pairs]
    masks = [np.arange(len(row)) >= len(pair[0]) for row, pair in zip(ids, pairs, strict=True)]
    return Examples(
        ids=np.concatenate(ids),
        mask=np.concatenate(masks),
        offsets=np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64),
        where=[f"candidate {i}" for i in range(len(ids))],
        source=["candidates"] * len(ids),
        counts=Counts(0, 0, {}),
    )
