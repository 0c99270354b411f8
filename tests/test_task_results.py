"""Results of tasks are those of one model: its weights, in the protocol, and its config."""

from safety_jax.evaluation.harness import task_results


def test_results_of_another_protocol_or_config_are_not_reused(tmp_path):
    path = tmp_path / "tasks" / "base.json"
    assert task_results.read(path, "f00d", "cafe") is None
    task_results.write(path, "f00d", "cafe", {"samples": {}})
    assert task_results.read(path, "f00d", "cafe") == {"samples": {}}
    assert task_results.read(path, "f00d", "beef") is None
    assert task_results.read(path, "beef", "cafe") is None
    # A file of an early run does not say the config.
    path.write_text('{"protocol": "f00d", "found": {"samples": {}}}')
    assert task_results.read(path, "f00d", "cafe") == {"samples": {}}
