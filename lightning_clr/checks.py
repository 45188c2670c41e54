"""How a bad value is refused: what was expected, what came, what to do."""

from collections.abc import Callable
from typing import Any


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
