"""Shows in the trainer's loggers what a range test has found, in each as its library can.

What a logger is, the name of its class or of one of its bases tells: these are the same in both Lightning packages, for
subclasses, and for every version of the libraries behind, none of which needs to be imported to find out.
"""

import importlib
import io
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_clr.files import NAME, figure_of, write_files
from lightning_clr.result import COLUMNS, RangeTestResult


def log_hyperparameters(loggers: Sequence[Any], params: Mapping[str, Any]) -> dict[str, str]:
    """Log hyper-parameters that have changed; one process alone may do so.

    Args:
        loggers: Lightning's loggers.
        params: Hyper-parameters by name.

    Returns:
        What loggers that have refused say, by the name of their class: some trackers let no parameter change.
    """
    refusals = {}
    for logger in loggers if params else ():
        try:
            _log_hyperparameters(logger, params)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            refusals[type(logger).__name__] = str(error)
    return refusals


def log_result(loggers: Sequence[Any], result: RangeTestResult) -> None:
    """Log the bounds, or the reason why there are none, and the curve; one process alone may do so.

    All names start with ``lr_range_test``. A picture is left out where matplotlib is not installed.

    Args:
        loggers: Lightning's loggers. One that refuses is warned about.
        result: What the range test has found.

    Example:
        >>> from lightning_clr.curve import Curve
        >>> from pytorch_lightning.loggers import CSVLogger
        >>> logger = CSVLogger(getfixture("tmp_path"))
        >>> log_result([logger], RangeTestResult.read(Curve([0.1], [2.0])))
        >>> sorted(path.name for path in Path(logger.log_dir).iterdir())
        ['hparams.yaml', 'lr_range_test.csv', 'lr_range_test.png']
    """
    for logger in loggers:
        with _or_warn(f"{type(logger).__name__} has not taken the outcome of the range test as hyper-parameters"):
            _log_hyperparameters(logger, _bounds(result) or {f"{NAME}/reason": result.reason})
        with _or_warn(f"{type(logger).__name__} has not taken all that the range test has recorded"):
            write = _WRITERS.get(_kind(logger), _to_any)
            write(logger, result)


def _kind(logger: Any) -> str:
    return next((cls.__name__ for cls in type(logger).__mro__ if cls.__name__ in _WRITERS), "")


def _log_hyperparameters(logger: Any, params: Mapping[str, Any]) -> None:
    logger.log_hyperparams(dict(params))
    if _kind(logger) == "TensorBoardLogger":  # whose file is never written again once it exists
        Path(logger.log_dir, logger.NAME_HPARAMS_FILE).unlink(missing_ok=True)
        logger.save()


def _to_any(logger: Any, result: RangeTestResult) -> None:
    if result.bounds is not None:
        logger.log_metrics(_bounds(result), step=0)


def _to_tensorboard(logger: Any, result: RangeTestResult) -> None:
    _to_any(logger, result)
    writer = logger.experiment
    writer.add_text(NAME, result.summary(), 0)
    for name, step, value in _points(result):
        writer.add_scalar(name, value, step)
    figure = figure_of(result)
    if figure is not None:
        writer.add_figure(f"{NAME}/curve", figure, 0)


def _to_wandb(logger: Any, result: RangeTestResult) -> None:
    wandb = importlib.import_module("wandb")
    table = wandb.Table(columns=[*COLUMNS], data=[*map(list, result.rows())])
    shown = {**_bounds(result), f"{NAME}/table": table}
    if result.smoothed:  # a chart needs a point
        shown[f"{NAME}/curve"] = _wandb_chart(wandb, result)
    figure = figure_of(result)
    if figure is not None:
        shown[f"{NAME}/figure"] = wandb.Image(figure)
    logger.experiment.log(shown, commit=False)  # in the row that training logs first, so that its steps stay its own


def _wandb_chart(wandb: Any, result: RangeTestResult) -> Any:
    """Lines over the learning rate, or over its logarithm, since the axes of such charts have no scale of their own."""
    logarithmic = result.mode == "exponential"
    lines: dict[str, list[tuple[float, float]]] = {}
    for _, lr, value, smoothed, sweep in result.rows():
        if smoothed is not None:
            x, name = math.log10(lr) if logarithmic else lr, ", second sweep" if sweep > 1 else ""
            lines.setdefault(f"recorded{name}", []).append((x, value))
            lines.setdefault(f"smoothed{name}", []).append((x, smoothed))
    return wandb.plot.line_series(
        [[x for x, _ in line] for line in lines.values()],
        [[y for _, y in line] for line in lines.values()],
        keys=[*lines],
        title=f"LR range test: {result.monitor}",
        xname="log10 of the learning rate" if logarithmic else "learning rate",
    )


def _to_mlflow(logger: Any, result: RangeTestResult) -> None:
    _to_any(logger, result)
    metric = importlib.import_module("mlflow.entities").Metric
    now = int(1000 * time.time())
    points = [metric(name, value, now, step) for name, step, value in _points(result)]
    logger.experiment.log_batch(logger.run_id, metrics=points)
    table = io.StringIO(newline="")
    result.to_csv(table)
    logger.experiment.log_text(logger.run_id, table.getvalue(), f"{NAME}.csv")
    figure = figure_of(result)
    if figure is not None:
        logger.experiment.log_figure(logger.run_id, figure, f"{NAME}.png")


def _to_csv(logger: Any, result: RangeTestResult) -> None:
    _to_any(logger, result)
    write_files(result, logger.log_dir)


_WRITERS = {
    "TensorBoardLogger": _to_tensorboard,
    "WandbLogger": _to_wandb,
    "MLFlowLogger": _to_mlflow,
    "CSVLogger": _to_csv,
}


def _bounds(result: RangeTestResult) -> dict[str, Any]:
    if result.bounds is None:
        return {}
    return {f"{NAME}/base_lr": result.bounds.base_lr, f"{NAME}/max_lr": result.bounds.max_lr}


def _points(result: RangeTestResult) -> Iterator[tuple[str, int, float]]:
    """Name, step of the sweep, and number, for those whose axis is the step: two series a sweep."""
    for step, lr, value, _, sweep in result.rows():
        prefix = f"{NAME}/second_" if sweep > 1 else f"{NAME}/"
        yield f"{prefix}lr", step, lr
        yield f"{prefix}value", step, value


@contextmanager
def _or_warn(what: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a library may raise, training goes on
        warnings.warn(f"{what}: {error}", stacklevel=4)
