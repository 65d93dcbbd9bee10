"""The scripts of docs/scale.md: the body of the array is run with stand-ins for the commands, the others are parsed."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from gaincurate.core.process import Terminated

PAGE = (Path(__file__).parent.parent / "docs/scale.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("script", blocks("bash"))
def test_a_script_is_one_that_bash_can_read(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert script.startswith("#!/bin/bash\n#SBATCH ")


def test_the_job_says_as_many_parts_as_it_has_indexes_and_knows_our_exit_codes() -> None:
    (job,) = (each for text in blocks("yaml") if (each := yaml.safe_load(text)).get("kind") == "Job")
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert spec["completionMode"] == "Indexed"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # podFailurePolicy needs it
    assert {each["name"]: each["value"] for each in container["env"]} == {
        "GAINCURATE_SHARDS": str(spec["completions"])
    }
    rules = spec["podFailurePolicy"]["rules"]
    assert rules[0] == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
    by_code = {tuple(rule["onExitCodes"]["values"]): rule["action"] for rule in rules[1:]}
    assert by_code == {(Terminated.exit_code,): "Ignore", (2,): "FailIndex"}
    assert all(rule["onExitCodes"]["containerName"] == container["name"] for rule in rules[1:])
    assert spec["backoffLimitPerIndex"] > 0  # FailIndex needs it


def test_the_task_of_skypilot_gives_each_node_a_part() -> None:
    (task,) = (each for text in blocks("yaml") if "num_nodes" in (each := yaml.safe_load(text)))
    line = next(word for word in task["run"].split("--shard ")[1:])
    done = subprocess.run(
        ["bash", "-c", f"echo {line}"],
        env={"SKYPILOT_NODE_RANK": "2", "SKYPILOT_NUM_NODES": "4"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "3/4\n"


@pytest.mark.parametrize(("code", "requeued"), [(0, ""), (2, ""), (Terminated.exit_code, "requeue 70_1\n")])
def test_the_array_asks_for_the_requeue_of_a_task_that_is_preempted(
    tmp_path: Path, code: int, requeued: str
) -> None:
    (script,) = (text for text in blocks("bash") if "--array" in text)
    stand_ins = {
        "srun": 'exec "$@"',  # passes the exit code on
        "gaincurate": f'echo "$@" > "{tmp_path}/arguments"; exit {code}',
        "scontrol": f'echo "$@" >> "{tmp_path}/requeued"',
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "requeued").touch()
    task = {"SLURM_JOB_ID": "70", "SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "1"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", script], env={**os.environ, **task, "PATH": path}, check=False)
    assert done.returncode == code
    assert (tmp_path / "requeued").read_text() == requeued
    assert (tmp_path / "arguments").read_text().endswith("--shard auto\n")
