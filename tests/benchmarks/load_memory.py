"""Peak host memory and speed of loading a model folder on CPU.

    python -m tests.benchmarks.load_memory

Writes a synthetic checkpoint of 2.2 GB to a temporary folder, then loads it in fresh processes and
prints, for each, the rise of the peak resident memory over what the process held before. The bound
is the weights plus 300 MB; the exit status is 1 where it is broken.
"""

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MB = 1_000_000
BOUND_MB = 300
ATTRIBUTES = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}


def write_checkpoint(folder: Path) -> int:
    """A folder of random bfloat16 weights in two shards; returns the bytes of the weights."""
    import ml_dtypes
    import numpy as np

    from safety_jax.models import llama
    from safety_jax.models.folders import hf, hf_config, safetensors

    (folder / "config.json").write_text(json.dumps(ATTRIBUTES))
    config = hf_config.read_config(folder)
    dtype = np.dtype(ml_dtypes.bfloat16)
    generator = np.random.default_rng(0)

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        return generator.standard_normal(shape, np.float32).astype(dtype)

    shards: list[dict[str, safetensors.TensorSource]] = [{}, {}]
    for ours, names in hf.hf_names(config).items():
        shape = llama.parameters(config)[ours].shape
        shape = shape[1:] if ours.startswith("layers.") else shape
        for number, name in enumerate(names):
            read = functools.partial(draw, shape)
            shards[number % 2][name] = safetensors.TensorSource(dtype, shape, read)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards):
        safetensors.write(folder / f"model-{number}.safetensors", shard)
        weight_map |= dict.fromkeys(shard, f"model-{number}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def load(folder: Path, dtype: str) -> None:
    """Loads over all devices; prints resident bytes before, peak, weights and seconds as JSON."""
    import jax
    import jax.numpy as jnp
    import psutil

    from safety_jax.base import meshes
    from safety_jax.models.folders import hf

    devices = len(jax.devices())
    mesh = meshes.build(1, min(devices, 2), max(1, devices // 2))
    jax.block_until_ready(jnp.zeros(8) + 1)
    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    config = hf.read_config(folder)
    weights = jax.block_until_ready(hf.load(folder, config, mesh, jnp.dtype(dtype)))
    seconds = time.perf_counter() - start
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(weights))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"before": before, "peak": peak, "weights": held, "seconds": seconds}))


def measure(folder: Path, devices: int, dtype: str) -> bool:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, __file__, "--folder", str(folder), "--dtype", dtype]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    above = (found["peak"] - found["before"] - found["weights"]) / MB
    print(
        f"{devices} device(s), {dtype}: weights {found['weights'] / MB:.0f} MB, before the load "
        f"{found['before'] / MB:.0f} MB, peak {found['peak'] / MB:.0f} MB, so weights "
        f"{above:+.0f} MB (bound +{BOUND_MB}); {found['seconds']:.1f} s, "
        f"{found['weights'] / MB / found['seconds']:.0f} MB/s"
    )
    return above <= BOUND_MB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="load this folder in this process and report")
    parser.add_argument("--dtype", default="bfloat16")
    arguments = parser.parse_args()
    if arguments.folder is not None:
        load(arguments.folder, arguments.dtype)
        return
    with tempfile.TemporaryDirectory() as folder:
        size = write_checkpoint(Path(folder))
        print(f"checkpoint: {size / MB:.0f} MB in {folder}")
        cases = ((1, "bfloat16"), (8, "bfloat16"), (1, "float32"))
        kept = [measure(Path(folder), *case) for case in cases]
    sys.exit(0 if all(kept) else 1)


if __name__ == "__main__":
    main()
