"""The check of a GPU (tests/benchmarks/gpu.py): its arithmetic on paper, and its parts at the
smallest size, so that it runs on the day it is needed."""

import dataclasses
import math

import pytest

from tests.benchmarks import gpu, gpu_attention, gpu_decoding, gpu_training, gpu_worker

TINY = dataclasses.replace(gpu.SIZES["tiny"], row_tokens=64, rows=2, steps=1, lanes=2, new_tokens=2)


def test_flops_of_a_token_of_the_8b_shape_on_paper():
    """Llama 3 8B: width 4096, MLP 14,336, 32 layers, 8 kv heads of 128, 128,256 tokens."""
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14_336
    matmuls = 32 * layer + 128_256 * 4096
    assert matmuls == 7_504_658_432
    rank = 16 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14_336))
    # Rows of 4,096: Σ n² / Σ n of 2,048 + 1,024 + 512 + 2 x 256 is 1,376.
    attention = 6 * 1376 * 4096 * 32
    expected = 4 * matmuls + 6 * 32 * rank + attention
    assert expected == 31_352_422_400
    assert gpu.flops_per_token(gpu.SIZES["8b"]) == pytest.approx(expected)


def test_figures_beside_the_cards_published_speeds():
    h100 = "NVIDIA H100 80GB HBM3"
    # 17,356.4 tokens of 31.35 GFLOP are 55% of 989.4 TFLOP/s.
    found = {"device": h100, "tokens_per_step": 34_712.8, "seconds": [9.0, 2.0, 1.9]}
    derived = gpu.derive("sft", found, gpu.SIZES["8b"])
    assert derived["tokens_per_second"] == pytest.approx(17_356.4)
    assert derived["mfu"] == pytest.approx(0.55, abs=1e-4)
    # 15.0 GB of weights, and 256 lanes x 164 tokens x 128 KiB of keys and values.
    read = gpu.decode_bytes(
        matmul_weights=7_504_658_432, cache_bytes_per_token=131_072, lanes=256, prompt_tokens=100,
        new=128,
    )  # fmt: skip
    assert read == 15_009_316_864 + 5_502_926_848
    found = {"device": h100, "new_tokens": 32_768, "seconds": 2.0, "lanes": 256}
    derived = gpu.derive("decode", found | {"bytes_per_step": read}, gpu.SIZES["8b"])
    assert derived["bound"] == pytest.approx(256 * 3350e9 / read)  # 41,800 tokens/s
    assert derived["share_of_bound"] == pytest.approx(16_384 / 41_809, rel=1e-3)


def test_examples_fill_their_rows():
    for size in gpu.SIZES.values():
        assert sum(gpu.lengths(size)) == size.row_tokens
    made = gpu_training.examples(TINY, 2, seed=0)
    assert made.lengths.tolist() == 2 * [32, 16, 8, 4, 4]
    assert made.trained_lengths.tolist() == 2 * [31, 15, 7, 3, 3]


@pytest.mark.parametrize("part", ["sft", "dpo"])
def test_a_step_of_each_method(part):
    """Fresh adapters add nothing: DPO begins at ln 2, SFT at an even guess over the vocabulary."""
    found = gpu_worker.PARTS[part](TINY)
    expected = {"sft": math.log(256), "dpo": math.log(2)}[part]
    assert found["first_loss"] == pytest.approx(expected, abs=0.05)
    assert found["padding_share"] == 0.0
    assert found["tokens_per_step"] == 128 and len(found["seconds"]) == 1
    assert gpu.line(part, found | gpu.derive(part, found, TINY)).startswith(part)


def test_decoding_writes_what_was_asked_for():
    found = gpu_decoding.decode(TINY)
    assert found["new_tokens"] == 2 * 2
    assert "of the bound" not in gpu.line("decode", found | gpu.derive("decode", found, TINY))


def test_attention_off_a_gpu():
    found = gpu_attention.check_attention(TINY)
    assert found["backend"] == "xla" and len(found["cases"]) == 4
    assert all(case["passed"] for case in found["cases"])
    assert "4 of 4" in gpu.line("attention", found)


def test_a_part_that_outruns_its_time_is_reported():
    found = gpu.run("trl", TINY, seconds=0.01)
    assert "not done" in found["error"]
    assert "FAILED: not done" in gpu.line("trl", found)
