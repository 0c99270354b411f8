"""What jax and the caches read from the environment; set before jax starts, inherited by children.

Compiled programs have one folder for every test process and its children, kept between runs. So
XLA's part of the suite is paid once: whatever was compiled before, by another worker, by a command
that a test starts or by last week's run, is read. Everything else that is cached has a fresh home.
"""

import hashlib
import os
import platform
import tempfile
import time
import zlib
from importlib import metadata
from pathlib import Path

_MONTH = 30 * 24 * 3600.0
XLA_FLAGS = (
    # LLVM's optimisations take half of a compilation, too much for programs that run once.
    "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=8"
    # Eight devices on two busy cores meet late: by default they abort the process after 40 seconds.
    " --xla_cpu_collective_call_terminate_timeout_seconds=900"
    " --xla_cpu_collective_timeout_seconds=900"
)


def _programs() -> Path:
    """The folder of this machine's compiled programs; a worker is given the one of its master."""
    if "SAFETY_JAX_TEST_PROGRAMS" not in os.environ:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        name = f"jaxlib-{metadata.version('jaxlib')}-{_processor()}"
        os.environ["SAFETY_JAX_TEST_PROGRAMS"] = str(Path(home) / "safety_jax" / "tests" / name)
    folder = Path(os.environ["SAFETY_JAX_TEST_PROGRAMS"])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _processor() -> str:
    """A program compiled for one processor may not run on another: homes are mounted on many."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        text = "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
    except OSError:
        text = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def sweep(folder: Path) -> None:
    """Removes programs unused for a month, and those that a killed process left half written."""
    stamp = folder / "swept"
    swept = stamp.stat().st_mtime if stamp.exists() else 0.0
    began = time.time()
    for path in folder.glob("*-cache"):
        status = path.stat()
        if began - max(status.st_atime, status.st_mtime) > _MONTH:
            path.unlink(missing_ok=True)
        elif status.st_mtime >= swept:
            try:
                zlib.decompress(path.read_bytes())
            except zlib.error:
                path.unlink(missing_ok=True)
    stamp.touch()
    os.utime(stamp, (began, began))


PROGRAMS = _programs()
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(PROGRAMS)
CACHE = os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="safety_jax_cache_")
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # it only compiles here; no device to fight over
os.environ["HF_HUB_OFFLINE"] = "1"
if XLA_FLAGS not in (given := os.environ.get("XLA_FLAGS", "")):  # a worker has them already
    os.environ["XLA_FLAGS"] = f"{XLA_FLAGS} {given}".strip()  # of one given twice the last holds
