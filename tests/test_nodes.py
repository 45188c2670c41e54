"""Two nodes that share no disk: on one network with addresses of their own, or on the loopback interface."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import ROOT, SUPPORT, environment, free_port, run_together

pytestmark = pytest.mark.processes

RANKS = SUPPORT / "ranks.py"
EXPERIMENTS = "ddp, one rank sees nan, closer look"
TORCHRUN, JOB = ROOT / "examples" / "torchrun.sh", ROOT / "examples" / "job.py"


class Loopback:
    """Two nodes in name only."""

    address = "127.0.0.1"
    interface = "lo"

    def inside(self, node: int, other_folder: Path) -> list[str]:
        """The beginning of a command that runs on a node."""
        return []


class Namespaces(Loopback):
    """Two network namespaces, joined by a cable; neither sees the other's folder."""

    address = "10.77.0.1"
    interface = "cable"

    def __init__(self) -> None:
        self.names = [f"node{node}-{os.getpid()}" for node in (0, 1)]
        try:
            for name in self.names:
                self._ip("netns", "add", name)
            ends = [("name", self.interface, "netns", name) for name in self.names]
            self._ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
            for node, name in enumerate(self.names):
                self._ip("-n", name, "address", "add", f"10.77.0.{1 + node}/24", "dev", self.interface)
                for interface in ("lo", self.interface):
                    self._ip("-n", name, "link", "set", interface, "up")
        except (OSError, subprocess.CalledProcessError) as error:
            self.remove()
            pytest.skip(f"network namespaces cannot be made here: {error}")

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def remove(self) -> None:
        for name in self.names:
            subprocess.run(f"ip netns delete {name}", shell=True, capture_output=True)

    def inside(self, node: int, other_folder: Path) -> list[str]:
        hidden = ["sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(other_folder)]
        return ["ip", "netns", "exec", self.names[node], *hidden]


def by_lightning(script: Path, *arguments: str) -> list[str]:
    """Each node's first process starts the others of its node, as the environment variables tell."""
    return [sys.executable, str(script), *arguments]


def by_torchrun(script: Path, *arguments: str) -> list[str]:
    return ["bash", str(TORCHRUN), str(script), *arguments]


def run(network: Loopback, devices: int, folder: Path, command: list[str]) -> list[Path]:
    """Run a command on both nodes, with FOLDER in it replaced by the node's own; return these."""
    folders = [folder / "first", folder / "second"]
    port = free_port()
    processes = []
    for node, own in enumerate(folders):
        own.mkdir()
        variables = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "GLOO_SOCKET_IFNAME": network.interface,
            "MASTER_ADDR": network.address,
            "MASTER_PORT": port,
            "NODE_RANK": str(node),
            "NODES": "2",
            "DEVICES": str(devices),
            "PL_TRAINER_NUM_NODES": "2",
            "PL_TRAINER_ENABLE_PROGRESS_BAR": "False",
        }
        arguments = [*network.inside(node, folders[1 - node]), *(part.replace("FOLDER", str(own)) for part in command)]
        processes.append({"args": arguments, "cwd": own, "env": environment(**variables)})
    for node, done in zip(folders, run_together(processes, seconds=200), strict=True):
        assert done.returncode == 0, done.stderr[-3000:]
        (node / "printed").write_text(done.stderr)
    return folders


@pytest.fixture(scope="module")
def namespaces():
    made = Namespaces()
    yield made
    made.remove()


@pytest.fixture(scope="module", params=["namespaces by Lightning", "loopback by torchrun"])
def ranks(request, tmp_path_factory):
    """What every rank of both nodes has written down, node by node."""
    where, how = request.param.split(" by ")
    network = request.getfixturevalue("namespaces") if where == "namespaces" else Loopback()
    devices = 2 if how == "Lightning" else 1
    start = by_lightning if how == "Lightning" else by_torchrun
    folders = run(network, devices, tmp_path_factory.mktemp("nodes"), start(RANKS, EXPERIMENTS, str(devices), "FOLDER"))
    return [[json.loads((node / f"{rank}.json").read_text()) for rank in range(devices)] for node in folders]


def test_every_rank_of_both_nodes_trains_as_if_untested(ranks):
    """Weights, batches, random numbers and states are bit-identical to those of an untested run."""
    for rank in [*ranks[0], *ranks[1]]:
        assert rank["ddp"]["steps"] == 14
        assert rank["ddp"]["tested"] == rank["ddp"]["untested"]


@pytest.mark.parametrize("experiment", ["closer look", "one rank sees nan"])
def test_all_ranks_of_both_nodes_find_the_same(ranks, experiment):
    """Bounds and curve, also where the loss is another on each rank, or not a number on one of them alone."""
    found = {json.dumps(rank[experiment]) for rank in [*ranks[0], *ranks[1]]}

    assert len(found) == 1


@pytest.fixture(scope="module")
def job(namespaces, tmp_path_factory):
    """The folders in which two nodes have run the example."""
    command = by_torchrun(JOB, "--nodes", "2", "--devices", "1", "--max_epochs", "1")
    return run(namespaces, 1, tmp_path_factory.mktemp("job"), command)


def found_by(node: Path) -> str:
    (line,) = re.findall(r"rank \d (after 1 epochs: LR range test: base_lr=.*)", (node / "printed").read_text())
    return line


def test_example_job_finds_the_same_on_both_nodes(job):
    first, second = job

    assert found_by(first) == found_by(second)


def test_second_node_writes_no_file(job):
    """Checkpoints and logs are the first one's."""
    first, second = ({str(path.relative_to(node)) for path in node.rglob("*") if path.is_file()} for node in job)

    assert {"checkpoints/last.ckpt", "lightning_logs/version_0/metrics.csv"} < first
    assert second == {"printed"}


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_example_job_goes_on_where_it_was(monkeypatch, capsys):
    """From its own checkpoint, with the bounds it had found before."""
    monkeypatch.setenv("PL_TRAINER_ENABLE_PROGRESS_BAR", "False")
    monkeypatch.syspath_prepend(JOB.parent)
    train = runpy.run_path(str(JOB))["main"]

    train(max_epochs=1)
    with pytest.warns(UserWarning, match="made for 45 optimizer steps, training now has 90"):
        train(max_epochs=2)

    first, second = re.findall(r"rank 0 after (\d) epochs: (LR range test: base_lr=.*)", capsys.readouterr().out)
    assert (first[0], second[0]) == ("1", "2")
    assert first[1] == second[1]


@pytest.mark.parametrize("script", sorted(JOB.parent.glob("*.sh")), ids=lambda path: path.name)
def test_job_scripts_are_valid_shell(script):
    subprocess.run(["bash", "-n", script], check=True)
