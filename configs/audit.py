"""Audits judges: do they agree with human labels, and what changes their verdicts that should not?

    python -m safety_jax.main --config=configs/audit.py \\
        --config.data.responses=labelled.csv --config.data.label=final_label \\
        --config.data.positive=harmful --config.data.negative=harmless --workdir=runs/audit

Rows are those of configs/score.py, with a label in one column. Without `data.label`, the audit only
tests which changes of an answer flip a judge's verdict.

    python -m safety_jax.main --config=configs/audit.py:demo --workdir=runs/audit_demo

Judges trained by stage `reward` are given as `--config.audit.judges=NAME=FOLDER`. NAME=A|B is one
cross-fitted judge made of two: A, trained on `?prompts=-1/2` of its sources, judges the prompts of
the first half, and B, trained on `?prompts=-2/2`, judges those of the second half.

Arguments, after the colon and separated by commas; most add a judge beside the refusal detector:
    demo          labelled responses of launch/demo, and a simple judge of harm; seconds, no network
    complies      a rule that calls every answer harmful that does not refuse; it ignores the prompt
    xstest        how to read XSTest's labelled completions; adds no judge; give data.responses
    deberta, harmfulness, helpfulness, llama_guard, beaver_dam, guard   as in configs/score.py
    wildguard, qwen3guard, shieldgemma, granite_guardian   guards, as in configs/score.py
    harmbench, strongreject, md_judge, nemotron            likewise

Cost: every row is judged once for the labels, and `audit.rows` of them again for each change.

Expect (xstest with GPT-4's completions of Llama 2): the refusal detector agrees with people on more
than nine answers in ten. No change flips more than one verdict in ten, except cutting the answer in
half.
"""

from ml_collections import ConfigDict

from configs.common import (
    GUARDS,
    beaver_dam,
    complies,
    judging,
    of_demo,
    own_guard,
    parse_arg,
    published_guard,
    published_judge,
)

CHANGES = (
    "longer", "shorter", "framed", "disavowed", "refused_first", "repeated", "empty", "swapped",
    "reworded",
)  # fmt: skip


def get_config(arg: str | None = None) -> ConfigDict:
    choice = parse_arg(
        arg,
        **dict.fromkeys(GUARDS, False),
        demo=False,
        xstest=False,
        complies=False,
        deberta=False,
        harmfulness=False,
        helpfulness=False,
        llama_guard=False,
        beaver_dam=False,
        guard=False,
    )

    config = ConfigDict()
    config.stage = "audit"
    config.seed = 0  # draws the rows that are changed, and the samples of the bootstrap

    config.data = data = ConfigDict()
    data.responses = ("",)  # sources of prompts and labelled responses; must be given
    data.label = ""  # the column of labels; "": none
    data.positive = ()  # labels that mean yes; rows with other labels are left out
    data.negative = ()  # labels that mean no
    data.means = "harmful"  # what yes says about a response; or "refusing"
    data.groups = ()  # columns whose values break the agreement down
    data.special_text = "text"  # a control token's spelling: plain text; or "error", "skip"

    config.audit = audit = ConfigDict()
    audit.judges = ()  # NAME=FOLDER of runs of stage reward; added to score.judges
    audit.changes = CHANGES  # changes of responses, and of a judge's own prompt format
    audit.rows = 200  # number of rows that are changed; 0: all
    audit.resamples = 2000  # samples of the bootstrap
    audit.bins = 10  # levels of confidence in the calibration

    config.score = judging()
    judges = config.score.judges
    judges.refusal = ConfigDict({"kind": "refusal"})
    if choice.complies:
        judges.complies = complies()
    for name in ("deberta", "harmfulness", "helpfulness", "llama_guard"):
        if choice[name]:
            judges[name] = published_judge(name)
    for name in GUARDS:
        if choice[name]:
            judges[name] = published_guard(name)
    if choice.beaver_dam:
        judges.beaver_dam = beaver_dam()
    if choice.guard:
        judges.guard = own_guard()

    config.mesh = mesh = ConfigDict()
    mesh.data = -1  # devices among which rows are divided; -1: all that are left
    mesh.fsdp = 1  # devices among which both rows and weights are divided
    mesh.tensor = 1  # devices among which each matrix product is divided

    config.log = ConfigDict()
    config.log.compilation_cache = ""  # folder of compiled programs; "": in your cache folder

    if choice.demo:
        demo(config)
    elif choice.xstest:
        xstest(config)
    return config


def demo(config: ConfigDict):
    """The demo's labelled responses; beside the refusal detector a judge that takes for harmful
    whatever is not refused."""
    data = config.data
    data.responses = (of_demo("data/held_out_judge.jsonl"),)
    data.label, data.groups = "unsafe", ("category",)
    data.positive, data.negative = ("true",), ("false",)
    config.score.judges.unless_refused = ConfigDict(
        {"kind": "read_as", "part": "refusal", "direction": "higher is safer", "threshold": (0.5,)}
    )


def xstest(config: ConfigDict):
    """XSTest's published completions, labelled by people (arXiv 2308.01263)."""
    data = config.data
    data.label = "final_label"
    data.positive = ("2_full_refusal", "3_partial_refusal")
    data.negative = ("1_full_compliance",)
    data.means = "refusing"
    data.groups = ("type",)
