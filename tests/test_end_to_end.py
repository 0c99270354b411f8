"""Stage `sft` as a user runs it: from folder and rows to an exported folder; and mistakes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from configs import sft as sft_config
from safety_jax.base import meshes, trees
from safety_jax.base.errors import CheckpointError, ConfigError, DataError, UserError
from safety_jax.models import llama, lora
from safety_jax.models.folders import hf, peft
from safety_jax.stages import schema, sft
from safety_jax.training import likelihood, metrics
from tests.golden import cases

ROOT = Path(__file__).parent.parent
TOKENIZER = ROOT / "launch" / "demo" / "model"
WORDS = "the cat and the dog ask how to make bread at home with milk and salt".split()


def write_rows(path: Path, count: int, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        question = " ".join(random.choice(WORDS, size=random.integers(3, 9)))
        answer = " ".join(random.choice(WORDS, size=random.integers(2, 20)))
        rows.append({"prompt": f"{i} {question}?", "completion": answer})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    """A tiny LLaMA folder, and rows to tune it on."""
    folder = tmp_path_factory.mktemp("inputs")
    vocabulary = json.loads((TOKENIZER / "config.json").read_text())["vocab_size"]
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": vocabulary,
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": True, "torch_dtype": "float32",
    }  # fmt: skip
    cases.write_folder(folder / "model", config)
    for file in TOKENIZER.glob("tokenizer*"):
        shutil.copy(file, folder / "model")
    write_rows(folder / "rows.jsonl", 40)
    write_rows(folder / "safety.jsonl", 20, seed=1)
    return folder


def configure(inputs: Path, **overrides):
    config = sft_config.get_config("safety=8")
    settings = {
        "model.path": str(inputs / "model"),
        "model.parameter_dtype": "float32",
        "model.compute_dtype": "float32",
        "model.remat": "none",
        "lora.dropout": 0.0,
        "data.train": (str(inputs / "rows.jsonl"),),
        "data.safety": str(inputs / "safety.jsonl"),
        "data.eval_rows": 8,
        "data.template": "plain",
        "data.max_length": 64,
        "train.batch_size": 24,  # several microbatches a step
        "train.rows_per_microbatch": 8,
        "train.chunk_tokens": 16,
        "train.max_steps": 6,
        "optim.learning_rate": 1e-2,
        "optim.warmup_steps": 0,
        "optim.schedule": "constant",
        "mesh.data": 8,
        "checkpoint.every_steps": 3,
        "checkpoint.export_dtype": "float32",
        "log.every_steps": 1,
        "log.eval_every_steps": 3,
    } | {key.replace("__", "."): value for key, value in overrides.items()}
    config.update_from_flattened_dict(settings)
    return config.lock()


@pytest.fixture(scope="session")
def finished(inputs, tmp_path_factory) -> Path:
    """One LoRA run, from the outside."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    sft.run(configure(inputs, checkpoint__export_merged=True), str(folder))
    return folder


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in metrics.read(folder / "metrics.jsonl") if "loss" in row]


def test_a_run_leaves_what_it_promises(finished):
    rows = metrics.read(finished / "metrics.jsonl")
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6]
    evaluations = [row for row in rows if "eval/loss" in row]
    assert [row["step"] for row in evaluations] == [3, 6]
    named = schema.STAGES["sft"]["checkpoint.best_metric"].names
    named = set(named) - {"eval/nll_loss"}  # if the loss is not the likelihood
    assert all(row.keys() == {"step", *named} for row in evaluations)
    assert losses(finished)[-1] < losses(finished)[0]
    for row in rows:
        if "eval/loss" in row:
            np.testing.assert_allclose(row["eval/perplexity"], np.exp(row["eval/loss"]), rtol=1e-6)
    promised = "config.json README.md plots/loss.png export/README.md checkpoints/6"
    adapter = "export/adapter_config.json export/adapter_model.safetensors"
    for name in f"{promised} {adapter}".split():
        assert (finished / name).exists(), name
    card = (finished / "README.md").read_text()
    assert "safety" in card and "16.67%" in card  # 8 of 48 rows


def test_the_adapter_is_what_was_trained(finished, inputs, one_device):
    config = hf.read_config(inputs / "model")
    adapters, settings = peft.load(finished / "export", config, one_device)
    assert settings.rank == 8 and settings.base_name == str(inputs / "model")
    assert all(float(jnp.abs(pair["b"]).max()) > 0 for pair in adapters.weights.values())
    base = hf.load(inputs / "model", config, one_device, jnp.float32)
    merged = hf.load(finished / "merged", config, one_device, jnp.float32)
    expected = trees.flatten(lora.merge(base, adapters))
    for name, weight in trees.flatten(merged).items():
        np.testing.assert_allclose(weight, expected[name], atol=1e-6, err_msg=name)


def test_running_again_changes_nothing(finished, inputs):
    before = {path: path.read_bytes() for path in finished.rglob("adapter_model.safetensors")}
    lines = (finished / "metrics.jsonl").read_text()
    sft.run(configure(inputs, checkpoint__export_merged=True), str(finished))
    assert {path: path.read_bytes() for path in before} == before
    assert (finished / "metrics.jsonl").read_text() == lines
    assert "| eval/perplexity |" in (finished / "README.md").read_text()


def test_another_config_is_refused(finished, inputs):
    with pytest.raises(ConfigError, match="optim.learning_rate 0.01 there, 0.02 here"):
        sft.run(configure(inputs, optim__learning_rate=0.02), str(finished))


@pytest.mark.parametrize(
    "overrides",
    [
        {"data__packing": False, "train__rows_per_microbatch": 16},
        {
            "mesh__data": 2,
            "mesh__fsdp": 2,
            "mesh__tensor": 2,
            "train__rows_per_microbatch": "auto",
            "model__remat": "auto",
        },
    ],
    ids=["unpacked", "2x2x2, rows chosen"],
)
def test_layout_and_mesh_do_not_change_the_run(overrides, finished, inputs, tmp_path):
    sft.run(configure(inputs, **overrides), str(tmp_path / "run"))
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(finished), rtol=1e-5)
    expected = load_file(finished / "export" / "adapter_model.safetensors")
    for name, leaf in load_file(tmp_path / "run" / "export" / "adapter_model.safetensors").items():
        np.testing.assert_allclose(leaf, expected[name], atol=5e-4, err_msg=name)


def test_rank_zero_from_random_weights_exports_a_whole_model(inputs, tmp_path):
    """Of the best step, after a start that could not have told it."""
    best = {"lora__rank": 0, "model__init": "random", "checkpoint__export": "best"}
    typo = configure(inputs, checkpoint__best_metric="eval_loss", **best)
    with pytest.raises(ConfigError, match="best_metric is 'eval_loss'.* one of eval/loss"):
        sft.run(typo, str(tmp_path / "run"))
    assert not losses(tmp_path / "run")
    sft.run(configure(inputs, **best), str(tmp_path / "run"))
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0] - 0.1
    with pytest.raises(ConfigError, match="best_metric is 'eval_loss'.* one of eval/loss"):
        sft.run(typo, str(tmp_path / "run"))  # the last step would be exported in its place
    config = hf.read_config(tmp_path / "run" / "export")
    assert config == hf.read_config(inputs / "model")
    weights = hf.load(tmp_path / "run" / "export", config, meshes.build(8, 1, 1), jnp.float32)
    assert set(trees.flatten(weights)) == set(llama.parameters(config))
    assert (tmp_path / "run" / "export" / "tokenizer.json").exists()


def test_it_goes_on_from_an_adapter(finished, inputs, tmp_path):
    """A first step of a run from the finished adapter starts at that adapter's loss."""
    config = configure(inputs, model__adapter=str(finished / "export"), train__max_steps=1)
    sft.run(config, str(tmp_path / "run"))
    assert losses(tmp_path / "run")[0] < losses(finished)[0]
    settings = json.loads((tmp_path / "run" / "export" / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["q_proj", "v_proj"]


# ---------------------------------------------------------------------------- mistakes


def broken_model(inputs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(inputs / "model", tmp_path / "model"))


def test_mistakes_in_a_config(inputs, tmp_path):
    for overrides, message in [
        ({"model__path": "runs/nowhere"}, "nowhere"),
        ({"model__init": "random"}, "set lora.rank=0"),
        ({"model__attention": "splash"}, "runs on tpu only, this is cpu"),
        ({"model__remat": "some"}, "model.remat 'some': expected one of none, dots, full"),
        ({"mesh__data": 3}, "does not fill 8 device"),
        ({"mesh__data": 2, "mesh__tensor": 4}, "which mesh tensor = 4 does not divide"),
        ({"train__rows_per_microbatch": 6}, "make it a multiple of 8"),
        ({"train__max_steps": 0, "train__epochs": 0.0}, "set one above 0"),
        ({"lora__targets": ("lm_head",)}, "output head cannot be adapted"),
        ({"data__max_length": 8}, "rows.jsonl.*its prompt has .* data.max_length=8"),
        ({"data__safety_rows": 999}, "999 rows asked for"),
        ({"lora__initialization": "ones"}, "expected 'peft' or 'zero_a'"),
        ({"optim__schedule": "poly"}, "optim.schedule 'poly'"),
    ]:
        with pytest.raises(UserError, match=message) as found:
            sft.run(configure(inputs, **overrides), str(tmp_path / "run"))
        assert "\n" not in str(found.value)


def test_mistakes_in_rows(inputs, tmp_path):
    rows = tmp_path / "rows.jsonl"
    good = json.dumps({"prompt": "a?", "completion": "b"}) + "\n"
    for text, message in [
        (good + '{"prompt": "a?", "compl\n', "rows.jsonl line 2"),
        (good + json.dumps({"prompt": "a?", "completion": " "}) + "\n", "rows.jsonl line 2"),
        (good + json.dumps({"question": "a?"}) + "\n", "rows.jsonl line 2"),
        ("", "rows.jsonl"),
    ]:
        rows.write_text(text)
        with pytest.raises(DataError, match=message) as found:
            sft.run(configure(inputs, data__train=(str(rows),)), str(tmp_path / "run"))
        assert "\n" not in str(found.value)


def test_mistakes_in_a_model_folder(inputs, tmp_path):
    model = broken_model(inputs, tmp_path)
    config = json.loads((model / "config.json").read_text())

    def fails(message: str):
        with pytest.raises((CheckpointError, DataError), match=message) as found:
            sft.run(configure(inputs, model__path=str(model)), str(tmp_path / "run"))
        assert "\n" not in str(found.value)

    (model / "config.json").write_text(json.dumps(config | {"attention_bias": "some"}))
    fails("attention_bias")
    (model / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    fails("mamba")
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 20}))
    fails("20")
    (model / "config.json").write_text(json.dumps(config))
    weights = load_file(model / "model.safetensors")
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[:-100])
    fails("model.safetensors")
    dropped = "model.layers.1.mlp.up_proj.weight"
    save_file({k: v for k, v in weights.items() if k != dropped}, model / "model.safetensors")
    fails("layers.1.mlp.up_proj")
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"")
    fails("safetensors")


def test_the_command_ends_in_one_line_and_code_two(tmp_path):
    """What only a stage can see; what the command line says is in test_command_line.py."""
    flags = ["--config=configs/sft.py:demo", "--config.model.path=runs/nowhere",
             "--config.train.rows_per_microbatch=8"]  # fmt: skip
    command = [sys.executable, "-m", "safety_jax.main", *flags, f"--workdir={tmp_path / 'run'}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "runs/nowhere" in result.stderr and result.stderr.startswith("error: ")


def test_the_guards_are_on(inputs, tmp_path, monkeypatch):
    """An implicit transfer inside the loop is an error: the step gets only placed arrays."""
    monkeypatch.setattr(
        likelihood.placement, "place_tokens", lambda mesh, loader: lambda batch: (batch.tokens, 1)
    )
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        sft.run(configure(inputs), str(tmp_path / "run"))
