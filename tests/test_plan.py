"""Stage plan: what compiled programs say, choices of meshes and rows, and what the user reads."""

import importlib
import json
import re
import sys

import jax
import pytest

from safety_jax.base.errors import ConfigError, DataError
from safety_jax.planning import chips, collectives, formulas, layouts, sizes, table
from safety_jax.planning import programs as compilations
from safety_jax.stages import plan, planned

# ---------------------------------------------------------------------------- reading programs

PROGRAM = """\
HloModule step

%layer.body (x: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %all-gather.1 = bf16[8,16]{1,0:T(8,128)(2,1)} all-gather(%x), channel_id=3, replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={1}
  %all-reduce.2 = (f32[5]{0}, f32[3]{0}) all-reduce(%y, %z), channel_id=4, replica_groups=[2,4]<=[8], to_apply=%add
}

%layer.condition (x: (s32[], bf16[8,4])) -> pred[] {
  %constant.7 = s32[]{:T(128)} constant(32)
  %counter = s32[]{:T(128)} get-tuple-element(%x), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%counter, %constant.7), direction=LT
}

%rows.body (x: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %while.2 = (s32[], bf16[8,4]) while(%x), condition=%layer.condition, body=%layer.body, metadata={op_name="jit(step)/while/body/jvp()/while"}
}

%rows.condition (x: (s32[], bf16[8,4])) -> pred[] {
  ROOT %lt.2 = pred[]{:T(512)} compare(%i, %used), direction=LT
}

ENTRY %main (x: bf16[8,4]) -> bf16[8,4] {
  %while.1 = (s32[], bf16[8,4]) while(%x), condition=%rows.condition, body=%rows.body, metadata={op_name="jit(step)/while"}
  %all-gather-start.5 = (bf16[2,2]{1,0}, bf16[4,2]{1,0}) all-gather-start(%x), channel_id=5, replica_groups={{0,1},{2,3}}, dimensions={0}
  %permute = bf16[4]{0} collective-permute(%x), channel_id=6, source_target_pairs={{0,1},{1,0}}
}
"""  # noqa: E501


def test_exchanges_are_read_with_their_groups_bytes_and_trips():
    found = {one.kind: one for one in collectives.read(PROGRAM, 8) if one.loops}
    gathered, reduced = found["all-gather"], found["all-reduce"]
    assert (gathered.group, gathered.size) == (4, 8 * 16 * 2)
    assert (reduced.group, reduced.size) == (4, 8 * 4)
    assert [loop.trips for loop in gathered.loops] == [None, 32]
    assert gathered.place == "while/body/jvp()/while"
    assert gathered.times((3,)) == 96 and gathered.received() == 256 * 3 / 4
    assert reduced.received() == 2 * 32 * 3 / 4
    once = {one.kind: one for one in collectives.read(PROGRAM, 8) if not one.loops}
    assert (once["all-gather"].group, once["all-gather"].size) == (2, 16)
    assert once["collective-permute"].received() == 8
    totals = collectives.totals(collectives.read(PROGRAM, 8), (3,))
    assert totals[0] == ("all-gather", "while/body/jvp()/while", 4, 96, 96 * 192.0)


@pytest.mark.parametrize(
    ("groups", "devices"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", 4),
        ("[4,2]<=[8]", 2),
        ("mesh['a'=2,'b'=4] {'b'}", 4),
        ("mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'b'}", 4),
        ("mesh['a'=2,'b'=4], device_ids=(7,6,5,4,3,2,1,0) {'a'}", 2),
        ("mesh['a'=8] {'a':(2)4}", 4),
        ("{}", 8),
    ],
)
def test_groups_of_an_exchange(groups, devices):
    line = f"  %x = f32[4] all-reduce(%y), channel_id=1, replica_groups={groups}, to_apply=%add"
    (found,) = collectives.read("ENTRY %main (y: f32[4]) -> f32[4] {\n" + line, 8)
    assert found.group == devices


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        ("RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
         "required for HLO temporaries (24.31G) exceeds available HBM (15.75G).", 24.31),
        ("Ran out of memory in memory space hbm. Used 66.00G of 15.75G hbm. Exceeded by", 66.0),
        ("the total memory (1.50T) exceeds available HBM (31.24G)", 1536.0),
        ("INTERNAL: Mosaic failed to compile", None),
    ],
)  # fmt: skip
def test_what_the_compiler_says_of_a_program_too_large(message, gib):
    assert compilations.too_large(message) == (None if gib is None else gib * 2**30)


def test_a_program_that_jax_cannot_print_has_no_exchanges():
    """As of libtpu 0.0.51, whose asynchronous collectives jax 0.10.2 does not know all."""

    class Compiled:
        def as_text(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")

    assert compilations.read_exchanges(Compiled(), 8, (1,)) is None


# ---------------------------------------------------------------------------- choices


def test_meshes_give_every_device_a_row_and_hold_weights_whole_where_they_fit():
    model = sizes.read("llama3-70b")
    state, room = 2.0 * formulas.all_weights(model), 31.24 * 2**30
    # 64 rows on 256 devices: four devices a row; 141 GB do not lie on one device.
    assert layouts.for_rows(model, 256, 64, state, room) == (1, 64, 4)
    small = sizes.read("llama2-7b")
    assert layouts.for_rows(small, 64, 128, 13.5e9, 95.73 * 2**30) == (64, 1, 1)
    assert layouts.for_rows(small, 16, 128, 13.5e9, 15.75 * 2**30) == (1, 16, 1)


def test_decoders_divide_kernels_until_adding_up_costs_more_than_reading():
    """A v5e reads 819 GB/s, and receives 50 from 3 others or 100 from 15: 13.5 GB in 4, 8 or 16
    parts take 4.1, 2.1 or 1.0 ms to read; to add up products of 256 lanes, 1.0, 1.2 or 2.5, and 0.3
    to 0.8 for sums to go round."""
    small, large = sizes.read("llama2-7b"), sizes.read("llama3-70b")
    v5e, v6e = chips.parse_slice("v5e:4x4"), chips.parse_slice("v6e:4x4")
    held = {"weights": 13.5e9, "caches": 52e9}
    assert layouts.for_decoding(small, v5e, 256, **held) == (2, 1, 8)
    assert layouts.for_decoding(small, v5e, 32, **held) == (1, 1, 16)
    # Eight key heads are the end of `tensor`; beyond, `fsdp` divides products as well.
    held = {"weights": 141e9, "caches": 32e9}
    assert layouts.for_decoding(large, v6e, 256, **held) == (1, 2, 8)


def tried(**needed):
    return {int(rows[1:]): {"needed": float(m), "fits": m <= 100} for rows, m in needed.items()}


@pytest.mark.parametrize(
    ("tries", "expected"),
    [
        (tried(r16=20), 256),  # all of the step's rows
        (tried(r16=20, r256=340), 64),  # 4/3 a row more than 20 reaches 100 at row 76
        (tried(r16=20, r256=90), None),  # all fit
        (tried(r16=120), None),  # not even one a device
        (tried(r64=120), 32),
        (tried(r32=90, r48=110), None),  # neighbours
    ],
)
def test_the_search_follows_a_straight_line(tries, expected):
    choice = planned.ProgramChoice(layouts.ModelSizes(1, 16, 1), 16, 256, 16, free=True)
    assert plan.next_rows(choice, tries, 100.0) == expected


# ---------------------------------------------------------------------------- the stage

COMMAND = ("--config.plan.slice=h100:8", "--config.model.size=llama2-7b")


def start(arguments, tmp_path):
    """What main makes of these flags."""
    config = importlib.import_module("configs.plan").get_config()
    flat = {}
    for argument in arguments:
        key, _, value = argument.removeprefix("--config.").partition("=")
        flat[key] = tuple(value.split("|")) if isinstance(
            config.plan.get(key.removeprefix("plan."), ()), tuple) else value  # fmt: skip
    config.update_from_flattened_dict(flat)
    plan.run(config.lock(), str(tmp_path))
    return json.loads((tmp_path / "plan.json").read_text())["plans"]


def test_gpus_are_planned_by_formula_and_kept(tmp_path, capsys):
    runs = "configs/sft.py|configs/dpo.py|configs/raft.py|configs/score.py:llama_guard"
    arguments = (
        f"--config.plan.run={runs}",
        "--config.plan.slice=h100:8|h200:8",
        "--config.model.size=llama2-7b|llama3-70b",
        "--config.plan.price=h100=2",
    )
    plans = start(arguments, tmp_path)
    assert len(plans) == 16 and all(one["formula"] for one in plans)
    by_name = {(one["run"], one["model"], one["slice"]): one for one in plans}
    small = by_name["sft", "llama2-7b", "h100:8"]
    # 13.5 GB of weights lie whole on each: nothing is gathered, and all rows are one microbatch.
    assert small["fits"] and small["mesh"] == [8, 1, 1] and small["rows"] == 128
    assert small["price"][0] < small["price"][1]
    assert by_name["sft", "llama2-7b", "h200:8"]["price"] is None
    # 141 GB do not: kernels are gathered, or divided where every token needs them.
    assert by_name["sft", "llama3-70b", "h100:8"]["mesh"] == [1, 8, 1]
    assert by_name["raft", "llama3-70b", "h100:8"]["mesh"] == [1, 1, 8]
    said = capsys.readouterr().out
    assert "[16/16]" in said and "compute" in said
    markdown = (tmp_path / "plan.md").read_text()
    assert markdown.count("\n| sft |") == 4 and "every row is full" in markdown
    assert "| GiB a device |" in markdown
    assert "- h200, a chip: 989 TFLOP/s" in markdown
    # Asked again, and for more: nothing is made twice.
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "plans").iterdir()}
    start((*arguments[:1], "--config.plan.slice=h100:8|h200:8|a100:8", *arguments[2:]), tmp_path)
    assert all(file.stat().st_mtime_ns == then for file, then in written.items())
    damaged = min(written)
    damaged.write_text("{")
    with pytest.raises(DataError, match=re.escape(f"{damaged}") + ".*this plan is made again"):
        start(arguments, tmp_path)


def test_a_single_plan_that_does_not_fit_is_one_line_with_what_to_change(tmp_path):
    with pytest.raises(ConfigError) as error:
        start(("--config.plan.run=configs/sft.py", "--config.plan.slice=a100:1",
               "--config.model.size=llama3-70b", "--config.plan.set=data.max_length=2048"),
              tmp_path)  # fmt: skip
    message = str(error.value)
    assert "\n" not in message and "needs" in message and "which has 55.88" in message
    assert "change" in message and "a larger one" in message
    # The plan is there all the same.
    assert json.loads((tmp_path / "plan.json").read_text())["plans"][0]["fits"] is False


def plan_one(tmp_path, run, size, where, *values, mesh="auto"):
    """The only plan of a run with these values set."""
    (found,) = start(
        (f"--config.plan.run={run}", f"--config.model.size={size}", f"--config.plan.slice={where}",
         f"--config.plan.mesh={mesh}", f"--config.plan.set={'|'.join(values)}"), tmp_path,
    )  # fmt: skip
    return found


def test_gradients_of_all_weights_need_memory(tmp_path):
    """6.7 billion weights, gradients and two moments, in float32 on two devices: 50 GiB on each,
    and 12.5 more where gradients are summed over microbatches."""
    with pytest.raises(ConfigError, match="h100:2 needs"):
        plan_one(
            tmp_path, "configs/sft.py", "llama2-7b", "h100:2", "lora.rank=0", "data.max_length=512"
        )


def test_a_plan_trains_the_rows_of_a_step_and_no_others(tmp_path):
    """119 of the 128 rows fit: two microbatches of them are 238 rows, two of 64 are 128."""
    values = ("data.max_length=256", "model.remat=dots")
    found = plan_one(tmp_path, "configs/sft.py", "llama3-8b", "b200:1", *values)
    assert found["rows"] == 64 and found["largest"]["rows"] > 64
    assert found["times"]["tokens"] == 128 * 256
    assert found["program"] == "a step of 128 rows of 256 tokens"
    values += ("train.rows_per_microbatch=100",)
    padded = plan_one(
        tmp_path / "own", "configs/sft.py", "llama3-8b", "b200:1", *values, mesh="run"
    )
    times = padded["times"]
    assert padded["rows"] == 100 and times["tokens"] == 128 * 256
    assert times["model_flops"] == found["times"]["model_flops"]
    assert times["compute"] == pytest.approx(found["times"]["compute"] * 200 / 128)


def test_the_last_try_has_as_few_empty_rows_as_possible():
    """45 of 128 rows fit: three microbatches of 45 are 135 rows, of 43 they are 129."""
    choice = planned.ProgramChoice(layouts.ModelSizes(1, 1, 1), 32, 128, 1, free=True)
    assert [choice.even(rows) for rows in (45, 43, 64, 119, 128)] == [43, 43, 64, 64, 128]
    tries = tried(r32=70, r45=98, r46=101)
    assert plan.next_try(choice, tries, 100.0, True) == 43
    assert plan.next_try(choice, tries | tried(r43=95), 100.0, True) is None
    assert plan.next_try(choice, tries, 100.0, False) is None
    # In multiples of 8 devices, and before anything fits.
    choice = planned.ProgramChoice(layouts.ModelSizes(1, 8, 1), 56, 104, 8, free=True)
    assert choice.even(96) == 56 and plan.next_try(choice, tried(r104=110), 100.0, True) == 40


@pytest.mark.parametrize(
    ("run", "value", "told"),
    [
        ("sft.py", "train.rows_per_microbatch=4096", r"train\.rows_per_microbatch=\d+, which fits"),
        ("raft.py", "sample.lanes=512", r"sample\.lanes=\d+, which fits"),
        ("score.py:llama_guard", "score.tokens_per_batch=16777216",
         r"score\.tokens_per_batch=\d+, which fits"),
    ],
)  # fmt: skip
def test_what_does_not_fit_names_its_own_key(run, value, told, tmp_path):
    with pytest.raises(ConfigError, match=told) as error:
        plan_one(tmp_path, f"configs/{run}", "llama2-7b", "h100:1", value, mesh="run")
    # It does fit.
    value = re.search(told, str(error.value)).group().removesuffix(", which fits")
    again = tmp_path / "again"
    assert plan_one(again, f"configs/{run}", "llama2-7b", "h100:1", value, mesh="run")["fits"]


def test_the_runs_own_mesh_and_values_are_taken_when_asked(tmp_path):
    values = "mesh.data=1|mesh.fsdp=8|train.rows_per_microbatch=16|data.max_length=2048"
    values += "|model.remat=full"
    plans = start(
        ("--config.plan.run=configs/dpo.py", "--config.plan.slice=h100:8",
         "--config.plan.mesh=run", f"--config.plan.set={values}"), tmp_path,
    )  # fmt: skip
    assert plans[0]["mesh"] == [1, 8, 1] and plans[0]["rows"] == 16
    assert plans[0]["program"] == "a step of 128 rows of 2,048 tokens"
    assert plans[0]["largest"]["rows"] == 64 and plans[0]["largest"]["all"]


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("plan.run=configs/none.py", "names no config file; expected one of"),
        ("plan.run=configs/dpo.py:loss=none", "does not fit; expected loss=sigmoid"),
        ("plan.run=configs/evaluate.py", "its stage is evaluate; expected one of sft, dpo"),
        ("plan.run=configs/score.py", "has 0 judges that are models; expected one"),
        ("plan.set=data.max_length", "expected KEY=VALUE"),
        ("plan.set=data.longest=3", "a key of plan.run's config"),
        ("plan.set=train.batch_size=0", "train.batch_size is 0; expected a whole number, 1 to"),
        ("plan.set=data.max_length=long", "expected a whole number of tokens, 2 to 1048576"),
        ("plan.price=h100", "expected CHIP=PRICE"),
        ("plan.price=a100=2", "plan.slice has no such chip; expected h100"),
        ("plan.slice=h100", "expected 1 number"),
        ("plan.mesh=best", "expected auto or run"),
        ("model.size=llama9", "expected llama2-7b"),
    ],
)
def test_mistakes_are_one_line(argument, told, tmp_path):
    with pytest.raises(ConfigError) as error:
        start((*COMMAND, f"--config.{argument}"), tmp_path)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_misspelled_model_is_told_before_anything_is_planned(tmp_path, capsys):
    with pytest.raises(ConfigError, match="'llama9'"):
        start((COMMAND[0], "--config.model.size=llama2-7b|llama9"), tmp_path)
    assert not capsys.readouterr().out and not list(tmp_path.iterdir())


def test_a_mesh_that_does_not_divide_the_rows_says_what_would(tmp_path):
    with pytest.raises(ConfigError, match=r"make train\.rows_per_microbatch a multiple of 8"):
        start((*COMMAND, "--config.plan.mesh=run",
               "--config.plan.set=train.rows_per_microbatch=4"), tmp_path)  # fmt: skip
    with pytest.raises(ConfigError, match=r"make sample\.lanes a multiple of 8"):
        start((*COMMAND, "--config.plan.run=configs/raft.py", "--config.plan.mesh=run",
               "--config.plan.set=sample.lanes=4"), tmp_path)  # fmt: skip


def test_without_libtpu_the_extra_is_named(tmp_path, monkeypatch):
    def absent(name):
        if name == "libtpu":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(ConfigError, match=r"pip install 'safety_jax\[plan\]'"):
        start(("--config.plan.slice=v5e:4x4",), tmp_path)
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(ConfigError, match=r"pip install 'safety_jax\[plan\]'"):
        chips.topology(chips.parse_slice("v5e:4x4"))


def test_a_plan_that_cannot_be_made_is_a_row_among_others(tmp_path):
    plans = start(("--config.plan.run=configs/score.py|configs/sft.py",
                   "--config.plan.slice=h100:8"), tmp_path)  # fmt: skip
    assert [bool(one["problem"]) for one in plans] == [True, False]
    assert "judges" in table.terminal(plans, False)


def test_a_plan_is_made_by_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match="leave out --distributed"):
        start((), tmp_path)
    assert not list(tmp_path.iterdir())
