"""Stage `dpo`: preference optimisation, by DPO or one of its relatives."""

import functools

from safety_jax.stages import dpo_task, training

run = functools.partial(training.run, make_task=dpo_task.make_task)
