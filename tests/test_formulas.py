"""Memory and FLOPs by formula: on paper, and as the compiler counts them."""

import dataclasses
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from configs import dpo
from safety_jax.data import corpora, pairs
from safety_jax.models import llama
from safety_jax.models.decoding import caches
from safety_jax.planning import abstract, formulas, layouts, sizes
from safety_jax.raft import sampling
from safety_jax.stages import groups, learners, pair_task, planned, planned_passes, precision
from safety_jax.training.footprint import FlopParts
from tests import tiny_tokenizers
from tests.planned_runs import asked, programs


def test_sizes_have_the_weights_of_their_names():
    billions = {name: formulas.all_weights(sizes.read(name)) / 1e9 for name in sizes.SIZES}
    assert billions == pytest.approx(
        {"llama2-7b": 6.738, "llama2-13b": 13.016, "llama2-70b": 68.977, "llama3-1b": 1.236,
         "llama3-3b": 3.213, "llama3-8b": 8.030,
         "llama3-70b": 70.554, "qwen3-32b": 32.762, "gemma3-27b": 27.009, "phi4-14b": 14.660,
         "olmo3-32b": 32.234}, abs=1e-3,
    )  # fmt: skip


def training_program(stage, config, **changed):
    values = {"model__remat": "none", "data__max_length": 32, "lora__rank": 0,
              "train__batch_size": 8, "train__rows_per_microbatch": 8,
              "train__chunk_tokens": 16, "model__compute_dtype": "float32"}  # fmt: skip
    run = asked(stage, config, "v5e:2x4", jax.devices(), (8, 1, 1), **values | changed)
    return programs(run)[0]


def training_load(config, **changed):
    return training_program("sft", config, **changed).load


def test_flops_of_a_step_on_paper(config):
    """D 32, F 64, 2 layers, 4 heads of 8 over 2 key heads, 96 tokens in the vocabulary."""
    kernels = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    head, tokens = 96 * 32, 8 * 32
    attention = 2 * 16 * 4 * 8 * 2  # one product, a token; half of 32 keys
    full = tokens * (6 * kernels + 8 * head + (2 + 7) * attention)
    assert training_load(config).flops == full / 8
    again = tokens * (2 * kernels + 2 * attention)
    assert training_load(config, model__remat="full").flops == (full + again) / 8
    assert training_load(config).tokens == tokens
    # What MFU counts: the head's logits once each way, attention's backward twice its forward.
    counted = tokens * (6 * kernels + 6 * head + 6 * attention)
    assert training_load(config).model_flops == counted


def test_flops_of_kto_and_orpo_on_paper(config):
    """ORPO learns from both sides; KTO from one, and reads the other. Both steps can be lowered."""
    kernels = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    head, tokens, attention = 96 * 32, 8 * 32, 2 * 16 * 4 * 8 * 2
    read = tokens * (2 * kernels + 2 * head + 2 * attention)
    for stage, flops in (
        ("orpo", 2 * training_load(config).flops),
        ("kto", training_load(config).flops + read / 8),
    ):
        program = training_program(stage, config)
        assert program.load.flops == flops
        assert "stablehlo.while" in program.lower().as_text()


def test_adapters_spare_the_gradient_of_the_base(config):
    frozen = training_load(config, lora__rank=4, lora__targets=("all-linear",))
    kernels = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    adapters = 2 * 4 * (4 * 32 + 2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64) - 4 * 32)
    head, tokens, attention = 96 * 32, 8 * 32, 2 * 16 * 4 * 8 * 2
    work = 4 * kernels + 4 * head + 6 * adapters + 9 * attention
    assert frozen.flops == tokens * work / 8


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_lanes_of_a_sweep_share_the_base_alone(config, method):
    """Four runs in three lanes, as wide as the widest adapter among them: three times the work, the
    adapters and their moments of one run, beside one base. The step can be lowered."""
    values = {"model__remat": "full", "data__max_length": 32, "lora__rank": 4,
              "train__batch_size": 8, "train__rows_per_microbatch": 8,
              "train__chunk_tokens": 16, "model__compute_dtype": "float32"}  # fmt: skip
    where = "v5e:2x4", jax.devices(), (8, 1, 1)
    (alone,) = programs(asked(method, config, *where, **values))
    differ = "lora.rank=2; seed=1; seed=2; optim.learning_rate=1e-3"
    if method == "dpo":
        differ = "lora.rank=2; dpo.objective=ipo_mean; seed=2; dpo.beta=0.3"
    run = asked("sweep", config, *where, "dpo" if method == "dpo" else None, sweep__runs=differ,
                sweep__lanes=3, **values)  # fmt: skip
    (together,) = programs(run)
    assert together.load.flops == 3 * alone.load.flops
    assert together.load.tokens == 3 * alone.load.tokens
    for part in ("optimizer", "batch"):
        assert together.arguments[part] == 3 * alone.arguments[part]
    # Two more adapters are as large as the two moments of one.
    more = together.arguments["parameters"] - alone.arguments["parameters"]
    assert more == pytest.approx(alone.arguments["optimizer"], abs=8)
    assert alone.load.traffic < together.load.traffic < 3 * alone.load.traffic
    assert alone.temporaries < together.temporaries < 3 * alone.temporaries
    assert "of 3 runs" in together.name
    text = together.lower().as_text()
    assert "stablehlo.while" in text and "tensor<3x2x4x32xf32>" in text


def test_a_judge_in_training_has_no_vocabulary(config):
    """Two sides of 8 rows; what its head adds is a vector's product a pair."""
    run = asked(
        "reward", config, "v5e:2x4", jax.devices(), (8, 1, 1), model__remat="none",
        data__max_length=32, train__batch_size=8, train__rows_per_microbatch=8,
        model__compute_dtype="float32",
    )  # fmt: skip
    (program,) = programs(run)
    kernels = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    attention, tokens = 2 * 16 * 4 * 8 * 2, 2 * 8 * 32
    assert program.load.flops == tokens * (6 * kernels + 9 * attention) / 8
    assert program.load.model_flops == tokens * (6 * kernels + 6 * attention)
    assert program.name == "a step of 16 rows of 32 tokens"


def test_flops_by_formula_are_those_the_compiler_counts(config):
    """Of a forward pass without loops, which the compiler would count once."""
    one = llama.LlamaConfig(**{**config.__dict__, "layers": 1, "mlp_width": 512, "width": 128,
                          "head_size": 32, "rotary_size": 32})  # fmt: skip
    run = asked(
        "score", one, "v5e:1x1", jax.devices()[:1], (1, 1, 1), "llama_guard",
        score__judges__llama_guard__max_tokens=64, score__tokens_per_batch=256,
        score__compute_dtype="float32", score__parameter_dtype="float32",
    )  # fmt: skip
    (program,) = programs(run)
    counted = program.lower().compile().cost_analysis()["flops"]
    # The compiler counts scores that causality throws away, and what is no matrix product.
    assert program.load.flops < counted < 1.25 * program.load.flops


def test_a_written_token_reads_weights_and_caches_once():
    model = sizes.read("llama2-7b")
    lanes = caches.CacheSizes(
        64, 8, prefix_tokens=256, prompt_tokens=512, own_tokens=256, block_tokens=128
    )
    parts = FlopParts(rows=4, stored=4, tensor=4)
    load = formulas.writing(model, parts, lanes, width=2, cache_width=2.0)
    weights = formulas.kernel_weights(model) + formulas.head_weights(model)
    cache = 2 * 2 * 32 * 32 * 128 * (8 * 512 + 64 * 256)
    assert formulas.cache_bytes(model, lanes, 2.0) == cache
    assert load.traffic == 2 * weights / 4 + cache / 16 + 6 * 4 * 64 * 32_000 / 16
    assert load.flops == 64 * (2 * weights + 4 * 768 * 32 * 128 * 32) / 16
    again = formulas.writing(model, parts, lanes, width=2, cache_width=2.0, dequantised=True)
    assert again.traffic - load.traffic == 2 * formulas.kernel_weights(model) / 4


@pytest.mark.parametrize(
    ("stage", "argument", "key", "values"),
    [
        ("raft", None, "model__base", {"data__max_length": 128, "sample__max_new_tokens": 32}),
        ("score", "llama_guard", "score__base", {"score__judges__llama_guard__max_tokens": 64}),
    ],
)
def test_every_pass_dequantises_kernels(config, stage, argument, key, values):
    """It writes and reads them in bfloat16."""

    def loads(base):
        run = asked(
            stage,
            config,
            "v5e:1x1",
            jax.devices()[:1],
            (1, 1, 1),
            argument,
            **values,
            **{key: base},
        )
        return [program.load for program in programs(run)]

    for plain, quantised in zip(loads("stored"), loads("int8"), strict=True):
        assert quantised.traffic - plain.traffic == 2 * formulas.kernel_weights(config)
        assert quantised.flops == plain.flops


def test_a_base_into_which_adapters_are_merged_is_wider(config):
    """Adapted kernels are float32, as `lora.promote` leaves them; all else stays in bfloat16."""

    def made(adapter, targets, sizes):
        run = asked(
            "raft", config, "v5e:2x4", jax.devices(), sizes, raft__adapter=adapter,
            lora__targets=targets, lora__rank=4, sample__lanes=8,
        )  # fmt: skip
        return run, programs(run)[-1]

    def wider(targets):
        (_, merge), (_, kept) = (made(how, targets, (8, 1, 1)) for how in ("merge", "continue"))
        return merge.arguments["parameters"] - kept.arguments["parameters"]

    assert wider(("all-linear",)) == 2 * formulas.kernel_weights(config)
    assert wider(("q_proj",)) == 2 * config.layers * 32 * config.width
    # With fsdp, a copy decodes, and the base stays at home.
    run, program = made("merge", ("all-linear",), (1, 8, 1))
    trained = planned.make_policy(run, run.mesh(run.own_mesh()), "full")
    narrow = abstract.bytes_on_device(abstract.trained(trained, jnp.bfloat16))
    found = program.held["weights in training"]
    assert found == narrow + 2 * formulas.kernel_weights(config) / 8


def test_the_mesh_for_decoding_has_room_for_merged_weights(config, monkeypatch):
    """In the plan of a run whose mesh is free."""

    def held(adapter):
        run = asked(
            "raft", config, "v5e:2x4", jax.devices(), (1, 1, 1), raft__adapter=adapter,
            lora__targets=("all-linear",), lora__rank=4, sample__lanes=8,
        )  # fmt: skip
        found = []

        def note(*_, weights, caches):
            found.append(weights)
            return layouts.ModelSizes(8, 1, 1)

        monkeypatch.setattr(layouts, "for_decoding", note)
        planned_passes.choose_decoding(dataclasses.replace(run, keep=False))
        return found[0]

    kept = held("continue")
    assert kept == 2 * formulas.all_weights(config)
    assert held("merge") - kept == 2 * formulas.kernel_weights(config)


def test_the_layout_of_rows_does_not_decide_what_max_flops_pays_for(config, one_device):
    """Pairs whose prompt is read once count in full, as in rows of their own."""
    run = dpo.get_config("demo")
    base = groups.Base(Path(), config, tiny_tokenizers.qwen(), "stored")
    side = sampling.as_examples([([1] * 90, [3, 4])] * 8)
    corpus = corpora.selected(pairs.Pairs(side, side, None, [()] * 8), base.tokens)
    found = []
    for run.data.share_prompts in (True, False):
        task = pair_task.make(
            run, one_device, base, corpus,
            learn=pytest.fail, summary="", notes=(), reward="", live=False,
        )  # fmt: skip
        found.append((task.share(corpus.training.sides, 128), task.flops_per_example))
    (shared, counted), (separate, expected) = found
    assert shared.saved > 0.4 and separate is None and counted == expected


def test_gradients_of_all_weights_are_exchanged_in_every_microbatch():
    """Four shards of a million numbers each, on two copies of them."""
    model, million = sizes.read("llama2-7b"), 10**6

    def found(parts, reduced, **values):
        return formulas.exchanged(
            model, parts, width=2, tokens=1, passes=2, repeats=3, reduced=reduced,
            kernel_bytes=2.0, **values,
        )  # fmt: skip

    def added(parts):
        none, more = (found(parts, count, full=True) for count in (0, million))
        return {group: more[group] - none[group] for group in more}

    # A device sums its shard from three others, and then with its copy.
    summed, copies = 3 * 4 * 3 * million, 3 * 4 * million
    assert added(FlopParts(8, 4, 1)) == {(4, 1): summed, (2, 4): copies}
    assert added(FlopParts(8, 8, 2)) == {(4, 2): summed, (2, 8): copies, (2, 1): 0}
    assert added(FlopParts(8, 1, 1)) == {(8, 1): 3 * 2 * 4 * million * 7 / 8}
    # The gradients of adapters meet once.
    assert found(FlopParts(8, 1, 1), million) == {(8, 1): 2 * 4 * million * 7 / 8}


def test_layers_with_a_window_keep_no_more_than_it_sees():
    """Gemma 3 27B has 52 layers with a window of 1,024 tokens, and 10 without."""
    model = sizes.read("gemma3-27b")
    lanes = caches.CacheSizes(
        64, 8, prefix_tokens=4096, prompt_tokens=2048, own_tokens=1536, block_tokens=128
    )
    a_token = 2 * 2 * 16 * 128
    written = a_token * (52 * (8 + 64) * 1024 + 10 * (8 * 2048 + 64 * 1536))
    assert formulas.cache_bytes(model, lanes, 2.0) == written
    held = jax.eval_shape(lambda: caches.zeros(model, lanes, jnp.bfloat16))
    prefix = a_token * (52 * 1024 + 10 * 4096)
    assert sum(2 * leaf.size for leaf in jax.tree.leaves(held)) == written + prefix
    short = lanes._replace(prefix_tokens=256, prompt_tokens=512, own_tokens=256)
    assert caches.arrange(model, short).layers == (tuple(range(62)),)


def test_targets_are_those_of_the_files_in_formulas_too():
    """Phi-4's queries, keys and values are one weight: A of 5,120, B of 5,120 + 2 · 1,280."""
    config = importlib.import_module("configs.sft").get_config()
    config = precision.settled(config, "tpu")
    config.lora.targets, config.lora.rank = ("qkv_proj",), 8
    found = learners.trained_policy(config, sizes.read("phi4-14b"), sides=1)
    assert found.adapter_weights == 40 * 8 * (5_120 + 5_120 + 2 * 1_280)
