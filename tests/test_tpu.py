"""Training steps compile for TPU slices, from abstract weights, on a machine without TPUs."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from safety_jax import mesh as meshes
from safety_jax import objectives, optim, policy, preferences, trees
from safety_jax import step as steps
from safety_jax.batch import Preferences, Tokens
from safety_jax.models import attention, llama, lora, peft
from safety_jax.stages import sft

pytestmark = pytest.mark.plan

LLAMA_2_7B = llama.Config(
    vocabulary_size=32_000, width=4096, mlp_width=11_008, layers=32, heads=32, kv_heads=32,
    head_size=128, norm_epsilon=1e-5, rope=llama.Rope(1e4, "default", 1.0, 1.0, 4.0, 4096),
    tied_embeddings=False, query_key_value_bias=False, output_bias=False, mlp_bias=False,
    query_key_norm=False, window=None, max_positions=4096, initializer_range=0.02,
)  # fmt: skip
ADAPTER = peft.Settings(
    rank=8, alpha=16.0, dropout=0.05, targets=lora.targets(("all-linear",)), rslora=False,
    base_name="", dtype="float32",
)  # fmt: skip
HBM_BYTES = {"v5e:4x4": 16 * 2**30}
SIZES = (1, 16, 1)  # data x fsdp x tensor
SEGMENTS = 16  # most pairs of a row


def abstract(shape, dtype, sharding):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def abstract_tokens(mesh, rows: tuple[int, ...], T: int) -> Tokens:
    """One microbatch [1, *rows, T]."""
    sharding = NamedSharding(mesh, PartitionSpec(None, *meshes.spec(("rows",))))
    integers = abstract((1, *rows, T), jnp.int32, sharding)
    return Tokens(integers, integers, integers, abstract((1, *rows, T), jnp.bool_, sharding))


def abstract_pairs(mesh, rows: int, T: int) -> Preferences:
    tokens = abstract_tokens(mesh, (rows, 2), T)
    where = tokens.ids.sharding
    return Preferences(
        tokens=tokens,
        reference=abstract(tokens.ids.shape, jnp.float32, where),
        slots=abstract((1, rows, SEGMENTS), jnp.int32, where),
        unsafe=abstract((1, rows, SEGMENTS, 2), jnp.float32, where),
    )


def abstract_policy(config, mesh):
    """A LoRA policy with its abstract trainable and frozen tree."""
    backend = attention.build("auto", mesh, config.window, jnp.bfloat16, verify=False)
    run = llama.Execution(mesh, jnp.bfloat16, backend, "full")
    declared = llama.parameters(config)
    base = {
        name: abstract(p.shape, jnp.bfloat16, meshes.sharding(mesh, p.axes))
        for name, p in declared.items()
    }
    leaves = {
        name: abstract(shape, jnp.float32, meshes.sharding(mesh, axes))
        for name, (shape, axes) in lora.shapes(declared, ADAPTER.targets, ADAPTER.rank).items()
    }
    trained = policy.Policy(config, run, Path("nowhere"), ADAPTER, chunk_tokens=128)
    return trained, trees.unflatten(leaves), trees.unflatten(base)


def compile_step(trained, trainable, frozen, batch, loss, count):
    mesh = trained.run.mesh
    rate = optim.schedule("cosine", learning_rate=1e-4, warmup_steps=10, total_steps=100)
    optimizer = optim.adamw(
        rate, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.0, clip_norm=1.0
    )
    where = steps.shardings(trainable, trained.shardings(), optimizer, mesh)
    moments = jax.eval_shape(optimizer.init, trainable)
    shapes = steps.State(
        jax.ShapeDtypeStruct((), jnp.int32),
        trainable,
        moments,
        jax.ShapeDtypeStruct((2,), jnp.uint32),
    )
    state = jax.tree.map(lambda x, s: abstract(x.shape, x.dtype, s), shapes, where)
    used = abstract((), jnp.int32, meshes.sharding(mesh, ()))
    step = steps.make(loss, count, optimizer, rate, where)
    return step.lower(state, frozen, batch, used).compile()


@functools.cache
def slice_mesh(topology: str, sizes: tuple[int, int, int]):
    devices = list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    return meshes.build(*sizes, devices=devices)


@functools.cache
def sft_step(sizes: tuple[int, int, int], rows: int, T: int):
    """The LoRA step of stage `sft` with packed rows [1, rows, T]."""
    mesh = slice_mesh("v5e:4x4", sizes)
    trained, trainable, base = abstract_policy(LLAMA_2_7B, mesh)
    batch = abstract_tokens(mesh, (rows,), T)
    loss = sft.make_loss(trained)
    return compile_step(trained, trainable, base, batch, loss, steps.trained_tokens)


@functools.cache
def dpo_step(sizes: tuple[int, int, int], rows: int, T: int):
    """The LoRA step of stage `dpo`, reference cached, with packed double rows [1, rows, 2, T]."""
    mesh = slice_mesh("v5e:4x4", sizes)
    trained, trainable, base = abstract_policy(LLAMA_2_7B, mesh)
    objective = functools.partial(objectives.dpo, beta=0.1)
    loss = preferences.make_loss(
        trained, objective, nll_weight=0.0, live=False, batch_size=rows * SEGMENTS
    )
    frozen = preferences.Frozen(base, None)
    batch = abstract_pairs(mesh, rows, T)
    return compile_step(trained, trainable, frozen, batch, loss, preferences.count)
