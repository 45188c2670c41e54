"""Lets a module's attributes and hyper-parameters tell what a range test has found: where they hold plain numbers.

What they are made of is the user's: dictionaries, omegaconf's containers, properties. Nothing that they raise counts.
"""

import operator
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lightning_clr.bounds import LRBounds


@dataclass
class Told:
    """What tells the learning rates in force, and what does not.

    Attributes:
        changed: Hyper-parameters that have changed, by name.
        before: What they were.
        left: What goes by such a name, and is left as it is.
        is_known: Whether anything tells what is in force.
        has_hparams: Whether there are hyper-parameters at all.
    """

    changed: dict[str, Any] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    is_known: bool = False
    has_hparams: bool = False

    def take_back(self, pl_module: Any) -> None:
        """Let the hyper-parameters be what they were."""
        for name, value in self.before.items():
            with never_an_error():
                pl_module.hparams[name] = value


def update_hyperparameters(pl_module: Any, bounds: LRBounds, lr: float, in_config: bool = False) -> Told:
    """Make attributes and hyper-parameters tell what is in force.

    Only what is None, a number or, of the name ``lr_bounds``, bounds is replaced, and only where that is what can be
    read afterwards: lists, dictionaries, strings, read-only and computed values stay as they are.

    Args:
        pl_module: The LightningModule, which may have ``lr``, ``learning_rate`` and ``lr_bounds``.
        bounds: The bounds in force.
        lr: The learning rate that the module could have been configured with.
        in_config: Whether hyper-parameters are those of a configuration file, which holds bounds as a dictionary.

    Example:
        >>> from types import SimpleNamespace
        >>> module = SimpleNamespace(lr=0.1, hparams={"lr": 0.1, "learning_rate": "auto"})
        >>> update_hyperparameters(module, LRBounds(0.02, 0.3), 0.3).left, module.hparams, module.lr
        (["the hyper-parameter `learning_rate` ('auto')"], {'lr': 0.3, 'learning_rate': 'auto'}, 0.3)
    """
    hparams = _hparams(pl_module)
    told = Told(has_hparams=len(hparams) > 0)
    for name in ("lr", "learning_rate", "lr_bounds"):
        for kind, held, as_dict in (
            ("hyper-parameter", _Held(hparams, name, operator.getitem, operator.setitem), in_config),
            ("attribute", _Held(pl_module, name, getattr, setattr), False),  # last: it may read the hyper-parameter
        ):
            before = held.now
            if before is _NOTHING or callable(before):  # a method and the like only happens to have the name
                continue
            truth = _in_form_of(before, bounds, as_dict) if name == "lr_bounds" else lr
            if not _is_same(before, truth) and held.replace(before, truth) and kind == "hyper-parameter":
                told.changed[name], told.before[name] = truth, before
            if _is_same(held.now, truth):
                told.is_known = True
            else:
                told.left.append(f"the {kind} `{name}` ({reprlib.repr(before)})")
    return told


@contextmanager
def never_an_error() -> Iterator[None]:
    """Pass over whatever the user's containers or a library may raise, but for an interrupt."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException:
        pass


@dataclass
class _Held:
    """A value of the user's, under a name in something that holds it."""

    holder: Any
    name: str
    get: Callable[[Any, str], Any]
    put: Callable[[Any, str, Any], None]

    @property
    def now(self) -> Any:
        """What can be read; ``_NOTHING`` if nothing can."""
        with never_an_error():
            return self.get(self.holder, self.name)
        return _NOTHING

    def replace(self, old: Any, new: Any) -> bool:
        """Put a new value in the old one's place, if both are of one kind; whether that is what can be read now."""
        if not _is_plain(old, new) or _is_computed(self.holder, self.name):
            return False
        with never_an_error():
            self.put(self.holder, self.name, new)
        if _is_same(self.now, new):
            return True
        with never_an_error():
            self.put(self.holder, self.name, old)
        return False


_NOTHING = object()


def _hparams(pl_module: Any) -> Any:
    with never_an_error():
        return pl_module.hparams if len(pl_module.hparams) else {}
    return {}


def _in_form_of(old: Any, bounds: LRBounds, as_dict: bool) -> Any:
    return dict(vars(bounds)) if _holds_bounds(old) or (old is None and as_dict) else bounds


def _is_same(one: Any, other: Any) -> bool:
    return one is other or (one is not None and _is_plain(one, other) and bool(one == other))


def _is_plain(old: Any, new: Any) -> bool:
    """Whether an old value is one that the new one may replace."""
    if isinstance(new, dict):
        return old is None or _holds_bounds(old)
    kinds = LRBounds if isinstance(new, LRBounds) else int | float
    return old is None or (isinstance(old, kinds) and not isinstance(old, bool))


def _holds_bounds(value: Any) -> bool:
    """Whether this is how a configuration file tells bounds."""
    return isinstance(value, Mapping) and set(value) == {"base_lr", "max_lr"}


def _is_computed(holder: Any, name: str) -> bool:
    """Whether a value is omegaconf's interpolation of others, which would be lost."""
    omegaconf = sys.modules.get("omegaconf")
    if omegaconf is None or not isinstance(holder, omegaconf.Container):
        return False
    return bool(omegaconf.OmegaConf.is_interpolation(holder, name))
