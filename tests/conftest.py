import collections
import gc
import os

# loggers' libraries read these when they are imported: nothing is sent anywhere
os.environ.update(
    MLFLOW_ALLOW_FILE_STORE="true",
    MLFLOW_DISABLE_TELEMETRY="true",
    WANDB_ERROR_REPORTING="false",
    WANDB_MODE="offline",
)

import lightning.pytorch  # noqa: F401  # now: its log goes to what is `sys.stderr` here, and in a test that is closed later
import pytest
import torch
from pytorch_lightning import seed_everything

pytest.register_assert_rewrite("support.scenarios")


def pytest_collection_modifyitems(items):
    """First the files that start most processes, and take longest."""
    started = collections.Counter(item.path for item in items if item.get_closest_marker("processes"))
    items.sort(key=lambda item: -started[item.path])


@pytest.fixture(autouse=True)
def _same_start(tmp_path, monkeypatch):
    """Every test starts with the same random numbers, in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
    seed_everything(1)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def little_garbage():
    """Lightning's batch size finder collects it often, which takes long with all that other tests have left."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
