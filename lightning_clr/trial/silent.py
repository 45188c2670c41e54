"""What answers in place of an experiment tracker while nothing may be written to it."""

import copy
import operator
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

_PLAIN = (str, bytes, int, float, complex, bool, type(None), os.PathLike, type)
_CONTAINERS = (dict, list, tuple, set, frozenset)
_IS_FOLDER = re.compile(r"dir|path|folder|root|file", re.IGNORECASE)
_WORD = "asleep"


class Silent(str):
    """Takes whatever is written to it, as attribute, call, item or context, and passes it on to nobody.

    What has been assigned can be read again. Other attributes and items that are plain data, such as a name or an id,
    are those of the object that it stands in for, if that is there already; it is an instance of that object's class,
    if that is known. As a text, everything that is called a folder or file is the folder, and anything else a word; as
    a number it is 0; there is nothing to iterate over.

    Args:
        name: What it is called.
        folder: Where the tracker would write.
        real: What it stands in for.

    Example:
        >>> run = Silent("run", "logs")
        >>> run.log({"loss": 1.0}).anything["at"].all = 1
        >>> os.path.join(run.dir, "images"), f"{run.id}", run.step + 1, [*run.history()]
        ('logs/images', 'asleep', 1, [])
    """

    __hash__ = str.__hash__

    def __new__(cls, name: str = "", folder: str = "", real: Any = None) -> "Silent":  # noqa: D102
        silent = super().__new__(cls, folder if _IS_FOLDER.search(name) else _WORD)
        vars(silent).update(_silent=(name, folder, real), _items={})
        return silent

    @property  # type: ignore[misc]  # that can be set
    def __class__(self) -> Any:
        real = self._silent[2]
        kind = vars(self).get("_kind", lambda: Silent)  # that it will have
        return kind() if real is None else type(real)

    def __reduce__(self) -> Any:
        return Silent, self._silent[:2]

    def __copy__(self) -> "Silent":
        return self

    def wake_up(self, logger: Any) -> None:
        """Pass on whatever comes from now on, for those who have kept it beyond the test."""
        names = [name for name in vars(self) if name not in ("_silent", "_items", "_kind")]
        for name in names:
            del vars(self)[name]
        vars(self)["_logger"] = logger

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # protocols, such as those of arrays, that it does not follow
            raise AttributeError(name)
        if "_logger" in vars(self):
            return getattr(self._logger.experiment, name)
        value = self._of_real(name, lambda real: getattr(real, name))
        vars(self)[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if "_logger" in vars(self):
            setattr(self._logger.experiment, name, value)
        else:
            vars(self)[name] = value

    def __delattr__(self, name: str) -> None:
        vars(self).pop(name, None)

    def __call__(self, *_: Any, **__: Any) -> "Silent":  # noqa: D102
        return Silent(*self._silent[:2])

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return str(self)[key]
        if key not in self._items:
            self._items[key] = self._of_real(str(key), lambda real: real[key])
        return self._items[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._items[key] = value

    def __delitem__(self, key: Any) -> None:
        self._items.pop(key, None)

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        return True

    def __enter__(self) -> "Silent":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def __int__(self) -> int:
        return 0

    def __index__(self) -> int:
        return 0

    def __float__(self) -> float:
        return 0.0

    def __format__(self, spec: str) -> str:
        try:
            return format(str(self), spec)
        except ValueError:  # that of a number
            return format(0.0, spec)

    def __truediv__(self, other: Any) -> Any:
        return Path(self, other) if isinstance(other, str | os.PathLike) else 0.0

    def _of_real(self, name: str, read: Callable[[Any], Any]) -> Any:
        """What is read off the real object if it is plain data, and otherwise a stand-in for it."""
        _, folder, real = self._silent
        try:
            value = None if real is None else read(real)
        except Exception:
            value = None
        return stand_in(name, folder, value)


def stand_in(name: str, folder: str, value: Any) -> Any:
    """Plain data as they are, containers as copies, and a :class:`Silent` for anything else."""
    if value is not None and isinstance(value, _PLAIN):
        return value
    return copy.copy(value) if type(value) in _CONTAINERS else Silent(name, folder, value)


def _operation(name: str) -> Callable[[Silent, Any], Any]:
    """An operator that works on text with text, and on 0 with anything else."""
    on_zero = getattr(operator, name.strip("_"))
    on_text = getattr(str, name, None)

    def operate(self: Silent, other: Any) -> Any:
        if "_kind" in vars(self) and name in ("__eq__", "__ne__"):  # as most objects do
            return (self is other) == (name == "__eq__")
        if isinstance(other, str) and on_text is not None:
            return on_text(self, other)
        return on_zero(0, other)

    return operate


for _name in ("__add__", "__sub__", "__mul__", "__floordiv__", "__mod__", "__pow__"):
    setattr(Silent, _name, _operation(_name))
for _name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"):
    setattr(Silent, _name, _operation(_name))
