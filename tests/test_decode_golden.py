"""Decoding equals `generate` of transformers: stored, live, and on a trained checkpoint."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from safety_jax.models.decoding import generation
from tests.decoding import GREEDY, PROMPTS, SEED, generate, setup
from tests.golden import cases
from tests.samples import model_of


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(cases.FOLDER / "decode.npz"))


@pytest.mark.parametrize(("name", "beams"), cases.DECODE_RUNS)
def test_equals_generate(name, beams, tmp_path, one_device, golden):
    folder = cases.write_folder(tmp_path, cases.read_config(name))
    model = model_of(folder, one_device)
    settings = dataclasses.replace(GREEDY, beams=beams)
    prompts = cases.decode_prompts(name)
    lanes = 3 if beams == 1 else 5 * beams  # of five prompts sampled, two wait
    made = setup(settings, lanes=lanes, bucket_tokens=16)  # the window, which comes round
    found = generation.generate(model, made, prompts, range(5), SEED, None)
    for number, (answer,) in enumerate(found):
        expected = golden[f"{name}/{beams}/{number}"].tolist()
        assert answer.ids == expected
        assert answer.finish == ("eos" if expected[-1] in cases.DECODE_EOS else "length")
        if beams > 1:
            score = float(golden[f"{name}/{beams}/{number}/score"])
            assert answer.logprobs_sum == pytest.approx(score, abs=1e-4 * len(expected))


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::FutureWarning")  # raised inside transformers
@pytest.mark.parametrize("length_penalty", [0.0, 2.0])
def test_beams_equal_generate_live(length_penalty, tmp_path, one_device):
    """Other length penalties, one end token, and the runners-up too."""
    import torch
    import transformers

    folder = cases.write_folder(tmp_path, cases.read_config("llama_grouped"))
    settings = dataclasses.replace(GREEDY, beams=3, candidates=3, length_penalty=length_penalty)
    found = generate(model_of(folder, one_device), setup(settings, eos=(30,), lanes=12))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    for number, prompt in enumerate(PROMPTS):
        expected = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False, num_beams=3, num_return_sequences=3, eos_token_id=30, pad_token_id=0,
            max_new_tokens=cases.DECODE_TOKENS, length_penalty=length_penalty,
            early_stopping=False,
        )  # fmt: skip
        for answer, row in zip(found[number], expected[:, len(prompt) :].tolist(), strict=True):
            assert answer.ids == row[: len(answer.ids)]
            assert set(row[len(answer.ids) :]) <= {0}


@pytest.mark.torch
@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore::FutureWarning")  # raised inside transformers
@pytest.mark.parametrize("beams", [1, 4])
def test_a_trained_checkpoint_tells_the_same_story(beams, one_device):
    import torch
    import transformers

    folder = Path(os.environ["SAFETY_JAX_SHARED"]) / "models" / "aidreams260k-hf"
    ours = model_of(folder, one_device)
    random = np.random.default_rng(0)
    prompts = [
        [1, *random.integers(3, ours.config.vocabulary_size, n).tolist()] for n in (0, 1, 4, 40, 11)
    ]
    settings = dataclasses.replace(GREEDY, beams=beams, max_new_tokens=100)
    made = setup(settings, eos=(1, 2), lanes=4 * beams)
    found = generation.generate(ours, made, prompts, range(5), SEED, None)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for prompt, (answer,) in zip(prompts, found, strict=True):
        expected = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False, num_beams=beams, max_new_tokens=100, eos_token_id=[1, 2],
            pad_token_id=0, early_stopping=False,
        )  # fmt: skip
        assert answer.ids == expected[0, len(prompt) :].tolist()
