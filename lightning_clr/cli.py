"""A LightningCLI that knows schedules and runs the range test as a subcommand."""

import contextlib
import importlib
import inspect
import json as json_format
import sys
import typing
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from lightning_clr.bounds import LRBounds
from lightning_clr.configure import attach_schedule, has_schedule_attached
from lightning_clr.files import write_files
from lightning_clr.lightning import LightningModule, Trainer, join_packages_in_use, package_of_class, packages_in_use
from lightning_clr.mixin import CLRMixin
from lightning_clr.range_test import LRRangeTest, only_test
from lightning_clr.result import RangeTestResult
from lightning_clr.schedules import Schedule

if TYPE_CHECKING:
    from pytorch_lightning.cli import LightningCLI
else:
    LightningCLI = object  # which of the two is known when the command line is made

_SCHEDULE_OF_MODEL = ("model.schedule", "model.init_args.schedule")  # the second if the model's class is chosen by flag
_BOUNDS_OF_MODEL = ("model.lr_bounds", "model.init_args.lr_bounds")


class CLRCLI(LightningCLI):
    """A LightningCLI, of the package that the model comes from, with schedules and a ``range_test`` subcommand.

    - A module with the mixin takes ``--model.schedule`` and ``--model.lr_bounds``, also together with ``--optimizer``.
    - A module without it is left as it is, unless ``--schedule`` attaches one, stepping per optimizer step;
      ``--lr_bounds`` may go with it.
    - ``--lr_scheduler`` replaces the schedule. ``CyclicLR`` and ``OneCycleLR`` step per optimizer step.
    - ``range_test`` runs only the test, with the settings of the LRRangeTest among the trainer's callbacks.

    Args:
        model_class: As in LightningCLI, as all others.
        datamodule_class: The LightningDataModule.

    Example:
        >>> import sys
        >>> from pytorch_lightning.demos.boring_classes import BoringModel
        >>> sys.argv = "train.py --schedule=OneCycle --schedule.pct_start=0.2 --trainer.logger=false".split()
        >>> cli = CLRCLI(BoringModel, run=False, seed_everything_default=False)
        >>> cli.config_init.schedule.pct_start
        0.2
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> "CLRCLI":
        """Build on the LightningCLI of the package that model, data module or trainer come from."""
        known = (package_of_class(_class_made_by(value)) for value in (*args, *kwargs.values()))
        join_packages_in_use()
        return _built_on(cls, next(filter(None, known), packages_in_use()[0].__name__))

    def __reduce__(self) -> Any:
        """Spawned processes are sent it with the trainer."""
        _, cls, *_ = type(self).__mro__
        return _built_on, (cls, package_of_class(type(self))), vars(self)

    @classmethod
    def subcommands(cls) -> dict[str, set[str]]:
        """Those of LightningCLI, and ``range_test``."""
        return {**super().subcommands(), "range_test": {"trainer", "model", "datamodule", "json"}}

    def setup_parser(self, add_subcommands: bool, main_kwargs: Any, subparser_kwargs: Any) -> None:
        """Let LightningCLI find the subcommand's method where it looks for it, in the trainer's class."""
        of_fit = {name: value for name, value in subparser_kwargs.get("fit", {}).items() if name != "description"}
        of_range_test = {**of_fit, **subparser_kwargs.get("range_test", {}), "prints_json": True}
        trainer_class: Any = _class_made_by(self.trainer_class)
        trainer_class.range_test = range_test
        try:
            super().setup_parser(add_subcommands, main_kwargs, {**subparser_kwargs, "range_test": of_range_test})
        finally:
            del trainer_class.range_test

    def init_parser(self, prints_json: bool = False, **kwargs: Any) -> Any:
        """Add ``--json`` where it belongs."""
        parser = super().init_parser(**kwargs)
        if prints_json:
            parser.add_argument(
                "--json", action="store_true", help="Print one JSON object, and nothing else on stdout (type: flag)"
            )
        return parser

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Tell whose bounds count where training resumes; Lightning then takes the flags' for the checkpoint's own."""
        super().parse_arguments(parser, args)
        self.subcommand = self.config.get("subcommand")
        ckpt_path = self._value("ckpt_path") if self.subcommand == "fit" else None
        for flag in ("lr_bounds", *_BOUNDS_OF_MODEL):
            if ckpt_path is not None and self._value(flag) is not None:
                rank_zero_warn(
                    f"--{flag}: training resumes from --ckpt_path={ckpt_path}, where the checkpoint's bounds count and"
                    " not these. To train between these, start without --ckpt_path."
                )

    def add_default_arguments_to_parser(self, parser: Any) -> None:
        """Add ``--schedule`` and ``--lr_bounds``."""
        super().add_default_arguments_to_parser(parser)
        parser.add_argument(
            "--schedule",
            type=Schedule | None,
            help="The learning rate policy for a module without CLRMixin; with it, use --model.schedule.",
        )
        parser.add_argument(
            "--lr_bounds",
            type=LRBounds | None,
            help="Lower and upper learning rate of --schedule. A range test replaces them.",
        )

    def instantiate_classes(self) -> None:
        """Give the schedule to the model, or refuse flags that contradict each other."""
        self._check_ranges()
        only_test = self.subcommand == "range_test"
        with contextlib.redirect_stdout(sys.stderr) if only_test else contextlib.nullcontext():
            super().instantiate_classes()
        self._check_flags()
        if self._value("schedule") is not None:
            schedule, lr_bounds = (self._value(name, self.config_init) for name in ("schedule", "lr_bounds"))
            attach_schedule(self.model, schedule, lr_bounds)
        optimizers = vars(self.model).get("configure_optimizers")
        if isinstance(optimizers, MethodType):  # LightningCLI's, for --optimizer, would be lost in spawned processes
            self.model.configure_optimizers = partial(_call, optimizers.__func__, self.model)
        if only_test:
            self.trainer.range_test = partial(range_test, self.trainer, json=self._value("json"))  # type: ignore[attr-defined]

    @staticmethod
    def configure_optimizers(lightning_module: Any, optimizer: Optimizer, lr_scheduler: Any = None) -> Any:
        """Let ``--optimizer`` go with the module's schedule, and torch's cycles step per optimizer step."""
        if lr_scheduler is None:
            return lightning_module.with_schedule(optimizer) if isinstance(lightning_module, CLRMixin) else optimizer
        config = {"scheduler": lr_scheduler}
        if isinstance(lr_scheduler, CyclicLR | OneCycleLR):
            config["interval"] = "step"
        if hasattr(lr_scheduler, "monitor"):  # Lightning's ReduceLROnPlateau
            config["monitor"] = lr_scheduler.monitor
        return {"optimizer": optimizer, "lr_scheduler": config}

    def _value(self, key: str, config: Any = None) -> Any:
        config = self.config if config is None else config
        return (config[self.subcommand] if self.subcommand else config).get(key)

    def _check_ranges(self) -> None:
        for flag in ("schedule", "lr_bounds", *_SCHEDULE_OF_MODEL, *_BOUNDS_OF_MODEL):
            try:
                _make(self._value(flag))
            except (TypeError, ValueError) as error:  # jsonargparse would not tell the flag, but raise it
                self.parser.error(f"--{flag}: {error}")

    def _check_flags(self) -> None:
        has_mixin, name = isinstance(self.model, CLRMixin), type(self.model).__name__
        for flag in ("schedule", "lr_bounds"):
            if has_mixin and self._value(flag) is not None:
                self.parser.error(
                    f"--{flag} is for a module without CLRMixin, but {name} has it: use --model.{flag} (if there is no"
                    f" such flag, let {name}.__init__ take **kwargs and pass them to super().__init__)."
                )
        for flag in ("schedule", *(_SCHEDULE_OF_MODEL if has_mixin else ())):
            if self._value(flag) is not None and self._value("lr_scheduler") is not None:
                self.parser.error(f"--{flag} and --lr_scheduler contradict each other: give one of them.")
        if self.subcommand == "range_test" and self._value("ckpt_path") is not None:
            self.parser.error("--ckpt_path: a training that resumes has its bounds already; test one that starts.")
        if self._value("lr_bounds") is not None and self._value("schedule") is None:
            self.parser.error("--lr_bounds needs a schedule that moves between them, such as --schedule=OneCycle.")


def _built_on(cls: type[CLRCLI], package: str) -> CLRCLI:
    base = importlib.import_module(f"{package}.cli").LightningCLI
    return object.__new__(type(cls.__name__, (cls, base), {"__module__": cls.__module__, "__doc__": cls.__doc__}))


def range_test(
    trainer: Trainer,
    model: LightningModule,
    datamodule: Any = None,
    ckpt_path: str | None = None,
    weights_only: bool | None = None,
    json: bool = False,
) -> None:
    """Run only the LR range test, print the bounds, and write curve and picture to the log folder.

    Ends the program with status 1 if the curve does not tell the bounds.

    Args:
        trainer: The Trainer. The settings of the test are those of the LRRangeTest among its callbacks.
        model: The LightningModule.
        datamodule: The LightningDataModule, if any.
        ckpt_path: Only for configurations of ``fit``, must be null: a training that resumes has its bounds.
        weights_only: Only for configurations of ``fit``, has no effect.
        json: Print the outcome as one JSON object, and nothing else on stdout.
    """
    tests = [callback for callback in trainer.callbacks if isinstance(callback, LRRangeTest)]  # type: ignore[attr-defined]
    with contextlib.redirect_stdout(sys.stderr):
        result = only_test(tests[0] if tests else LRRangeTest(), trainer, model, datamodule=datamodule)
    folder = trainer.log_dir or trainer.default_root_dir  # asks all ranks
    if trainer.is_global_zero:
        files = write_files(result, str(folder))
        text = _as_json(result, files) if json else _as_text(result, files, _flag_of_bounds(model))
        print(text, flush=True)  # noqa: T201  # what the command is for
    trainer.strategy.barrier()  # where a process ends before, a launcher may end the one that prints
    if trainer.is_global_zero and result.bounds is None:  # alone: the status of another would be taken for a crash
        sys.exit(1)


def _flag_of_bounds(model: LightningModule) -> str | None:
    """The flag that gives bounds to a model; ``None`` if it has no schedule of ours."""
    if isinstance(model, CLRMixin):
        return "--model.lr_bounds"
    return "--lr_bounds" if has_schedule_attached(model) else None


def _call(function: Any, *args: Any) -> Any:
    return function(*args)  # LightningCLI's is a partial itself; in another, Lightning would not find what it overrides


def _make(parsed: Any) -> None:
    """Make a schedule or bounds of what was parsed; raises what its class raises."""
    fields = vars(parsed) if hasattr(parsed, "__dict__") else {}
    if "class_path" in fields:
        module, _, name = parsed.class_path.rpartition(".")
        cls = getattr(importlib.import_module(module), name)
        if inspect.isclass(cls) and issubclass(cls, Schedule):
            cls(**parsed.init_args)
    elif fields.keys() == {"base_lr", "max_lr"}:
        LRBounds(**fields)


def _as_json(result: RangeTestResult, files: dict[str, str]) -> str:
    bounds = {"base_lr": None, "max_lr": None} if result.bounds is None else vars(result.bounds)
    told = {"interval": result.interval, "reason": result.reason, "monitor": result.monitor, "steps": result.num_steps}
    return json_format.dumps({**bounds, **told, **files})


def _as_text(result: RangeTestResult, files: dict[str, str], flag: str | None) -> str:
    lines = [result.summary(), *files.values()]
    if result.bounds is not None and flag is not None:
        lines.append(f"{flag}.base_lr={result.bounds.base_lr:.6g} {flag}.max_lr={result.bounds.max_lr:.6g}")
    return "\n".join(lines)


def _class_made_by(value: Any) -> type:
    """``value`` if it is a class; of a function, the class that it says to return."""
    with contextlib.suppress(NameError):  # an annotation for type checkers only
        if inspect.isroutine(value):
            value = typing.get_type_hints(value).get("return")
    return value if isinstance(value, type) else object
