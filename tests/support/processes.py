"""Starts the processes of one job together, and sees them end."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]


def environment(**variables: str) -> dict[str, str]:
    """In which a script finds this package, the tests' support and one core for itself, and no W&B of others."""
    path = os.pathsep.join([str(ROOT), str(SUPPORT.parent), os.environ.get("PYTHONPATH", "")])
    inherited = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return {**inherited, "PYTHONPATH": path.rstrip(os.pathsep), "OMP_NUM_THREADS": "1", **variables}


def end_here() -> None:
    """At the end of a script whose work is done and written: without the end of the interpreter.

    There torch now and then aborts ("terminate called without an active exception"), also after the group has been
    destroyed. The second is for the other ranks of the node, which nobody waits for, to write down theirs.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(1)
    os._exit(0)


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def run_together(processes: list[dict], seconds: float) -> list[subprocess.CompletedProcess]:
    """Run processes, each given as arguments of ``Popen``, with whatever they print as their ``stderr``.

    Those that last longer than ``seconds`` are taken to hang: they are killed, and ``TimeoutExpired`` is raised.
    """
    with contextlib.ExitStack() as stack:
        started = []
        for process in processes:
            printed = stack.enter_context(tempfile.TemporaryFile("w+"))
            process = subprocess.Popen(**process, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True)
            stack.callback(_kill_group, process.pid)
            started.append((process, printed))
        deadline = time.monotonic() + seconds
        for process, printed in started:
            try:
                process.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired as error:
                printed.seek(0)
                error.add_note(f"It has printed: …{printed.read()[-3000:]}")
                raise
        return [_ended(process, printed) for process, printed in started]


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _ended(process: subprocess.Popen, printed) -> subprocess.CompletedProcess:
    printed.seek(0)
    return subprocess.CompletedProcess(process.args, process.returncode, stderr=printed.read())
