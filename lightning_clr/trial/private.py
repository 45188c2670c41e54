"""What is asked of Lightning that it does not promise, beside what drives its loops."""

from operator import attrgetter
from typing import Any

from lightning_clr.lightning import LightningModule, Trainer, lightning_name

_TESTED = "2.2 to 2.6"
_NEEDED = (
    *(f"fit_loop.{name}" for name in ("_data_source", "_combined_loader", "_data_fetcher", "max_batches")),
    *(f"fit_loop.epoch_loop.{name}" for name in ("advance", "reset", "_results._get_cache")),
    *(f"fit_loop.epoch_loop.val_loop.{name}" for name in ("run", "_data_source", "_combined_loader", "_max_batches")),
    *(f"_logger_connector.{name}" for name in ("_callback_metrics", "_first_loop_iter", "_current_fx")),
    "_logger_connector.epoch_end_reached",
)
"""What the trial asks of a trainer that Lightning does not promise."""


def require_known_lightning(trainer: Trainer) -> None:
    """Refuse, before the first step, a Lightning in which the trial does not find what it needs.

    Raises:
        RuntimeError: If it lacks a private name.
    """
    missing = [name for name in _NEEDED if not _has(trainer, name)]
    if missing:
        raise RuntimeError(
            f"The range test drives Lightning's training loop and knows versions {_TESTED}; in the installed one,"
            f" the trainer has no {', '.join(missing)}. Install a known version, or remove `LRRangeTest` and set"
            " the bounds."
        )


def _has(trainer: Any, name: str) -> bool:
    try:
        attrgetter(name)(trainer)
    except AttributeError:
        return False
    return True


def end_of_fit(trainer: Trainer) -> Exception:
    """The exception that makes a trainer tear down quietly and return from ``fit``."""
    error: Exception = lightning_name(trainer, "utilities.exceptions", "_TunerExitException")()
    return error


def logs_hyperparameters(module: LightningModule) -> bool:
    """Whether a module wants its hyper-parameters in the loggers."""
    return bool(module._log_hyperparams)


def has_hparams_of_config(module: LightningModule) -> bool:
    """Whether a module's hyper-parameters are the command line's, which holds what it makes as configuration."""
    return "_instantiator" in module.hparams


def batches_done(trainer: Trainer) -> int:
    """How many batches of the current epoch have been trained on, while it goes on."""
    return int(trainer.fit_loop.epoch_loop.batch_idx) + 1
