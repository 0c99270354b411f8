"""Every maker beside this file in one process, which imports torch and transformers once.

python -m tests.golden            writes all golden files
python -m tests.golden --check    compares with them; exit code 1 on difference
"""

import importlib
import sys
import time
from pathlib import Path

import torch

MAKERS = sorted(path.stem for path in Path(__file__).parent.glob("make_*.py"))


def main() -> int:
    failed = []
    for name in MAKERS:
        began = time.monotonic()
        torch.manual_seed(0)  # as a process of its own begins: nothing depends on who came before
        if importlib.import_module(f"tests.golden.{name}").main():
            failed.append(name)
        print(f"-- {name}: {time.monotonic() - began:.0f} s", flush=True)
    print(f"{len(MAKERS)} makers, failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
