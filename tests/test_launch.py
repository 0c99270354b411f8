"""Launch scripts are sound shell, and what they start is a command that `main` takes."""

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from safety_jax import command_line

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = [*sorted(LAUNCH.rglob("*.sh")), ROOT / ".ci" / "run"]
# The flags of a user, with what a shell could spoil.
GIVEN = ["configs/sft.py:safety=5", "--config.model.path=a model", "--config.mesh.fsdp=8"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_shell_has_no_complaint(script):
    checker = Path(sys.executable).with_name("shellcheck")
    result = subprocess.run([checker, script], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def check_command(words: list[str], *expected: str) -> None:
    """The command is `main`'s, and its flags are known."""
    start = words.index("safety_jax.main")
    flags = words[start + 1 :]
    assert words[start - 1] == "-m" and "--distributed" in flags
    for flag in expected:
        assert flag in flags, flags
    assert command_line.parse(["safety-jax", *flags]).distributed


def stub(folder: Path, name: str, code: str) -> None:
    """A program that writes down what it was asked, one word a line, and runs `code`."""
    file = folder / "bin" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    log = shlex.quote(str(folder / name))
    file.write_text(f"#!/usr/bin/env bash\nprintf '%s\\n' \"$@\" >> {log}\n{code}\n")
    file.chmod(0o755)


def run(folder: Path, script: str, given: list[str] = GIVEN, **environment: str) -> int:
    """Runs a script in a checkout that holds nothing but a stub of Python."""
    stub(folder / ".venv", "python", "")
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", str(LAUNCH / script), *given], cwd=folder, timeout=60,
        env={**os.environ, "PATH": path, **environment},
    )  # fmt: skip
    return result.returncode


def words(file: Path) -> list[str]:
    return file.read_text().splitlines()


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"), [(0, 0, False), (1, 0, True), (1, 20, False), (2, 0, False)]
)
def test_slurm(code, restarts, requeued, tmp_path):
    stub(tmp_path, "srun", f'echo "$JAX_LOCAL_DEVICE_IDS" > {tmp_path}/devices; exit {code}')
    stub(tmp_path, "scontrol", "")
    ended = run(
        tmp_path, "slurm.sh", SLURM_SUBMIT_DIR=str(tmp_path), SLURM_GPUS_ON_NODE="4",
        SLURM_JOB_ID="17", SLURM_RESTART_COUNT=str(restarts),
    )  # fmt: skip
    assert ended == code
    check_command([*words(tmp_path / "srun"), "--workdir=a"], *GIVEN[1:])
    assert words(tmp_path / "devices") == ["0,1,2,3"]
    assert (tmp_path / "scontrol").exists() == requeued


def test_slurm_waits_for_a_run_that_saves_however_often_it_is_told(tmp_path):
    """Slurm tells a preempted job twice: at first, and when its grace ends."""
    saves = "trap 'sleep 1; touch saved; exit 0' TERM; touch ready; while :; do sleep 0.1; done"
    stub(tmp_path, "srun", saves)
    stub(tmp_path, "scontrol", "ls saved")
    job = subprocess.Popen(
        ["bash", str(LAUNCH / "slurm.sh"), *GIVEN], cwd=tmp_path, stdout=subprocess.PIPE,
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
             "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "17"},
    )  # fmt: skip
    while not (tmp_path / "ready").exists():
        time.sleep(0.05)
    for _ in range(2):
        job.terminate()
        time.sleep(0.2)
    said, _ = job.communicate(timeout=30)
    assert job.returncode == 0 and said == b"saved\n"


def test_gpu_hosts(tmp_path):
    stub(tmp_path, "ssh", 'bash -c "${!#}"')
    assert run(tmp_path, "gpu_hosts.sh", HOSTS="one two", WORKDIR="/a disk/run") == 0
    assert words(tmp_path / "ssh")[-2] == "two"
    said = words(tmp_path / ".venv" / "python")
    commands = [said[: len(said) // 2], said[len(said) // 2 :]]
    for number, command in enumerate(sorted(commands, key=lambda c: "--process=1" in c)):
        check_command(
            command, "--coordinator=one:8476", "--processes=2", f"--process={number}",
            "--workdir=/a disk/run", *GIVEN[1:],
        )  # fmt: skip


@pytest.mark.parametrize(("hosts", "given"), [("one\ntwo\n", GIVEN), ("one two", GIVEN[:1])])
def test_gpu_hosts_on_lines_and_without_flags(hosts, given, tmp_path):
    stub(tmp_path, "ssh", 'bash -c "${!#}"')
    assert run(tmp_path, "gpu_hosts.sh", given, HOSTS=hosts, WORKDIR="/run") == 0
    said = words(tmp_path / ".venv" / "python")
    assert said.count("--processes=2") == 2 and "" not in said


@pytest.mark.parametrize("script", ["slurm.sh", "gpu_hosts.sh", "tpu_vm.sh", "pod.sh"])
def test_nothing_to_run_is_said(script, tmp_path):
    given = {"HOSTS": "one", "WORKDIR": "/run", "TPU": "slice", "ZONE": "here"}
    environment = {**os.environ, **given, "SLURM_SUBMIT_DIR": str(tmp_path)}
    result = subprocess.run(
        ["bash", str(LAUNCH / script)], env=environment, capture_output=True, text=True
    )
    assert result.returncode and "to run" in result.stderr and not list(tmp_path.iterdir())


def test_no_hosts_are_a_mistake(tmp_path):
    assert run(tmp_path, "gpu_hosts.sh", HOSTS=" ", WORKDIR="/run") != 0


def test_tpu_vm(tmp_path):
    stub(tmp_path, "gcloud", "")
    assert run(tmp_path, "tpu_vm.sh", TPU="slice", ZONE="here", WORKDIR="/disk/run") == 0
    command = next(word for word in words(tmp_path / "gcloud") if "safety_jax.main" in word)
    lines = (tmp_path / "gcloud").read_text()
    remote = lines[lines.index(command) :].split(" > run.log")[0]
    check_command(
        [word for word in shlex.split(remote) if word.strip()], "--workdir=/disk/run", *GIVEN[1:]
    )
    # The session ends although the run goes on: nothing of it holds the output open.
    stub(tmp_path / "safety_jax/.venv", "python", "sleep 8")
    started = lines[lines.index("cd safety_jax && {") :].split("& }")[0] + "& }"
    subprocess.run(["bash", "-c", started], cwd=tmp_path, stdout=subprocess.PIPE, timeout=4)


def test_a_pod_that_was_told_to_stop_is_not_done(tmp_path):
    code = "trap 'exit 0' TERM; touch ready; while :; do sleep 0.1; done"
    pod = subprocess.Popen(["bash", str(LAUNCH / "pod.sh"), "bash", "-c", code], cwd=tmp_path)
    while not (tmp_path / "ready").exists():
        time.sleep(0.05)
    pod.terminate()
    assert pod.wait(30) == 75
    for status in (0, 2):
        ended = subprocess.run(["bash", str(LAUNCH / "pod.sh"), "bash", "-c", f"exit {status}"])
        assert ended.returncode == status


@pytest.mark.parametrize("name", ["kubernetes_tpu.yaml", "kubernetes_gpu.yaml"])
def test_jobsets(name):
    (job,) = yaml.safe_load((LAUNCH / name).read_text())["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    command = [word.replace("$(JOB_COMPLETION_INDEX)", "0") for word in container["args"]]
    hosts = spec["completions"]
    assert container["command"][:2] == ["bash", "launch/pod.sh"]
    check_command([*container["command"], *command])
    assert hosts == spec["parallelism"]
    if "gpu" in name:
        assert f"--processes={hosts}" in command
        assert f"--coordinator=safety-jax-{job['name']}-0-0.safety-jax:8476" in command
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}


def test_skypilot(tmp_path):
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    script = re.sub(r"exec \S+python", "printf '%s\\\\n'", task["run"])
    found = subprocess.run(
        ["bash", "-euc", script], capture_output=True, text=True, check=True,
        env={**os.environ, "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2",
             "SKYPILOT_NODE_RANK": "1", "MODEL": "a model"},
    )  # fmt: skip
    check_command(
        found.stdout.splitlines(), "--coordinator=10.0.0.1:8476", "--processes=2", "--process=1",
        "--config.model.path=a model",
    )  # fmt: skip
