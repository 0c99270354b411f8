"""What devices exchange in a training step, read from the compiled program."""

import jax
import pytest

from safety_jax.planning import abstract, collectives, formulas
from safety_jax.planning import programs as compilations
from safety_jax.stages import planned
from tests.planned_runs import asked, programs

KERNELS = 7  # of a layer


@pytest.fixture(scope="module")
def run(config):
    """Eight devices that share rows and weights."""
    return pairs_run("dpo", config, train__chunk_tokens=16)


def pairs_run(stage, config, **values):
    return asked(
        stage, config, "v5e:2x4", jax.devices(), (1, 8, 1),
        model__compute_dtype="float32", model__parameter_dtype="float32", data__max_length=8,
        data__row_tokens=32, train__batch_size=32, train__rows_per_microbatch=8, lora__rank=4,
        lora__dropout=0.05, model__remat="full", **values,
    )  # fmt: skip


@pytest.fixture(scope="module")
def program(run):
    (found,) = programs(run)
    return found


@pytest.fixture(scope="module")
def compiled(program):
    return program.lower().compile()


@pytest.fixture(scope="module")
def exchanged(compiled):
    return collectives.read(compiled.as_text(), 8)


@pytest.fixture(scope="module")
def adapter_numbers(run):
    trained = planned.make_policy(run, run.mesh(run.own_mesh()), "full")
    trainable, _ = abstract.trained(trained, planned.base_dtype(run.config))
    return sum(leaf.size for leaf in jax.tree.leaves(trainable))


def test_layers_gather_their_kernels_forward_and_backward_and_nothing_else(exchanged):
    assert collectives.count(one for one in exchanged if one.loops) == {
        ("all-gather", "jvp()/while"): KERNELS,
        ("all-gather", "transpose(jvp())/while"): KERNELS,
    }


def test_gradients_of_all_adapters_meet_once(exchanged, adapter_numbers):
    once = [one for one in exchanged if not one.loops]
    assert {one.kind for one in once} == {"all-reduce", "all-gather"}
    # The most tokens a row trains; the number of pairs, and of chosen tokens; then gradients, with
    # loss and table.
    reduced = sorted(one.numbers for one in once if one.kind == "all-reduce")
    assert len(reduced) == 3
    assert reduced[:2] == [1, 2] and reduced[2] >= adapter_numbers


def test_embedding_head_and_adapters_are_gathered_once(exchanged, adapter_numbers, config):
    gathered = sorted(
        one.numbers for one in exchanged if not one.loops and one.kind == "all-gather"
    )
    table = config.vocabulary_size * config.width
    assert gathered[-2:] == [table, table]
    # Factors that do not have the model's width among their sides are whole already.
    assert sum(gathered) - 2 * table < adapter_numbers


def test_a_collective_in_the_loop_over_layers_counts_once_a_layer(exchanged, config):
    assert {one.loops[0].trips for one in exchanged if one.loops} == {config.layers}
    found = collectives.totals(exchanged, (2,))
    forward = next(one for one in found if one.place == "jvp()/while")
    assert forward.times == KERNELS * config.layers
    D, F, queries, keys = config.width, config.mlp_width, 32, 16
    kernels = 2 * D * queries + 2 * D * keys + 3 * D * F
    assert forward.received == config.layers * 4 * kernels * 7 / 8


def test_memory_of_the_arguments_is_what_the_compiler_counts(compiled, program):
    stats = compiled.memory_analysis()
    # Scalars apart: the step's number, its key, the number of microbatches.
    assert abs(stats.argument_size_in_bytes - sum(program.arguments.values())) <= 64


def test_temporaries_by_formula_are_of_the_compilers_size(compiled, program):
    found = compiled.memory_analysis().temp_size_in_bytes
    assert found / 4 < program.temporaries < 4 * found


def test_the_formula_exchanges_what_the_program_does(program, exchanged):
    found = sum(one.received for one in collectives.totals(exchanged, program.unknown_trips))
    assert sum(program.exchanged.values()) == pytest.approx(found, rel=0.2)


def test_microbatches_repeat_what_layers_exchange(config):
    run = asked(
        "sft", config, "v5e:2x4", jax.devices(), (2, 2, 2),
        model__compute_dtype="float32", model__parameter_dtype="float32", data__max_length=32,
        train__batch_size=24, train__rows_per_microbatch=8, train__chunk_tokens=16,
        lora__rank=4, lora__dropout=0.0,
    )  # fmt: skip
    (program,) = programs(run)
    assert program.unknown_trips == (3, 2)
    found = compilations.measure(program, 8)
    forward = "while/body/jvp()/while"  # over layers, inside the one over microbatches
    gathers = [one for one in found.exchanges if (one.kind, one.place) == ("all-gather", forward)]
    assert {one.group for one in gathers} == {2}
    assert sum(one.times for one in gathers) == KERNELS * config.layers * 3
    assert found.memory.total == pytest.approx(found.needed)


def test_a_step_of_all_weights_exchanges_gradients_in_every_microbatch(config):
    """Beside what is exchanged here, the head's gradient meets once for each chunk of logits."""
    run = asked(
        "sft", config, "v5e:2x4", jax.devices(), (8, 1, 1), model__compute_dtype="float32",
        data__max_length=32, train__batch_size=24, train__rows_per_microbatch=8,
        train__chunk_tokens=32, lora__rank=0, model__remat="full",
    )  # fmt: skip
    (program,) = programs(run)
    found = compilations.measure(program, 8)
    received = sum(one.received for one in found.exchanges)
    assert sum(program.exchanged.values()) == pytest.approx(received, rel=0.05)
    # By formula, the accumulated gradients count as well.
    gradients = 2 * 4 * formulas.all_weights(config)
    assert program.temporaries > gradients


def test_both_programs_of_a_decoder_hold_what_the_plan_says(config):
    run = asked(
        "raft", config, "v5e:2x4", jax.devices(), (2, 2, 2), data__max_length=24,
        model__compute_dtype="float32", model__parameter_dtype="float32", sample__lanes=8,
        sample__prefill_tokens=16, sample__bucket_tokens=8, sample__candidates=2,
        sample__max_new_tokens=8, sample__cache_dtype="float32", raft__prompts=8, lora__rank=4,
    )  # fmt: skip
    for program in programs(run):
        found = compilations.measure(program, 8)
        # The host's own arrays are small; a small model's table of outputs is not.
        tables = 2 * 4 * config.vocabulary_size * config.width
        assert abs(found.memory.arguments - sum(program.arguments.values())) < tables
        assert found.needed == found.memory.total > found.memory.arguments


def test_a_judge_with_adapters_exchanges_no_more_than_its_kernels(config):
    (judged,) = programs(pairs_run("reward", config))
    found = judged.lower().compile()
    assert collectives.count(one for one in collectives.read(found.as_text(), 8) if one.loops) == {
        ("all-gather", "jvp()/while"): KERNELS,
        ("all-gather", "transpose(jvp())/while"): KERNELS,
    }
    stats = found.memory_analysis()
    # A trunk that packs looks at segments; the mask of answers is for others.
    unread = judged.arguments["batch"] // 10
    assert abs(stats.argument_size_in_bytes - sum(judged.arguments.values())) <= unread
    assert stats.temp_size_in_bytes / 4 < judged.temporaries < 4 * stats.temp_size_in_bytes
