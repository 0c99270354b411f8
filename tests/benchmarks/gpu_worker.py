"""One part of the GPU check on this project's own code; prints one line of JSON.

    python -m tests.benchmarks.gpu_worker PART SIZE

Run by gpu.py as a process of its own; SIZE is a `gpu.Size` as JSON. Batches, placement, loss, step
and sampling are those of a run of the stages; only weights and tokens are random.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from tests.benchmarks.gpu import Size
from tests.benchmarks.gpu_attention import check_attention
from tests.benchmarks.gpu_decoding import decode
from tests.benchmarks.gpu_training import dpo, sft, train

PARTS: dict[str, Callable[[Size], dict[str, Any]]] = {
    "attention": check_attention,
    "sft": lambda size: train(size, sft(size), sides=1),
    "dpo": lambda size: train(size, dpo(size), sides=2),
    "decode": decode,
}


if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](Size(**json.loads(sys.argv[2])))))
