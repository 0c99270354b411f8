"""Stage `sft`: instruction tuning, with safety demonstrations mixed in when the config asks."""

import functools

from safety_jax.stages import sft_task, training

run = functools.partial(training.run, make_task=sft_task.make_task)
