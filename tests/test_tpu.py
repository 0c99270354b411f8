"""The training step compiles for TPU slices, from abstract weights, on a machine without TPUs."""

import math

import abstract_steps
import collectives
import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies

from safety_jax import mesh as meshes
from safety_jax import trees
from safety_jax.models import (
    attention,
    chunk,
    deberta,
    deberta_config,
    heads,
    llama,
    sampling,
    session,
)
from safety_jax.models import cache as caches

pytestmark = pytest.mark.plan

LLAMA_2_7B = llama.Config(
    vocabulary_size=32_000, width=4096, mlp_width=11_008, layers=32, heads=32, kv_heads=32,
    head_size=128, norm_epsilon=1e-5, rope=llama.Rope(1e4, "default", 1.0, 1.0, 4.0, 4096),
    tied_embeddings=False, query_key_value_bias=False, output_bias=False, mlp_bias=False,
    query_key_norm=False, activation="silu", scaled_embeddings=False, norm_plus_one=False,
    window=None, max_positions=4096, initializer_range=0.02,
)  # fmt: skip
HBM_BYTES = {"v5e:4x4": 16 * 2**30}


def abstract(shape, dtype, sharding):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def build_mesh(topology: str, sizes: tuple[int, int, int]):
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    return meshes.build(*sizes, devices=list(devices))


def compile_step(method: str, config, topology: str, sizes: tuple[int, int, int]):
    """A LoRA step on 16 rows of 2,048 tokens, or 8 double rows; compiled for a named slice."""
    mesh = build_mesh(topology, sizes)
    backend = attention.build("auto", mesh, config.window, jnp.bfloat16, verify=False)
    execution = llama.Execution(mesh, jnp.bfloat16, backend, "full")
    run = abstract_steps.Run(config, execution, rank=8, chunk=128)
    if method == "sft":
        return run.sft(rows=16, T=2048)
    return run.dpo(rows=16, T=2048, segments=16)


@pytest.mark.parametrize("sizes", [(1, 16, 1)])
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_llama_2_7b_lora_packed_2048_fits_v5e_4x4(method, sizes, capsys):
    compiled = compile_step(method, LLAMA_2_7B, "v5e:4x4", sizes)
    memory = compiled.memory_analysis()
    # Arguments are donated into outputs, so the peak is arguments and temporaries.
    arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    found = collectives.count(collectives.read(compiled.as_text()))
    with capsys.disabled():
        print(
            f"\nLlama-2-7B {method} LoRA r8 on v5e:4x4 as data x fsdp x tensor = {sizes}, 16 rows "
            f"of 2048: a chip needs {arguments / 2**30:.2f} GiB arguments, "
            f"{temporary / 2**30:.2f} temporary; {found}"
        )
    weights = 2 * sum(math.prod(p.shape) for p in llama.parameters(LLAMA_2_7B).values())
    assert arguments < 1.3 * weights / 16 * (16 / (sizes[1] * sizes[2]))
    assert arguments + temporary < HBM_BYTES["v5e:4x4"]


def decode_programs(config, sizes: tuple[int, int, int], shape: caches.Sizes, C: int):
    """Prefill of 16 prompts, and a chunk of 32 steps, of sampling on v5e:4x4."""
    mesh = build_mesh("v5e:4x4", sizes)
    backend = attention.build("auto", mesh, config.window, jnp.bfloat16, verify=False)
    run = llama.Execution(mesh, jnp.bfloat16, backend, "none")
    base = {
        name: abstract(p.shape, jnp.bfloat16, meshes.sharding(mesh, p.axes))
        for name, p in llama.parameters(config).items()
    }
    weights = trees.unflatten(base)
    cache = jax.tree.map(
        lambda x: abstract(x.shape, x.dtype, meshes.sharding(mesh, caches.AXES)),
        jax.eval_shape(lambda: caches.zeros(config, shape, jnp.bfloat16)),
    )

    def host(*size: int, dtype=jnp.int32):
        return abstract(size, dtype, meshes.sharding(mesh, (None,) * len(size)))

    prefill = chunk.read_prompts.lower(
        config, run, weights, None, cache, host(16, shape.prompt_tokens), host(16), host(16)
    ).compile()
    unroll = session.unroll.lower(weights, None).compile()
    unrolled = jax.tree.map(
        lambda x, where: abstract(x.shape, x.dtype, where),
        jax.eval_shape(session.unroll, weights, None),
        unroll.output_shardings,
    )
    R, P = shape.lanes, shape.prompts
    lanes = chunk.Lanes(host(R), host(R), host(R, dtype=jnp.bool_))
    seed, names = host(2, dtype=jnp.uint32), host(R, 2, dtype=jnp.uint32)
    seats = caches.Seats(host(R), host(R), host(P, C), host(P))
    settings = sampling.Settings(
        temperature=1.0, top_k=0, top_p=0.9, frequency_penalty=0.0, beams=1, length_penalty=1.0,
        candidates=C, max_new_tokens=256,
    )  # fmt: skip
    write = chunk.write_tokens.lower(
        config, run, settings, (2,), 32, unrolled, cache, host(R, 0), lanes, seats,
        seed, names, host(), host(), host(),
    ).compile()  # fmt: skip
    return prefill, write


@pytest.mark.parametrize("sizes", [(1, 4, 4)])
def test_llama_2_7b_decodes_on_v5e_4x4(sizes, capsys):
    shape = caches.Sizes(lanes=64, prompts=24, prompt_tokens=512, own_tokens=256)
    for name, program in zip(
        ("reads 16 prompts of 512", "writes 32 tokens in 64 lanes"),
        decode_programs(LLAMA_2_7B, sizes, shape, C=8),
        strict=True,
    ):
        memory = program.memory_analysis()
        arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
        with capsys.disabled():
            print(
                f"\nLlama-2-7B {name} on v5e:4x4 as data x fsdp x tensor = {sizes}: a chip needs "
                f"{arguments / 2**30:.2f} GiB arguments, {temporary / 2**30:.2f} temporary"
            )
        # Prompts are read from stacked weights, tokens written with unrolled ones: both are held.
        held = 2 * sum(math.prod(p.shape) for p in llama.parameters(LLAMA_2_7B).values()) / 16
        assert arguments + temporary + held < HBM_BYTES["v5e:4x4"]
        # Donated caches become outputs, so nothing of their size is allocated beside them.
        assert memory.alias_size_in_bytes >= 0.9 * cache_bytes(LLAMA_2_7B, shape) / 16


def cache_bytes(config, shape: caches.Sizes) -> int:
    tokens = shape.prompts * shape.prompt_tokens + shape.lanes * shape.own_tokens
    return 2 * 2 * config.layers * config.kv_heads * config.head_size * tokens


DEBERTA_V3_LARGE = deberta.Config(
    vocabulary_size=128_100, embedding_size=1024, width=1024, mlp_width=4096, layers=24, heads=16,
    activation="gelu", norm_epsilon=1e-7, max_positions=512, token_types=0,
    absolute_positions=False, relative=True, max_distance=512, buckets=256,
    content_to_position=True, position_to_content=True, shared_projections=True,
    normed_positions=True, convolution=None, pooler_activation="gelu", initializer_range=0.02,
)  # fmt: skip


@pytest.mark.parametrize("sizes", [(16, 1, 1), (2, 4, 2)])
def test_deberta_v3_large_scores_on_v5e_4x4(sizes, capsys):
    mesh = build_mesh("v5e:4x4", sizes)
    head = deberta_config.head(DEBERTA_V3_LARGE, 1)
    scorer = heads.Scorer("deberta", DEBERTA_V3_LARGE, head, ("reward",), None, 512, True)
    backend = attention.build("xla", mesh, None, jnp.bfloat16)
    run = llama.Execution(mesh, jnp.bfloat16, backend, "none")
    weights = {
        name: abstract(p.shape, jnp.bfloat16, meshes.sharding(mesh, p.axes))
        for name, p in heads.parameters(scorer).items()
    }
    rows = meshes.sharding(mesh, ("rows", "tokens"))
    ids, mask = (abstract((64, 512), dtype, rows) for dtype in (jnp.int32, jnp.bool_))

    def step(weights, ids, mask):
        return heads.scores(scorer, weights, ids, jnp.zeros_like(ids), mask, run)

    compiled = jax.jit(step).lower(trees.unflatten(weights), ids, mask).compile()
    memory = compiled.memory_analysis()
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    with capsys.disabled():
        print(
            f"\nDeBERTa-v3-large scores 64 rows of 512 on v5e:4x4 as data x fsdp x tensor = "
            f"{sizes}: a chip needs {needed / 2**30:.2f} GiB"
        )
    assert needed < HBM_BYTES["v5e:4x4"]
