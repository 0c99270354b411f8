"""Learning-rate schedules and AdamW, from explicit numbers.

The schedules equal Hugging Face's step for step, so a recipe written for its trainer means the same
here: the first of `warmup_steps` has rate 0, the last step of the run a rate just above 0.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from safety_jax.base import trees
from safety_jax.base.errors import ConfigError

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]


def constant(progress):
    """Stays at 1."""
    return jnp.ones_like(progress)


def linear(progress):
    """Falls linearly to 0."""
    return 1 - progress


def cosine(progress):
    """Falls along half a cosine to 0."""
    return 0.5 * (1 + jnp.cos(jnp.pi * progress))


SCHEDULES = {"constant": constant, "linear": linear, "cosine": cosine}


def schedule(name: str, *, learning_rate: float, warmup_steps: int, total_steps: int) -> Schedule:
    """The learning rate as a function of the number of steps already taken.

    Rises linearly from 0 over `warmup_steps`, then follows the named shape to `total_steps`.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in SCHEDULES:
        raise ConfigError(f"optim.schedule {name!r}: expected one of {', '.join(SCHEDULES)}")
    fall = SCHEDULES[name]

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        rising = step / max(1, warmup_steps)
        factor = jnp.where(step < warmup_steps, rising, fall(jnp.clip(progress, 0.0, 1.0)))
        return learning_rate * factor

    return rate


def adamw(
    rate: Schedule,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    clip_norm: float,
) -> optax.GradientTransformation:
    """Clipping by global norm (0: none), then AdamW with decoupled decay (arXiv 1711.05101).

    Norm scales and biases do not decay.
    """
    optimizer = optax.adamw(
        rate, b1=beta1, b2=beta2, eps=epsilon, weight_decay=weight_decay, mask=decays
    )
    if clip_norm == 0:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)


def decays(trainable: trees.Tree) -> trees.Tree:
    """True for matrices; False for norm scales and biases."""
    exempt = ("norm", "norm.scale", "bias")  # of LLaMA, and of ports with a layer norm
    return trees.map_named(lambda name, _: not name.endswith(exempt), trainable)


@dataclasses.dataclass(frozen=True)
class Optimization:
    """The numbers of `schedule` and `adamw`."""

    learning_rate: float
    schedule: str
    warmup_steps: int
    weight_decay: float
    beta1: float
    beta2: float
    epsilon: float
    clip_norm: float

    def remark(self, total_steps: int) -> str | None:
        """A warning about a warm-up of more than half of the run; else None.

        The last step of a warm-up of `w` steps has `(w - 1) / w` of the full rate.
        """
        warm, left = self.warmup_steps, total_steps - self.warmup_steps
        if left >= warm or not warm:
            return None
        highest = self.learning_rate * (total_steps - 1) / warm
        comes_to = f"rises to {highest:g} at most" if highest else "is 0 in every step"
        short = (
            f"only {left} of them {'is' if left == 1 else 'are'} left behind it"
            if left > 0
            else f"the learning rate {comes_to}, not to optim.learning_rate {self.learning_rate:g}"
        )
        return (
            f"optim.warmup_steps is {warm}, and the run has {total_steps}: {short}; lower "
            "optim.warmup_steps, or train longer"
        )

    def make(self, total_steps: int) -> tuple[Schedule, optax.GradientTransformation]:
        """The learning rate over a run of `total_steps`, and the optimizer that follows it."""
        rate = schedule(
            self.schedule,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps,
            total_steps=total_steps,
        )
        return rate, self.follow(rate)

    def follow(self, rate: Schedule) -> optax.GradientTransformation:
        """The optimizer with this learning rate."""
        return adamw(
            rate,
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.epsilon,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
        )
