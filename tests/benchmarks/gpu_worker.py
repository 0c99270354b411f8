"""One part of the GPU check on this project's own code; prints one line of JSON.

    python -m tests.benchmarks.gpu_worker PART SIZE

Run by gpu.py as a process of its own; SIZE is a `gpu.Size` as JSON. Batches, placement, loss, step
and sampling are those of a run of the stages; only weights and tokens are random.
"""

import dataclasses
import functools
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from safety_jax.base import memory, meshes
from safety_jax.base.errors import ConfigError
from safety_jax.data import prefixes
from safety_jax.data.examples import Counts, Examples
from safety_jax.data.pairs import Pairs
from safety_jax.maths import losses
from safety_jax.models import attention, llama, lora
from safety_jax.models.decoding import generation
from safety_jax.models.execution import Execution
from safety_jax.models.model import Model
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

DTYPE = jnp.dtype(jnp.bfloat16)
BETA = 0.1
OPTIMIZATION = optim.Optimization(
    learning_rate=1e-4, schedule="constant", warmup_steps=0, weight_decay=0.0,
    beta1=0.9, beta2=0.999, epsilon=1e-8, clip_norm=1.0,
)  # fmt: skip


def one_device() -> Mesh:
    return meshes.build(1, 1, 1, devices=jax.devices()[:1])


def facts() -> dict[str, Any]:
    """The device, and the most of its memory that this process has held."""
    device = jax.devices()[0]
    held = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return {"device": device.device_kind, "peak_bytes": held}


# ---------------------------------------------------------------------------- attention

# What errors may come to, relative to the norm of the float32 answer: bfloat16 has eight bits.
VALUES_WITHIN, GRADIENTS_WITHIN = 0.01, 0.02
WINDOW = 96
MOST_TOKENS = 2048  # of a row: `xla` compiles a block of queries after another


def check_attention(size: Size) -> dict[str, Any]:
    """The platform's kernel against `xla` in float32, on packed rows, forward and backward."""
    mesh, config = one_device(), gpu.model_config(size)
    platform = jax.devices()[0].platform
    name = attention.DEFAULTS[platform]
    cases = []
    for window in (None, WINDOW):
        rule = attention.Rule(window=window)
        try:
            kernel = attention.build(name, mesh, (rule,), DTYPE)
        except (ConfigError, jax.errors.JaxRuntimeError) as error:
            cases.append({"name": f"window {window}", "passed": False, "why": str(error)[:500]})
            continue
        for shared in (False, True) if window is None else (False,):
            cases.append(compare(kernel, rule, size, config, shared))
    cases.append(refusal(mesh))
    return {"backend": name, "cases": cases, **facts()}


def compare(
    kernel: attention.Attention,
    rule: attention.Rule,
    size: Size,
    config: llama.LlamaConfig,
    shared: bool,
) -> dict[str, Any]:
    """Errors of values and gradients, what leaks between examples, and the seconds of both."""
    size = dataclasses.replace(size, row_tokens=min(size.row_tokens, MOST_TOKENS))
    T, heads, kv_heads = size.row_tokens, config.heads, config.kv_heads
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(1, T, count, config.head_size) for count in (heads, kv_heads, kv_heads, heads)]
    q, k, v, weight = (
        jax.random.normal(key, shape).astype(DTYPE) for key, shape in zip(keys, shapes, strict=True)
    )
    row = np.repeat(np.arange(len(size.pattern)) + 1, gpu.lengths(size))[None]
    before = np.where(row == 2, 1, row) if shared else None  # the second example goes on from it
    segments = jnp.asarray(row)
    links = None if before is None else jnp.asarray(before)
    exact = functools.partial(attention.xla, rule=rule)

    def total(function, q, k, v, weight):
        out = function(q, k, v).astype(jnp.float32)
        return (out * weight.astype(jnp.float32)).sum(), out

    def both_ways(function):
        loss = functools.partial(total, function)
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))

    ours = both_ways(lambda q, k, v: kernel(q, k, v, segments, links, 0))
    theirs = both_ways(lambda q, k, v: exact(q, k, v, segments, links))
    (_, out), gradients = ours(q, k, v, weight)
    (_, wanted), wanted_gradients = theirs(*(x.astype(jnp.float32) for x in (q, k, v, weight)))
    values = relative(out, wanted)
    worst = max(relative(a, b) for a, b in zip(gradients, wanted_gradients, strict=True))
    # A loss of the last example alone: what stands before it has no gradient whatever.
    alone = jnp.where((segments == len(size.pattern))[..., None, None], weight, 0)
    _, (_, *of_others) = ours(q, k, v, alone)
    others = (segments != len(size.pattern))[..., None, None]
    leak = max(float(jnp.abs(jnp.where(others, x, 0)).max()) for x in of_others)
    passed = values < VALUES_WITHIN and worst < GRADIENTS_WITHIN and leak == 0.0
    return {
        "name": f"window {rule.window}{', a shared prefix' if shared else ''}",
        "passed": passed,
        "values_error": values,
        "gradients_error": worst,
        "leak": leak,
        "seconds": seconds_of(lambda: ours(q, k, v, weight)),
        "xla_seconds": seconds_of(lambda: theirs(q, k, v, weight)),
    }


def relative(given: jax.Array, expected: jax.Array) -> float:
    apart = jnp.linalg.norm(given.astype(jnp.float32) - expected.astype(jnp.float32))
    return float(apart / jnp.linalg.norm(expected.astype(jnp.float32)))


def seconds_of(function: Callable[[], Any], repeats: int = 5) -> float:
    """Of one call, compiled before."""
    jax.block_until_ready(function())
    began = time.perf_counter()
    for _ in range(repeats):
        found = function()
    jax.block_until_ready(found)
    return (time.perf_counter() - began) / repeats


def refusal(mesh: Mesh) -> dict[str, Any]:
    """cuDNN refuses soft-caps, and other platforms, in words; it must not ignore them."""
    try:
        attention.build("cudnn", mesh, (attention.Rule(softcap=30.0),), DTYPE)
    except ConfigError as error:
        return {"name": "soft-caps refused", "passed": True, "why": str(error)}
    return {"name": "soft-caps refused", "passed": False, "why": "they were taken"}


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


# ---------------------------------------------------------------------------- training


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


# ---------------------------------------------------------------------------- decoding


def decode(size: Size) -> dict[str, Any]:
    """A prompt for each lane, answers of one length; the second call is timed, for it compiles
    nothing. The first token's time is that of a call for one token alone."""
    mesh, config = one_device(), gpu.model_config(size)
    execution = Execution.build(
        mesh, rules=config.rules, compute_dtype=DTYPE, backend="auto", remat="none"
    )
    weights = llama.initialize(config, jax.random.key(0), mesh, DTYPE)
    model = Model(config, execution, weights, None, None)
    random = np.random.default_rng(0)
    # Within a tenth of the mean length; none begins as another, so that nothing is read once.
    counts = random.integers(size.prompt_tokens * 9 // 10, size.prompt_tokens * 11 // 10 + 1,
                             size.lanes)  # fmt: skip
    prompts = [random.integers(0, config.vocabulary_size, count).tolist() for count in counts]
    pace = generation.Pace(
        lanes=size.lanes, prefill_tokens=size.prefill_tokens, bucket_tokens=128, chunk_steps=32,
        cache_dtype=DTYPE,
    )  # fmt: skip

    def answer(new_tokens: int, seed: int) -> tuple[float, int]:
        """Seconds, and tokens that were written."""
        settings = generation.SamplingParams(
            temperature=1.0, top_k=0, top_p=1.0, frequency_penalty=0.0, beams=1,
            length_penalty=1.0, candidates=1, max_new_tokens=new_tokens,
        )  # fmt: skip
        setup = generation.Setup(settings, pace, (), None)
        began = time.perf_counter()
        found = generation.generate(model, setup, prompts, range(size.lanes), seed, None)
        seconds = time.perf_counter() - began
        return seconds, sum(len(one.ids) for answers in found for one in answers)

    compiling, _ = answer(size.new_tokens, 0)
    seconds, written = answer(size.new_tokens, 1)
    answer(1, 0)
    first, _ = answer(1, 1)
    return {
        "seconds": seconds,
        "first_call_seconds": compiling,
        "new_tokens": written,
        "first_token_seconds": first,
        "lanes": size.lanes,
        "bytes_per_step": gpu.decode_bytes(
            matmul_weights=formulas.kernel_weights(config) + formulas.head_weights(config),
            cache_bytes_per_token=(
                2 * config.layers * config.kv_heads * config.head_size * DTYPE.itemsize
            ),
            lanes=size.lanes,
            prompt_tokens=size.prompt_tokens,
            new=size.new_tokens,
        ),
        **facts(),
    }


PARTS: dict[str, Callable[[Size], dict[str, Any]]] = {
    "attention": check_attention,
    "sft": lambda size: train(size, sft(size), sides=1),
    "dpo": lambda size: train(size, dpo(size), sides=2),
    "decode": decode,
}


if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](Size(**json.loads(sys.argv[2])))))
