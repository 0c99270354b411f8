"""Training steps of LoRA runs, compiled from shapes alone: on eight CPU devices, or for a TPU
slice that is not there."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from safety_jax import mesh as meshes
from safety_jax import objectives, optim, policy, preferences, supervised, trees
from safety_jax import step as steps
from safety_jax.batch import Preferences, Tokens
from safety_jax.models import llama, lora, peft


def array(shape, dtype, sharding):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def tokens(mesh: Mesh, rows: tuple[int, ...], T: int) -> Tokens:
    """One microbatch [1, *rows, T]."""
    sharding = NamedSharding(mesh, PartitionSpec(None, *meshes.spec(("rows",))))
    integers = array((1, *rows, T), jnp.int32, sharding)
    return Tokens(integers, integers, integers, array((1, *rows, T), jnp.bool_, sharding))


def pairs(mesh: Mesh, rows: int, T: int, segments: int) -> Preferences:
    """One microbatch of double rows [1, rows, 2, T] with at most `segments` pairs each."""
    both = tokens(mesh, (rows, 2), T)
    where = both.ids.sharding
    return Preferences(
        tokens=both,
        reference=array(both.ids.shape, jnp.float32, where),
        slots=array((1, rows, segments), jnp.int32, where),
        unsafe=array((1, rows, segments, 2), jnp.float32, where),
    )


class Run:
    """LoRA on every projection of a model, with abstract weights on the mesh of `run`."""

    def __init__(self, config: llama.Config, run: llama.Execution, *, rank: int, chunk: int):
        adapter = peft.Settings(
            rank=rank, alpha=16.0, dropout=0.05, targets=lora.targets(("all-linear",)),
            rslora=False, base_name="", dtype="float32",
        )  # fmt: skip
        declared = llama.parameters(config)
        self.mesh = run.mesh
        self.policy = policy.Policy(config, run, Path("nowhere"), adapter, chunk)
        self.base = trees.unflatten(
            {
                name: array(p.shape, run.compute_dtype, meshes.sharding(run.mesh, p.axes))
                for name, p in declared.items()
            }
        )
        self.adapters = trees.unflatten(
            {
                name: array(shape, jnp.float32, meshes.sharding(run.mesh, axes))
                for name, (shape, axes) in lora.shapes(declared, adapter.targets, rank).items()
            }
        )

    def sft(self, rows: int, T: int):
        """Stage `sft`'s step on packed rows [1, rows, T]."""
        loss = supervised.make_loss(self.policy)
        return self._compile(self.base, tokens(self.mesh, (rows,), T), loss, steps.trained_tokens)

    def dpo(self, rows: int, T: int, segments: int):
        """Stage `dpo`'s step on packed double rows, the reference known."""
        loss = preferences.make_loss(
            self.policy,
            functools.partial(objectives.dpo, beta=0.1),
            nll_weight=0.0,
            live=False,
            batch_size=rows * segments,
        )
        batch = pairs(self.mesh, rows, T, segments)
        return self._compile(preferences.Frozen(self.base, None), batch, loss, preferences.count)

    def _compile(self, frozen, batch, loss, count):
        rate = optim.schedule("cosine", learning_rate=1e-4, warmup_steps=10, total_steps=100)
        optimizer = optim.adamw(
            rate, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.0, clip_norm=1.0
        )
        where = steps.shardings(self.adapters, self.policy.shardings(), optimizer, self.mesh)
        shapes = steps.State(
            jax.ShapeDtypeStruct((), jnp.int32),
            self.adapters,
            jax.eval_shape(optimizer.init, self.adapters),
            jax.ShapeDtypeStruct((2,), jnp.uint32),
        )
        state = jax.tree.map(lambda x, s: array(x.shape, x.dtype, s), shapes, where)
        used = array((), jnp.int32, meshes.sharding(self.mesh, ()))
        step = steps.make(loss, count, optimizer, rate, where)
        return step.lower(state, frozen, batch, used).compile()
