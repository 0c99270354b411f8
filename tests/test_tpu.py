"""Programs compile for TPU slices, from abstract weights, on a machine without TPUs."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import pytest

from safety_jax.base import meshes
from safety_jax.base.batch import Tokens
from safety_jax.base.memory import GIB
from safety_jax.evaluation.search import layout, losses
from safety_jax.models import attention, llama
from safety_jax.models.encoders import deberta, deberta_config, heads
from safety_jax.models.execution import Execution
from safety_jax.models.model import Model
from safety_jax.planning import abstract, chips, formulas, layouts, sizes
from safety_jax.planning import programs as compilations
from tests.planned_runs import asked, programs

pytestmark = pytest.mark.plan

V5E = "v5e:4x4"
AVAILABLE = chips.CHIPS["v5e"].memory
LLAMA_2_7B = sizes.read("llama2-7b")
WEIGHTS = 2 * formulas.all_weights(LLAMA_2_7B)  # bytes in bfloat16


@pytest.fixture(scope="module")
def devices():
    return layouts.devices(chips.parse_slice(V5E))


def measure(run, program, capsys) -> compilations.CompiledProgram:
    """Compiles, and prints what was found."""
    found = compilations.measure(program, len(run.found))
    assert found.memory is not None, f"{program.name} needs {found.needed / GIB:.2f} GiB"
    with capsys.disabled():
        print(
            f"\nLlama-2-7B {run.config.stage}, {program.name} on {V5E}: a chip needs "
            f"{found.needed / GIB:.2f} GiB, {found.memory.temporaries / GIB:.2f} of "
            f"them temporary; compiled in {found.seconds:.0f} s"
        )
    return found


@pytest.mark.parametrize("method", ["sft", "dpo", "reward"])
def test_llama_2_7b_lora_packed_2048_fits_v5e_4x4(method, devices, capsys):
    run = asked(
        method, LLAMA_2_7B, V5E, devices, (1, 16, 1), data__max_length=2048,
        train__batch_size=16, train__rows_per_microbatch=16, lora__rank=16,
        lora__targets=("all-linear",),
    )  # fmt: skip
    (program,) = programs(run)
    found = measure(run, program, capsys)
    assert found.needed < AVAILABLE
    assert program.arguments["parameters"] < 1.3 * WEIGHTS / 16
    # The compiler pads little, and gathers a layer's kernels forward and backward.
    assert found.memory.arguments == pytest.approx(sum(program.arguments.values()), rel=0.05)
    gathers = [one for one in found.exchanges if one.place.endswith("while")]
    assert {(one.kind, one.times) for one in gathers} == {("all-gather", 7 * 32)}
    assert sum(one.received for one in gathers) == pytest.approx(
        2 * 2 * formulas.kernel_weights(LLAMA_2_7B) * 15 / 16
    )
    assert found.memory.temporaries / 2 < program.temporaries < 2 * found.memory.temporaries


def test_llama_2_7b_decodes_on_v5e_4x4(devices, capsys):
    run = asked(
        "raft", LLAMA_2_7B, V5E, devices, (1, 4, 4), data__max_length=768, sample__lanes=64,
        sample__candidates=8, sample__max_new_tokens=256, sample__top_p=0.9,
        sample__chunk_steps=32,
    )  # fmt: skip
    for program in programs(run):
        found = measure(run, program, capsys)
        assert found.needed < AVAILABLE
        # Weights lie there once; adapters twice, for training goes on from theirs.
        assert found.memory.held == found.memory.parts["adapters in training"] < WEIGHTS / 16 / 10


def test_llama_2_7b_is_searched_for_suffixes_on_v5e_4x4(devices, capsys):
    """Slopes are compiled; candidates, two to a row as the TPU's kernel takes them, are lowered."""
    mesh = layouts.build(layouts.ModelSizes(1, 16, 1), devices)
    run = Execution.build(
        mesh, rules=LLAMA_2_7B.rules, compute_dtype=jnp.bfloat16, backend="splash", remat="none",
        verify=False,
    )  # fmt: skip
    weights = abstract.weights(llama.parameters(LLAMA_2_7B), mesh, jnp.bfloat16)
    model = Model(LLAMA_2_7B, run, weights, None, None)
    rows = layout.RowPlan(before=60, slots=20, behind=48, tails=1)
    suffix, counts = (
        abstract.replicated(mesh, n, dtype=t) for n, t in ((20, "int32"), (16, "float32"))
    )
    goals = abstract.tokens(mesh, (16,), rows.tokens)
    compiled = losses.slopes.lower(model, goals, suffix, counts, rows, 64).compile()
    memory = compiled.memory_analysis()
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    with capsys.disabled():
        print(
            f"\nLlama-2-7B, slopes of 16 requests of {rows.tokens} tokens on {V5E}: a chip needs "
            f"{needed / GIB:.2f} GiB"
        )
    assert needed < AVAILABLE
    two = rows._replace(tails=2)
    whole = meshes.sharding(mesh, (None,))
    row = Tokens(
        *(
            abstract.array((two.tokens,), t, whole)
            for t in ("int32", "int32", "int32", "bool", "int32")
        )
    )
    tried = abstract.array((32, 2, 20), "int32", meshes.sharding(mesh, ("rows", None, None)))
    assert losses.candidate_losses.lower(model, row, tried, two, 64).as_text()


@pytest.mark.parametrize(
    ("name", "shape"),
    [("v6e:16x16", (1, 128, 2)), ("v5p:4x4x4", (4, 2, 8)), ("v5e:1x1", (1, 1, 1))],
)
def test_axes_of_the_network_may_be_split(name, shape):
    found = layouts.devices(chips.parse_slice(name))
    assert tuple(layouts.build(layouts.ModelSizes(*shape), found).shape.values()) == shape


def test_a_program_that_is_too_large_says_how_much_it_needs(devices):
    """Four times the memory of a chip, in a function small enough to compile at once."""
    mesh = layouts.build(layouts.ModelSizes(16, 1, 1), devices)
    whole = jax.ShapeDtypeStruct(
        (round(AVAILABLE), 4), jnp.int8, sharding=meshes.sharding(mesh, (None, None))
    )
    program = compilations.Program(
        "too much", lambda: jax.jit(lambda x: x + 1).lower(whole), {}, {}, (1,),
        formulas.Load(0.0, 0.0, 0.0, 1), 0.0, {},
    )  # fmt: skip
    found = compilations.measure(program, 16)
    assert found.memory is None and found.needed >= 4 * AVAILABLE


DEBERTA_V3_LARGE = deberta.DebertaConfig(
    vocabulary_size=128_100, embedding_size=1024, width=1024, mlp_width=4096, layers=24, heads=16,
    activation="gelu", norm_epsilon=1e-7, max_positions=512, token_types=0,
    absolute_positions=False, relative=True, max_distance=512, buckets=256,
    content_to_position=True, position_to_content=True, shared_projections=True,
    normed_positions=True, convolution=None, pooler_activation="gelu", initializer_range=0.02,
)  # fmt: skip


@pytest.mark.parametrize("sizes", [(16, 1, 1), (2, 4, 2)])
def test_deberta_v3_large_scores_on_v5e_4x4(sizes, devices, capsys):
    mesh = layouts.build(layouts.ModelSizes(*sizes), devices)
    head = deberta_config.head(DEBERTA_V3_LARGE, 1)
    scorer = heads.Scorer("deberta", DEBERTA_V3_LARGE, head, ("reward",), None, 512, True)
    run = Execution.build(
        mesh, rules=attention.PLAIN, compute_dtype=jnp.bfloat16, backend="xla", remat="none"
    )
    weights = abstract.weights(heads.parameters(scorer), mesh, jnp.bfloat16)
    rows = meshes.sharding(mesh, ("rows", "tokens"))
    ids, mask = (abstract.array((64, 512), dtype, rows) for dtype in (jnp.int32, jnp.bool_))

    def step(weights, ids, mask):
        return heads.scores(scorer, weights, ids, jnp.zeros_like(ids), mask, run)

    compiled = jax.jit(step).lower(weights, ids, mask).compile()
    memory = compiled.memory_analysis()
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    with capsys.disabled():
        print(
            f"\nDeBERTa-v3-large scores 64 rows of 512 on v5e:4x4 as data x fsdp x tensor = "
            f"{sizes}: a chip needs {needed / 2**30:.2f} GiB"
        )
    assert needed < AVAILABLE


# Wide enough that a stack of one kernel is larger than any activation, cache or embedding.
SMALL = dataclasses.replace(
    LLAMA_2_7B, vocabulary_size=4096, width=1024, mlp_width=2816, layers=48, heads=8, kv_heads=8
)
FLOATS = re.compile(r"\b(?:bf16|f16|f32)\[([\d,]+)\]")


@pytest.mark.parametrize("base", ["int8", "nf4"])
@pytest.mark.parametrize("method", ["sft", "raft"])
def test_a_quantised_base_stays_in_its_codes(method, base, capsys):
    """No program, of training or of decoding, has a float array as large as a stack of one kernel
    over all layers: numbers are made inside the loop, of one layer at a time."""
    values = {
        "sft": {
            "data__max_length": 256, "train__batch_size": 2, "train__rows_per_microbatch": 2,
            "model__remat": "full",
        },
        "raft": {
            "data__max_length": 128, "sample__lanes": 4, "sample__candidates": 4,
            "sample__max_new_tokens": 64, "sample__chunk_steps": 8,
        },
    }  # fmt: skip
    run = asked(
        method, SMALL, "v5e:1x1", layouts.devices(chips.parse_slice("v5e:1x1")), (1, 1, 1),
        model__base=base, lora__rank=16, lora__targets=("all-linear",), **values[method],
    )  # fmt: skip
    in_float = 2 * formulas.kernel_weights(SMALL)
    for program in programs(run):
        compiled = program.lower().compile()
        memory = compilations.read_memory(program, compiled.memory_analysis())
        with capsys.disabled():
            print(
                f"\n{program.name} over a base in {base}, {in_float / GIB:.2f} GiB in bfloat16: "
                f"{memory.temporaries / GIB:.3f} GiB temporary"
            )
        text = compiled.as_text()
        floats = [math.prod(map(int, dims.split(","))) for dims in FLOATS.findall(text)]
        assert 0 < max(floats) < SMALL.layers * SMALL.width**2
        assert f"{'s8' if base == 'int8' else 'u8'}[{SMALL.layers}," in text
        # Less than the codes themselves: XLA does not lay them out anew before the loop.
        assert memory.temporaries < in_float * (8 if base == "int8" else 4) / 16
