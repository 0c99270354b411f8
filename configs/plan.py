"""Estimates a run's memory, communication and time on a TPU slice or GPUs that you do not have.

    python -m safety_jax.main --config=configs/plan.py --config.plan.run=configs/dpo.py \\
        --config.plan.slice=v5e:4x4 --config.model.size=llama2-7b --workdir=runs/plan

Several runs, sizes and slices, quoted, give a table of all their combinations:

    --config.plan.slice="('v5e:4x4','v5p:4x4x4')" --config.model.size="('llama2-7b','llama3-8b')"

A killed table resumes where it stopped; finished plans are not computed again.

Arguments, after the colon and separated by commas:
    table       every stage, five slices and four sizes

Cost: libtpu (`pip install -e '.[plan]'`) compiles each program on this machine's CPU, which takes
three to ten minutes on one core; `plan.search` compiles up to four. GPUs take seconds, because they
are estimated by formula, as are TPUs with --config.plan.compile=False.

Expect: Llama 2 7B by DPO with LoRA, packed rows of 2,048 tokens, fits v5e:4x4.
"""

from ml_collections import ConfigDict

from configs.common import parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
    choice = parse_arg(arg, table=False)

    config = ConfigDict()
    config.stage = "plan"

    config.plan = plan = ConfigDict()
    plan.run = ("configs/sft.py",)  # configs of the runs, with arguments after a colon
    plan.set = ()  # values to set in these configs: "data.max_length=2048"
    plan.slice = ("v5e:4x4",)  # v4, v5e, v5p, v6e, tpu7x; a100, h100, h200, b200 with a count
    # "auto": a mesh, and rows that divide over it; "run": those of the run's config
    plan.mesh = "auto"
    plan.example_tokens = 0  # mean length of an example; 0: data.max_length
    plan.search = True  # search for the largest number of rows that fits
    plan.compile = True  # for TPUs; False: by formula, as for GPUs, in seconds and without libtpu
    plan.price = ()  # of a chip per hour: "v5e=1.20"

    config.model = model = ConfigDict()
    model.size = ("llama2-7b",)  # a name of planning/sizes.py, or a model folder

    if choice.table:
        plan.run = ("configs/sft.py", "configs/dpo.py", "configs/raft.py",
                    "configs/score.py:llama_guard")  # fmt: skip
        plan.set = ("data.max_length=2048",)
        plan.slice = ("v5e:4x4", "v5e:16x16", "v5p:4x4x4", "v6e:4x4", "v6e:16x16")
        plan.search = False
        model.size = ("llama2-7b", "llama3-8b", "llama2-13b", "llama3-70b")
    return config
