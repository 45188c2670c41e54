"""How a bad value is refused: what was expected, what came, what to do; and how a frozen one is."""

import functools
import sys
import warnings
from abc import ABCMeta
from collections.abc import Callable
from typing import Any

_NOTHING = object()


class Frozen(ABCMeta):
    """The metaclass of frozen dataclasses that may be assigned what they hold already.

    That is how Lightning copies hyper-parameters (``apply_to_collection``) before it writes ``hparams.yaml`` where
    omegaconf is installed. The dataclass decorator writes ``__setattr__`` into each class, also into those that users
    derive: only a metaclass sees them all.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Point(metaclass=Frozen):
        ...     x: float
        >>> point = Point(0.5)
        >>> point.x = point.x
        >>> point.x = 1.0
        Traceback (most recent call last):
        ...
        dataclasses.FrozenInstanceError: cannot assign to field 'x'
    """

    def __setattr__(cls, name: str, value: Any) -> None:
        super().__setattr__(name, _unless_held(value) if name == "__setattr__" else value)


def _unless_held(refuse: Callable[[Any, str, Any], None]) -> Callable[[Any, str, Any], None]:
    @functools.wraps(refuse)
    def assign(owner: Any, name: str, value: Any) -> None:
        if getattr(owner, name, _NOTHING) is not value:
            refuse(owner, name, value)

    return assign


def require(
    name: str,
    value: Any,
    rule: str,
    holds: Callable[[Any], object],
    advice: str = "",
    error: type[Exception] = ValueError,
) -> None:
    """Raise unless ``holds(value)``.

    Args:
        name: What the user calls the value.
        value: What came.
        rule: What was expected, completing "`name` must …".
        holds: The rule as a predicate. Comparisons with NaN are false, so NaN never passes an inequality.
        advice: What to do, a whole sentence.
        error: What to raise; TypeError if the rule is about the type.

    Raises:
        ValueError: If the rule does not hold, unless ``error`` is another.
        TypeError: If the rule cannot even be asked of a value of this type.

    Example:
        >>> require("num_steps", 3, "be at least 10", lambda n: n >= 10, "More steps give a smoother curve.")
        Traceback (most recent call last):
        ...
        ValueError: `num_steps` must be at least 10, got 3. More steps give a smoother curve.
    """
    try:
        if holds(value):
            return
    except TypeError:
        error = TypeError
    except OverflowError:  # infinity is no whole number
        pass
    raise error(f"`{name}` must {rule}, got {value!r}. {advice}".rstrip())


def warn_each_time(message: str) -> None:
    """Warn, also of what has been warned of before: Python by itself shows the same warning once in a process.

    Example:
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warnings.simplefilter("default")
        ...     for _ in range(2):
        ...         warn_each_time("no bounds")
        >>> len(told)
        2
    """
    caller = sys._getframe(1)
    warnings.warn_explicit(message, UserWarning, caller.f_code.co_filename, caller.f_lineno, registry={})


def add_note(error: BaseException, note: str) -> None:
    """Tell more about an error, below its message; before Python 3.11, which has notes, in it.

    Example:
        >>> error = ValueError("mishap")
        >>> add_note(error, "At lr=1.")
        >>> "At lr=1." in [*getattr(error, "__notes__", ()), *str(error).splitlines()]
        True
    """
    if hasattr(error, "add_note"):
        error.add_note(note)
    elif error.args and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]}\n{note}", *error.args[1:])
