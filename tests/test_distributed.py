"""Several ranks: real processes, real strategies, gloo."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from support.processes import SUPPORT, environment, free_port, run_together

pytestmark = pytest.mark.processes

RANKS = SUPPORT / "ranks.py"
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed: pip install deepspeed")
needs_two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


def launch(experiments: str, devices: int, folder: Path) -> subprocess.CompletedProcess:
    """Run the ranks in an empty folder; more than two hundred seconds are taken for a hang."""
    (folder / "run").mkdir(parents=True)
    command = [sys.executable, str(RANKS), experiments, str(devices), str(folder)]
    where = {"cwd": folder / "run", "env": environment(MASTER_PORT=free_port())}
    (done,) = run_together([{"args": command, **where}], seconds=200)
    return done


def train(experiments: str, devices: int, folder: Path) -> list[dict]:
    """What each rank has written down."""
    done = launch(experiments, devices, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


@pytest.mark.parametrize(
    ("strategies", "devices"),
    [
        ({"ddp": 12, "bucket views": 12, "unused parameters": 4}, 2),
        ({"data parallel shards": 12, "tensor parallel": 22, "full shards": 12}, 2),
        ({"data parallel shards of one layer": 12, "full shards of one layer": 12}, 2),
        ({"ddp": 8, "static graph": 8, "static graph without views": 8}, 3),
        ({"ddp": 6, "unused parameters": 2, "2-D parallel": 6}, 4),
        pytest.param({"ZeRO 1": 4, "ZeRO 2": 12, "ZeRO 3": 4, "ZeRO 3 in bfloat16": 12}, 2, marks=needs_deepspeed),
        pytest.param({"full shards on GPUs": 12}, 2, marks=needs_two_gpus),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else None,
)
def test_every_rank_trains_as_if_untested(strategies, devices, tmp_path):
    """Weights, batches, random numbers and states are bit-identical; schedules are as long as training."""
    ranks = train(", ".join(strategies), devices, tmp_path)

    assert len(ranks) == devices
    for name, length in strategies.items():
        for rank in ranks:
            assert rank[name]["steps"] == 14
            assert rank[name]["tested"] == rank[name]["untested"], name
            assert rank[name]["found"] == ranks[0][name]["found"], "one answer"
            assert rank[name]["lengths"] == [length, length], "of training and of the schedule"


def test_spawned_ranks_train_as_if_untested(tmp_path):
    """They hand nothing back, but leave their traces in files."""
    (parent,) = train("spawned", 2, tmp_path)

    for untested, tested in parent["spawned"]:
        assert tested["steps"] == 14
        assert tested["trace"] == untested["trace"]
        assert tested["found"] == parent["spawned"][0][1]["found"], "one answer"


def test_all_ranks_find_the_same(tmp_path):
    """Also where one alone sees NaN, where they look closer, and where their batches differ in size."""
    experiments = "one rank sees nan, closer look, uneven batches, one rank returns none, collectives"
    first, second = train(experiments, 2, tmp_path)

    assert json.dumps(first) == json.dumps(second)
    result, steps, _ = first["one rank sees nan"]
    lrs = result["curves"][0]["lrs"]
    assert 0.1 < lrs[-1] < 0.14, "NaN on one rank ends the sweep"
    assert steps == len(lrs) + 1, "which all read one step later, and nobody minds that it fails"
    assert first["uneven batches"] == [2.5] * 20, "the plain mean over ranks"
    assert first["one rank returns none"] == [[2.5, 1.0] * 10, 22], "of the ranks that have a value"
    assert first["collectives"] == {"more": {"gloo:all_reduce [[2]]": 10}, "less": {}}, (
        "a value and whether there is one"
    )


def test_torchmetrics_are_reduced_as_lightning_does(tmp_path):
    """Of a step the mean of all ranks, of what is logged per epoch the metric of all samples; one rank logs."""
    first, second = (rank["torchmetrics"] for rank in train("torchmetrics", 2, tmp_path))

    assert {name: values for name, values in second.items() if name != "files"} == {
        "called": [0.5],
        "per step and epoch": [0.5],
        "updated": [0.888889],
        "validation": [0.888889],
    }
    assert {**first, "files": None} == {**second, "files": None}
    assert first["files"] == [
        f"logs/{name}/version_0/lr_range_test.csv" for name in ("called", "per step and epoch", "updated", "validation")
    ]


WARNING = (
    "The checkpoint was made for {} optimizer steps, training now has {}: the schedule continues at step {} of the new"
    " length, with lr 0.x instead of 0.x."
)


def told(ranks: list[dict]) -> list[str]:
    """All that they have warned of, without the digits of learning rates."""
    return [re.sub(r"0\.\d+", "0.x", message) for rank in ranks for message in rank["told"]]


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """What two ranks have found, one that goes on from their checkpoints, and four that go on from that one's."""
    folder = tmp_path_factory.mktemp("sizes")
    return [
        train("replicated, sharded, full shards in shards, consolidated, bytes", ranks, folder / str(ranks))
        for ranks in (2, 1, 4)
    ]


@pytest.mark.parametrize(
    ("kind", "is_folder"),
    [("replicated", False), ("sharded", True), ("full shards in shards", True), ("consolidated", False)],
)
def test_training_goes_on_with_another_number_of_ranks(kind, is_folder, sizes):
    """Step, bounds, weights and moments are the checkpoint's, the length is the new one, and one warning tells."""
    two, one, four = [[rank[kind] for rank in ranks] for ranks in sizes]

    assert {rank["restored"] for rank in one} == {two[0]["saved"]}
    assert {rank["restored"] for rank in four} == {one[0]["saved"]}
    assert all(rank["found"] == two[0]["found"] for rank in one + four)
    assert [step for rank in one for step, _ in rank["lrs"]] == [*range(8, 24)]
    assert [step for rank in four for step, _ in rank["lrs"]] == [*range(24, 28)] * 4
    assert all(rank["lrs"] == four[0]["lrs"] for rank in four)
    assert told(one) == [WARNING.format(64, 128, 8)]
    assert told(four) == [WARNING.format(128, 32, 24)]
    assert two[0]["is a folder"] == is_folder


def test_snapshot_holds_the_local_shard(sizes):
    """Before the first step: a copy of the rank's own weights, 780 bytes in all, and no optimizer state."""
    fully_shard, fsdp, replicated = ([[rank["bytes"][kind] for rank in ranks] for ranks in sizes] for kind in range(3))

    assert fully_shard == [[424, 356], [780], [212, 212, 212, 144]]
    assert [sum(held) for held in fsdp] == [780, 780, 780]
    assert max(fsdp[0]) < 500
    assert replicated == [[780, 780], [780], [780, 780, 780, 780]]


@pytest.mark.parametrize("experiment", ["one rank raises", "one rank raises at the end"])
def test_error_of_one_rank_ends_all(experiment, tmp_path):
    """Nobody waits for ever for the rank that is gone, and its error is shown once."""
    done = launch(experiment, 2, tmp_path)

    assert done.returncode != 0
    assert done.stderr.count("RuntimeError: the real error") == 1
