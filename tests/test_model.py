"""The loaded model: a tree of arrays with all else static, read from a folder or an adapter's."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import sft
from safety_jax.base.batch import Tokens
from safety_jax.base.errors import CheckpointError, ConfigError
from safety_jax.models import attention, llama, lora
from safety_jax.models.execution import Execution
from safety_jax.models.folders import hf, model_folder, peft, peft_config
from safety_jax.stages import answering, texts
from tests import tiny_tokenizers
from tests.samples import execute_on, random_adapters, whole_logits

IDS = np.arange(5, 29, dtype=np.int32).reshape(2, 12)


def test_one_example_a_row_has_its_places():
    """What stands in the docstring."""
    ids, real = jnp.array([[5, 6, 7, 0]]), jnp.array([[True, True, True, False]])
    tokens = Tokens.one_a_row(ids, real)
    found = [np.asarray(part)[0].tolist() for part in (tokens.positions, tokens.segments)]
    assert found == [[0, 1, 2, 3], [1, 1, 1, 0]]
    assert not np.asarray(tokens.mask).any() and tokens.ids is ids


def test_padding_changes_nothing_before_it(small_model):
    """A row alone, and right-padded with tokens of its own."""
    padded = jnp.pad(jnp.asarray(IDS), [(0, 0), (0, 4)], constant_values=9)
    real = jnp.arange(16)[None] < jnp.full((2, 1), 12)
    longer = jax.jit(lambda model, *row: model.logits(model.forward(Tokens.one_a_row(*row))))
    found = np.asarray(longer(small_model, padded, real))[:, :12]
    np.testing.assert_allclose(found, whole_logits(small_model, IDS), atol=1e-5)


def test_leaves_are_weights_and_adapters_alone(small_model):
    adapters = random_adapters(small_model.config, small_model.mesh)
    model = dataclasses.replace(small_model, adapters=adapters, tokenizer=tiny_tokenizers.llama())
    leaves, static = jax.tree.flatten(model)
    assert len(leaves) == len(jax.tree.leaves((model.weights, adapters.weights)))
    again = jax.tree.unflatten(static, leaves)
    assert again.tokenizer is model.tokenizer and again.config == model.config


def test_compiled_functions_serve_every_model_of_a_shape(small_model):
    """Other weights compile nothing; dtype and config are part of the program."""
    traced = []

    @jax.jit
    def first(model):
        traced.append(model.config)
        return model.head().table[0, 0]

    first(small_model)
    first(jax.tree.map(lambda x: x + 1, small_model))
    first(dataclasses.replace(small_model, execution=execute_on(small_model.mesh)))
    assert len(traced) == 1
    wider = dataclasses.replace(small_model.config, max_positions=64)
    first(dataclasses.replace(small_model, config=wider))
    assert len(traced) == 2
    half = dataclasses.replace(small_model.execution, compute_dtype=jnp.dtype(jnp.bfloat16))
    first(dataclasses.replace(small_model, execution=half))
    assert len(traced) == 3


def test_the_gradient_of_a_model_is_its_like(small_model):
    """A sum's is one for every summand."""

    def total(model):
        return model.head().table.sum()

    gradient = jax.grad(total)(small_model)
    assert gradient.config == small_model.config
    np.testing.assert_array_equal(gradient.weights["head"], 1.0)
    np.testing.assert_array_equal(gradient.weights["embedding"], 0.0)


# ---------------------------------------------------------------------------- folders


@pytest.fixture(scope="module")
def folders(small_model, tmp_path_factory):
    """A full model, and an adapter that names it."""
    place = tmp_path_factory.mktemp("model_folder")
    tokens = tiny_tokenizers.llama()
    config = dataclasses.replace(small_model.config, vocabulary_size=len(tokens))
    weights = llama.initialize(config, jax.random.key(3), small_model.mesh, jnp.float32)
    hf.export(place / "full", weights, config, None, "float32", 10**9)
    tokens.save_pretrained(place / "full")
    settings = peft_config.LoraConfig(
        rank=4, alpha=8.0, dropout=0.0, targets=lora.targets(("all-linear",)), rslora=False,
        base_name=str(place / "full"), dtype="float32",
    )  # fmt: skip
    peft.export(place / "adapter", random_adapters(config, small_model.mesh), settings)
    return place


def opened(path, mesh):
    return model_folder.open_model(
        str(path),
        mesh,
        own_tokenizer="",
        kernels="stored",
        compute_dtype=jnp.float32,
        backend="xla",
        remat="none",
    )


def test_an_adapter_folder_brings_its_base(folders, one_device):
    full, adapted = (opened(folders / name, one_device) for name in ("full", "adapter"))
    assert full.adapter is None and adapted.folder == full.folder
    assert adapted.weights_sha256.endswith(f"+{full.weights_sha256}")
    base, model = full.load(jnp.float32), adapted.load(jnp.float32)
    assert base.adapters is None and model.tokenizer.vocab_size == base.tokenizer.vocab_size
    without = dataclasses.replace(model, adapters=None)
    np.testing.assert_array_equal(whole_logits(without, IDS), whole_logits(base, IDS))
    merged = dataclasses.replace(without, weights=lora.merge(model.weights, model.adapters))
    np.testing.assert_allclose(whole_logits(merged, IDS), whole_logits(model, IDS), atol=2e-5)
    assert np.abs(whole_logits(model, IDS) - whole_logits(base, IDS)).max() > 0.1


@pytest.mark.parametrize("strength", [0.5, 2.0])  # powers of two, which round nothing
def test_an_adapter_is_as_strong_as_asked(strength, folders, one_device):
    """strength · scale · B A is added, and hashes differ, so that answers do not mix."""
    whole = opened(folders / "adapter", one_device)
    part = opened(f"{folders / 'adapter'}?strength={strength}", one_device)
    assert part.weights_sha256 != whole.weights_sha256
    model = whole.load(jnp.float32)
    scaled = {
        target: pair | {"b": pair["b"] * strength}
        for target, pair in model.adapters.weights.items()
    }
    wanted = dataclasses.replace(
        model, adapters=dataclasses.replace(model.adapters, weights=scaled)
    )
    found = whole_logits(part.load(jnp.float32), IDS)
    np.testing.assert_allclose(found, whole_logits(wanted, IDS), atol=2e-5)
    assert np.abs(found - whole_logits(model, IDS)).max() > 0.1


@pytest.mark.parametrize(
    ("spec", "what"),
    [("adapter?strength=much", "'much'; expected a number above 0"),
     ("adapter?strength=-1", "'-1'; expected a number above 0"),
     ("full?strength=0.5", "only an adapter has a strength"),
     ("full?base=nf5", "base 'nf5'; expected stored, int8, nf4"),
     ("adapter?base=nf4&base=int8", "'base=int8'; expected strength=NUMBER and base="),
     ("adapter?strength=0.5&rank=2", "'rank=2'; expected strength=NUMBER and base=FORMAT")],
)  # fmt: skip
def test_what_cannot_be_asked_of_a_folder_is_refused(spec, what, folders, one_device):
    with pytest.raises(ConfigError, match=what):
        opened(folders / spec, one_device)


def test_a_model_has_a_base_of_its_own(folders, one_device):
    """Quantised or not as it says itself, and answers of one are none of the other's."""
    stored, quantised = (opened(folders / f"adapter{q}", one_device) for q in ("", "?base=int8"))
    weak = opened(f"{folders / 'adapter'}?strength=0.5&base=int8", one_device)
    assert len({one.weights_sha256 for one in (stored, quantised, weak)}) == 3
    config, execution = stored.config, stored.execution
    weights = hf.load(folders / "full", config, execution.mesh, jnp.float32, "int8")
    expected = whole_logits(dataclasses.replace(stored.load(jnp.float32), weights=weights), IDS)
    with answering.Speakers(jnp.float32) as speakers:
        first = whole_logits(speakers.load(stored), IDS)
        held = speakers.load(quantised)
        np.testing.assert_array_equal(whole_logits(held, IDS), expected)
        assert speakers.load(weak).weights is held.weights
    assert np.abs(first - expected).max() > 1e-4


def test_an_adapter_on_another_base_than_it_learned_on(folders, one_device, tmp_path):
    """What it learned on is in the config beside its export; elsewhere nobody knows."""
    learned = tmp_path / "run" / "export"
    shutil.copytree(folders / "adapter", learned)
    (tmp_path / "run" / "config.json").write_text(json.dumps({"model": {"base": "int8"}}))
    specs = {"same": "?base=int8", "stored": "", "half": "?strength=0.5"}
    models = {name: opened(f"{learned}{spec}", one_device) for name, spec in specs.items()}
    models |= {name: opened(folders / name, one_device) for name in ("full", "adapter")}
    told = answering.other_bases(models)
    assert [line.split()[1] for line in told] == ["stored", "half"]
    assert told[0].endswith("run/export?base=int8") and "held as int8, and answers on" in told[0]
    assert told[1].endswith("?strength=0.5&base=int8")


def test_models_that_are_asked_with_another_template_than_they_were_tuned_with(
    folders, one_device, tmp_path
):
    """Nothing else says that a chat model answers a form that it has never seen."""
    learned = tmp_path / "run" / "export"
    shutil.copytree(folders / "adapter", learned)
    (tmp_path / "run" / "config.json").write_text(json.dumps({"data": {"template": "alpaca"}}))
    models = {"tuned": opened(learned, one_device), "base": opened(folders / "full", one_device)}
    assert answering.other_templates(models, "alpaca") == []
    assert answering.other_templates(models, "plain") == [
        "note: tuned was trained with the template alpaca, and asked with plain: "
        "data.template=alpaca asks as in tuning"
    ]
    chatty = tiny_tokenizers.llama(chat_template=tiny_tokenizers.INST)
    chat = dataclasses.replace(models["base"], tokenizer=chatty)
    models |= {
        "chat": chat,
        "again": chat,
        "tuned": dataclasses.replace(models["tuned"], tokenizer=chatty),
    }
    assert answering.other_templates(models, "alpaca") == [
        "note: chat, again were made with a chat template, and asked with alpaca: "
        "data.template=chat asks as in tuning"
    ]
    assert [line.split()[1] for line in answering.other_templates(models, "chat")] == ["tuned"]


def test_training_says_that_a_chat_template_is_not_used():
    config = sft.get_config()
    config.data.template = "alpaca"
    chatty = tiny_tokenizers.llama(chat_template=tiny_tokenizers.INST)
    assert texts.unused_chat_template(config, tiny_tokenizers.llama()) == ""
    assert "expects data.template=chat" in texts.unused_chat_template(config, chatty)
    config.data.template = "chat"
    assert texts.unused_chat_template(config, chatty) == ""


def test_adapters_over_one_base_read_it_once(folders, one_device, monkeypatch):
    full, adapted = (opened(folders / name, one_device) for name in ("full", "adapter"))
    expected = [whole_logits(one.load(jnp.float32), IDS) for one in (adapted, full)]
    read, load = [], hf.load
    monkeypatch.setattr(hf, "load", lambda folder, *how: read.append(folder) or load(folder, *how))
    with answering.Speakers(jnp.float32) as speakers:
        first = speakers.load(adapted)
        found = [whole_logits(first, IDS)]
        second = speakers.load(full)
        found.append(whole_logits(second, IDS))
        assert read == [full.folder] and second.weights is first.weights
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first.adapters))
        third = speakers.load(dataclasses.replace(full, folder=folders / "adapter" / ".." / "full"))
        assert third.weights is first.weights
    np.testing.assert_array_equal(found, expected)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first.weights))


def test_what_cannot_be_opened_is_told_before_weights_are_read(one_device, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        opened(tmp_path / "nowhere", one_device)
    with pytest.raises(ConfigError, match="model.remat 'some': expected one of none, dots, full"):
        Execution.build(
            one_device,
            rules=attention.PLAIN,
            compute_dtype=jnp.float32,
            backend="xla",
            remat="some",
        )
