"""The GPU check's parts `sft` and `dpo`: a run's own step on rows of random tokens."""

import dataclasses
import functools
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from safety_jax.base import memory
from safety_jax.data import prefixes
from safety_jax.data.examples import Counts, Examples
from safety_jax.data.pairs import Pairs
from safety_jax.maths import losses
from safety_jax.models import llama, lora
from safety_jax.models.execution import Execution
from safety_jax.planning import formulas
from safety_jax.training import fitting, likelihood, optim, preference, reference, run, steps
from safety_jax.training.batches import lay_out
from safety_jax.training.footprint import FlopParts, TrainedModel, TrunkSizes
from safety_jax.training.placement import TokenValues
from safety_jax.training.policy import Policy
from safety_jax.training.settings import Batching
from safety_jax.training.task import Learning
from tests.benchmarks import gpu
from tests.benchmarks.gpu import Size
from tests.benchmarks.gpu_device import DTYPE, facts, one_device

BETA = 0.1
OPTIMIZATION = optim.Optimization(
    learning_rate=1e-4, schedule="constant", warmup_steps=0, weight_decay=0.0,
    beta1=0.9, beta2=0.999, epsilon=1e-8, clip_norm=1.0,
)  # fmt: skip


# ---------------------------------------------------------------------------- data


def examples(size: Size, rows: int, seed: int) -> Examples:
    """Random tokens that fill so many packed rows; all but the first of each example is trained."""
    config = gpu.model_config(size)
    counts = np.array(gpu.lengths(size) * rows)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    ids = np.random.default_rng(seed).integers(0, config.vocabulary_size, offsets[-1])
    mask = np.ones(len(ids), bool)
    first = offsets[:-1]
    mask[first], ids[first] = False, 0
    where = [f"random example {i}" for i in range(len(counts))]
    nothing = Counts(cut_prompts=0, cut_answers=0, skipped={})
    return Examples(ids.astype(np.int32), mask, offsets, where, ["random"] * len(counts), nothing)


def random_pairs(size: Size, rows: int) -> Pairs:
    """Both sides of a pair are as long, and begin with the same token, which is their prompt."""
    chosen, rejected = (examples(size, rows, seed) for seed in (1, 2))
    return Pairs(chosen, rejected, None, [()] * len(chosen))


# ---------------------------------------------------------------------------- methods


@dataclasses.dataclass(frozen=True)
class Method:
    """What SFT and DPO differ in.

    Attributes:
        data: what is learned from.
        rows: of a step, counted by one side.
        learn: what the loaded model makes of it, as the method's stage does.
        expected_loss: of the first step.
    """

    data: Any
    rows: int
    learn: Callable[[Policy, Any, Mesh, fitting.Fit], Learning]
    expected_loss: float


def sft(size: Size) -> Method:
    def learn(policy: Policy, base: Any, mesh: Mesh, fit: fitting.Fit) -> Learning:
        return likelihood.learning(policy, base, mesh)

    # Logits of small random weights are nearly even over the vocabulary.
    uniform = math.log(gpu.model_config(size).vocabulary_size)
    return Method(examples(size, size.rows, 0), size.rows, learn, uniform)


def dpo(size: Size) -> Method:
    """Against a reference that is computed before the first step, as the config's default is."""
    rows = max(1, size.rows // 2)

    def learn(policy: Policy, base: Any, mesh: Mesh, fit: fitting.Fit) -> Learning:
        objective = preference.PairObjective(functools.partial(losses.dpo, beta=BETA), BETA)
        known = functools.partial(reference_values, policy, base, mesh, batching(size, rows, fit))
        return preference.learning(
            policy, objective, preference.Frozen(base, None), mesh,
            live=False, batch_size=rows * len(size.pattern), reference=known, say=print,
        )  # fmt: skip

    return Method(random_pairs(size, rows), rows, learn, math.log(2))


def reference_values(
    policy: Policy, base: Any, mesh: Mesh, rows: Batching, pairs: Pairs
) -> TokenValues:
    """The base's log-probabilities, computed as the stage does, and kept nowhere."""
    batches = lay_out(pairs.sides, rows, mesh, prefixes.separate)(
        batch_size=reference.EXAMPLES_PER_SHARD, steps=None, seed=None
    )
    score = reference.make_score(policy, mesh)
    with tempfile.TemporaryDirectory() as folder:
        cache = reference.ReferenceCache(Path(folder), {})
        return reference.logprobs(
            cache, pairs, batches, score, None, base, mesh, name=f"{len(pairs)} pairs"
        )


# ---------------------------------------------------------------------------- steps


def train(size: Size, method: Method, sides: int) -> dict[str, Any]:
    """Seconds of the run's own step, with the rows that a run would choose for this memory; where
    they do not fit after all, with fewer."""
    mesh = one_device()
    room = memory.at_hand(jax.devices()[:1])
    fit = choose(size, method, sides, mesh, room.bytes)
    config = gpu.model_config(size)
    base = jax.block_until_ready(llama.initialize(config, jax.random.key(0), mesh, DTYPE))
    before = facts()["peak_bytes"]  # of making the weights: the step's own is the larger of the two
    tried: list[str] = []
    while True:
        tried.append(str(fit.fit))
        try:
            found = measure(size, method, fit.fit, base, mesh)
            break
        except jax.errors.JaxRuntimeError as error:
            smaller = fit_after(fit.fit)
            if "RESOURCE_EXHAUSTED" not in str(error) or smaller is None:
                raise
        fit = dataclasses.replace(fit, fit=smaller)
    return found | {
        "fits": tried,
        "estimated_bytes": fit.memory,
        "room_bytes": room.bytes,
        "peak_bytes_of_weights": before,
        "flops_per_token": gpu.flops_per_token(size),
        "expected_loss": method.expected_loss,
        **facts(),
    }


def choose(size: Size, method: Method, sides: int, mesh: Mesh, room: float) -> fitting.FitEstimate:
    """Rows of a microbatch and rematerialisation by formula, as a run with `auto` chooses them."""
    config, adapter = gpu.model_config(size), gpu.adapter(size)
    declared = llama.parameters(config)
    leaves = lora.shapes(declared, adapter.targets, adapter.rank)
    model = TrainedModel(
        TrunkSizes.of(config, declared),
        weights=formulas.all_weights(config),
        adapter_weights=sum(math.prod(shape) for shape, _ in leaves.values()),
        vocabulary=config.vocabulary_size,
        chunk_tokens=size.chunk_tokens,
        base_bytes=float(DTYPE.itemsize),
        number_bytes=DTYPE.itemsize,
        sides=sides,
    )
    T = size.row_tokens
    batch = np.arange(method.rows * len(size.pattern))
    given = np.stack([side.lengths for side in method.data.sides], axis=1)
    return fitting.choose(
        fitting.RowSettings(None, T, None, T),
        fitting.Needs(given, [batch], T, packing=True),
        model,
        FlopParts.of(mesh.shape),
        memory=room,
        platform=jax.devices()[0].platform,
    )


def fit_after(fit: fitting.Fit) -> fitting.Fit | None:
    """The next to try where memory was short: half the rows, then everything computed again."""
    if fit.rows_per_microbatch > 1:
        return dataclasses.replace(fit, rows_per_microbatch=fit.rows_per_microbatch // 2)
    return None if fit.remat == "full" else dataclasses.replace(fit, remat="full")


def batching(size: Size, rows: int, fit: fitting.Fit) -> Batching:
    return Batching(
        batch_size=rows * len(size.pattern),
        rows_per_microbatch=fit.rows_per_microbatch,
        row_tokens=fit.row_tokens,
        packing=True,
        prefetch_steps=2,
        seed=0,
    )


def measure(size: Size, method: Method, fit: fitting.Fit, base: Any, mesh: Mesh) -> dict[str, Any]:
    """The first step, which compiles, and the seconds of the others, batches among them."""
    config, adapter = gpu.model_config(size), gpu.adapter(size)
    execution = Execution.build(
        mesh, rules=config.rules, compute_dtype=DTYPE, backend="auto", remat=fit.remat
    )
    policy = Policy(config, execution, Path("random"), adapter, size.chunk_tokens)
    trainable = lora.initialize(
        llama.parameters(config), adapter.targets, adapter.rank, "peft", jax.random.key(1), mesh
    )
    learning = method.learn(policy, base, mesh, fit)
    total = size.steps + 1
    batches = lay_out(method.data.sides, batching(size, method.rows, fit), mesh, prefixes.separate)(
        batch_size=method.rows * len(size.pattern), steps=total, seed=0
    )
    put = learning.place(batches, method.data)
    where, optimizer, step = run.make_stepper(OPTIMIZATION, mesh)(
        policy, learning, trainable, total
    )
    state = steps.initialize(trainable, optimizer, jax.random.key(2), where)
    seconds, found_losses, tokens = [], [], []
    since = time.perf_counter()
    for batch in batches:
        state, metrics = step(state, learning.frozen, *put(batch))
        found_losses.append(float(metrics["loss"]))  # waits for the step
        now = time.perf_counter()
        seconds.append(now - since)
        tokens.append(batch.real_tokens)
        since = now
    return {
        "seconds": seconds[1:],
        "first_step_seconds": seconds[0],
        "tokens_per_step": tokens[-1],
        "padding_share": batches.padding_share,
        "first_loss": found_losses[0],
        "last_loss": found_losses[-1],
    }
