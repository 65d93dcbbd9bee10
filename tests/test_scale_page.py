"""The scripts of docs/scale.md: the array's body is run, by stand-ins for Slurm's commands; the others are parsed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import tiny
from command import run, tree
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


HELD = """
import os, sys, time
from pathlib import Path
from gaincurate.scoring import worker

class Shard(worker.Shard):
    def score(self, *arguments):
        while self._start >= 100 and not Path(os.environ["GATE"]).exists():
            time.sleep(0.01)
        return super().score(*arguments)

worker.Shard = Shard
sys.argv[0] = "gaincurate"
from gaincurate.cli.app import main
main()
"""
"""Does no shard after row 100 until a file is there, so that no part is done before it is killed."""


@pytest.mark.slow
def test_two_parts_by_the_arrays_script_one_preempted_and_one_killed(
    tmp_path: Path, tiny_model: Path
) -> None:
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.questions(600))
    out, commands = tmp_path / "out", tmp_path / "bin"
    (script,) = (text for text in blocks("bash") if "--array" in text)
    for name, value in {"DATA": data, "MODEL": tiny_model, "OUT": out}.items():
        script, count = re.subn(rf"^{name}=.*$", f"{name}={value}", script, flags=re.MULTILINE)
        assert count == 1
    # As srun does: the task's variables are added, and its exit code is passed on.
    held, gate = tmp_path / "held.py", tmp_path / "gate"
    held.write_text(HELD)
    gaincurate = f'"{sys.executable}" "{held}" "$@" --shard-rows 10 --threads 1'
    stand_ins = {
        "srun": 'export SLURM_PROCID=0 SLURM_NTASKS=1; exec "$@"',
        "gaincurate": f'echo $$ > "$PID_FILE"; exec {gaincurate}',
        "scontrol": 'echo "$@" >> "$REQUEUED"',
    }
    commands.mkdir()
    for name, body in stand_ins.items():
        (commands / name).write_text(f"#!/bin/bash\n{body}\n")
        (commands / name).chmod(0o755)

    def part(task: int) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PID_FILE": str(tmp_path / f"pid-{task}"),
            "GATE": str(gate),
            "REQUEUED": str(tmp_path / "requeued"),
            "SLURM_JOB_ID": "70",
            "SLURM_ARRAY_JOB_ID": "70",
            **{
                f"SLURM_ARRAY_TASK_{name}": str(value)
                for name, value in {"ID": task, "MIN": 1, "MAX": 2, "STEP": 1, "COUNT": 2}.items()
            },
        }
        return subprocess.Popen(["bash", "-c", script], env=environment, stderr=subprocess.PIPE, text=True)

    def ended_by(task: int, number: signal.Signals) -> tuple[int, str]:
        gate.unlink(missing_ok=True)
        process = part(task)
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith(f"part {task}/2: shard "):
                os.kill(int((tmp_path / f"pid-{task}").read_text()), number)
                gate.touch()  # a notice is heard when the shard at hand is done
                break
        lines += process.stderr.readlines()
        process.stderr.close()
        return process.wait(), "".join(lines)

    code, lines = ended_by(1, signal.SIGUSR1)
    assert code == 143
    assert "--shard 1/2 from SLURM_ARRAY_TASK_ID\n" in lines
    assert "ended by SIGUSR1. Run the same command again to go on: " in lines
    assert (tmp_path / "requeued").read_text() == "requeue 70_1\n"
    assert ended_by(2, signal.SIGKILL)[0] == 137  # a lost node: nobody asks for its requeue
    assert (tmp_path / "requeued").read_text() == "requeue 70_1\n"
    again = [part(task) for task in (1, 2)]  # both at the same time, as the queue gives them
    for process in again:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
    options = ("--shard-rows", 10, "--threads", 1)
    assert run("score", data, "--model", tiny_model, "--out", tmp_path / "whole", *options).exit_code == 0
    assert tree(out) == tree(tmp_path / "whole")
