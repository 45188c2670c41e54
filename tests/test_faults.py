"""A range test of two ranks that is broken off: nothing hangs, nothing is lost, nothing is done twice."""

import json
import os
import sys
from pathlib import Path

import pytest

from support.processes import SUPPORT, environment, free_port, run_together

pytestmark = pytest.mark.processes

SCRIPT = SUPPORT / "faults.py"
PATIENCE = 150
"""Seconds; the process group waits for twenty. More is a hang."""


class Job:
    """A SLURM job of two tasks, with an ``scontrol`` that notes what it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin, self.results = folder / "job", folder / "bin", folder
        self.folder.mkdir()
        self.bin.mkdir()
        (self.bin / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {folder}/told\n')
        (self.bin / "scontrol").chmod(0o755)

    def task(self, rank: int | None, port: str, faults: tuple[str, ...]) -> dict:
        variables = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "PATH": f"{self.bin}:{os.environ['PATH']}",
        }
        if rank is not None:
            job = {"JOB_ID": 77, "JOB_NAME": "job", "NTASKS": 2, "NTASKS_PER_NODE": 2, "NODEID": 0}
            job |= {"PROCID": rank, "LOCALID": rank}
            variables |= {f"SLURM_{name}": str(value) for name, value in job.items()}
        command = [sys.executable, str(SCRIPT), str(self.results), *faults]
        return {"args": command, "cwd": self.folder, "env": environment(**variables)}

    def run(self, *faults: str, by_slurm: bool = True) -> list:
        """Meet the faults one after the other; without SLURM the first rank starts the other."""
        port = free_port()
        return run_together([self.task(rank, port, faults) for rank in ((0, 1) if by_slurm else (None,))], PATIENCE)

    def found(self) -> list[dict]:
        return [json.loads((self.results / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return Job(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def first(job):
    """What the two ranks have found in their first run."""
    done = job.run("none", "terminate", "terminate after", "interrupt", "uneven", "uneven untested", "requeue")
    assert [rank.returncode for rank in done] == [0, 0], done[0].stderr[-3000:]
    return job.found()


@pytest.fixture(scope="module")
def second(job, first):
    """What they have found when started again."""
    done = job.run("requeued", "resume early", "resume late")
    assert [rank.returncode for rank in done] == [0, 0], done[0].stderr[-3000:]
    return job.found()


@pytest.fixture(scope="module")
def third(job, second):
    """What they have found where the first rank has started the other, which is killed in the end."""
    (done,) = job.run("terminate the first", "kill", by_slurm=False)
    return done, job.found()


def test_sigterm_ends_the_test_on_all_ranks_at_the_same_step(first):
    """Though one is told a step earlier than the other; weights, optimizer and step are those from before."""
    for rank in first:
        assert rank["terminate"]["end"] == "SIGTERMException"
        assert rank["terminate"]["steps"] == 7
        assert rank["terminate"]["left"] == rank["terminate"]["start"]


def test_sigterm_to_the_rank_that_started_the_others_ends_all(third):
    """In the middle of the test, as a container is stopped."""
    for rank in third[1]:
        assert rank["terminate the first"]["end"] == "SIGTERMException"
        assert rank["terminate the first"]["steps"] == 6
        assert rank["terminate the first"]["left"] == rank["terminate the first"]["start"]


def test_training_terminated_in_the_test_is_tested_when_it_resumes(first, second):
    """From the checkpoint written at the exception; then it trains as if nothing had happened."""
    for rank, again in zip(first, second, strict=True):
        assert again["resume early"]["steps"] == 14 + 12
        assert again["resume early"]["left"] == rank["none"]["left"]
        assert again["resume early"]["bounds"] == rank["none"]["bounds"]


def test_training_terminated_right_after_the_test_resumes_without_another(first, second):
    for rank, again in zip(first, second, strict=True):
        assert rank["terminate after"]["end"] == "SIGTERMException"
        assert rank["terminate after"]["steps"] == 14
        assert again["resume late"]["steps"] == 12
        assert again["resume late"]["left"] == rank["none"]["left"]


def test_requeue_signal_is_answered_with_the_training_that_has_been_tested(job, first, second):
    """Once, when the test is over: the checkpoint holds the bounds, and neither test nor training starts anew."""
    assert (job.results / "told").read_text() == "requeue 77\n"
    for rank, again in zip(first, second, strict=True):
        assert rank["requeue"]["left"] == rank["none"]["left"]
        assert again["requeued"]["steps"] == 12
        assert again["requeued"]["bounds"] == rank["none"]["bounds"]
        assert again["requeued"]["left"] == rank["none"]["left"]


def test_ctrl_c_leaves_what_was_there_before(first):
    for rank in first:
        assert rank["interrupt"]["steps"] == 6
        assert rank["interrupt"]["left"] == rank["interrupt"]["start"]


def test_rank_with_less_data_starts_over_and_trains_as_if_untested(first):
    """Both ranks find the same, each going through its own stream as often as it takes."""
    one, other = first

    assert one["uneven"]["bounds"] == other["uneven"]["bounds"]
    for rank in first:
        assert (rank["uneven"]["steps"], rank["uneven untested"]["steps"]) == (14 + 4, 4)
        assert rank["uneven"]["left"] == rank["uneven untested"]["left"]


def test_killed_rank_ends_the_other(third):
    """Its error is shown once, and the state is that from before."""
    done, (rank, _) = third

    assert done.returncode != 0
    assert done.stderr.count("\nTraceback") + done.stderr.count("]: Traceback") == 1
    assert rank["kill"]["left"] == rank["kill"]["start"]


@pytest.mark.parametrize("run", ["first", "second", "third"])
def test_no_fault_touches_the_files_of_earlier_runs(run, request):
    """Checkpoints and logs are there, byte for byte."""
    found = request.getfixturevalue(run)
    for fault in (found[1] if run == "third" else found)[0].values():
        assert fault["before"].items() <= fault["after"].items()
        assert "lightning_logs/version_0/metrics.csv" in fault["after"]
        assert "checkpoints/epoch=1-step=12.ckpt" in fault["after"]
