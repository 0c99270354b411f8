"""Number types that a config leaves open are named before a stage begins."""

import pytest

from configs import dpo, evaluate, raft
from safety_jax.base.errors import ConfigError
from safety_jax.models import execution
from safety_jax.stages import precision


@pytest.fixture(params=[True, False], ids=["with 16-bit products", "without"])
def units(request, monkeypatch):
    monkeypatch.setattr(execution, "_multiplies_bfloat16", lambda: request.param)
    return request.param


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("flags\t: sse avx512f avx512_bf16 sha", "bfloat16"),
        ("flags\t: avx2 amx_bf16", "bfloat16"),
        ("flags\t: avx2 avx512f avx512_bf16x", "float32"),
        ("Features\t: fp asimd bf16", "float32"),
    ],
)
def test_processors_are_known_by_their_flags(flags, found, monkeypatch):
    monkeypatch.setattr(execution.Path, "read_text", lambda path: f"processor\t: 0\n{flags}\n")
    execution._multiplies_bfloat16.cache_clear()
    try:
        assert execution.computed_type("cpu") == found
    finally:
        execution._multiplies_bfloat16.cache_clear()


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("stage", [dpo, evaluate, raft])
def test_each_platform_gets_its_types_in_every_group(stage, platform, units):
    config = stage.get_config().lock()
    found = precision.settled(config, platform)
    groups = [group for group in precision.CHOICES if group in found]
    assert groups == (["model"] if stage is dpo else ["model", "score"])
    kept = "float32" if platform == "cpu" else "bfloat16"
    computed = "float32" if platform == "cpu" and not units else "bfloat16"
    expected = {"parameter_dtype": kept, "compute_dtype": computed}
    for group in groups:
        for key in precision.CHOICES[group]:
            assert (found[group][key], config[group][key]) == (expected[key], "auto")
    assert found.is_locked
    assert stage is dpo or found.sample.cache_dtype == computed


def test_what_the_user_names_stays(units):
    config = raft.get_config()
    config.model.compute_dtype, config.sample.cache_dtype = "bfloat16", "int8"
    found = precision.settled(config, "cpu")
    assert (found.model.compute_dtype, found.sample.cache_dtype) == ("bfloat16", "int8")
    assert found.model.parameter_dtype == "float32"
    config.model.compute_dtype, config.sample.cache_dtype = "float32", "auto"
    assert precision.settled(config, "tpu").sample.cache_dtype == "float32"


def test_a_type_that_nobody_settled_is_no_type():
    with pytest.raises(ConfigError, match="expected bfloat16 or float32"):
        execution.float_type("model.compute_dtype", precision.AUTO)
