"""Situations in which a range test must leave no trace, and what breaks it."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from lightning_clr.trial.snapshot import Snapshot
from support.exactness import SWEEP, AfterTrial, Case, MishapError, WithoutTrial, run

Mutation = Callable[[pytest.MonkeyPatch], None]
"""Switches off a part of the restoration."""


ENDINGS = {
    "ok": {},
    "error": {"fault": MishapError},
    "ctrl-c": {"fault": KeyboardInterrupt},
    "nan": {"fault": float("nan")},
    "twice": {"trials": 2},
}


class Scenarios(dict[str, Callable[[], Case]]):
    """Functions by their names, each of which makes a case; pytest's marks on them are those of its tests."""

    def add(self, make: Callable[[], Case]) -> Callable[[], Case]:
        self[make.__name__] = make
        return make

    @property
    def in_each_ending(self) -> pytest.MarkDecorator:
        """Every scenario with every ending; marked, if it is neither the first scenario nor the first ending."""
        first = next(iter(self))
        pairs = [
            pytest.param(
                make,
                ending,
                marks=[*_marks(make), *([] if how == "ok" or name == first else [pytest.mark.exhaustive])],
                id=f"{name}-{how}",
            )
            for name, make in self.items()
            for how, ending in ENDINGS.items()
        ]
        return pytest.mark.parametrize(("make", "ending"), pairs)


def _marks(make: Callable[[], Case]) -> list[pytest.Mark]:
    return getattr(make, "pytestmark", [])


def trace(
    make: Callable[[], Case], test: type[WithoutTrial], folder, monkeypatch, **arguments
) -> tuple[list[Any], WithoutTrial]:
    """The trace of one run, in a folder of its own."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    case = make()
    for name, value in case.trainer.items():
        case.trainer[name] = value() if callable(value) else value
    callback = test(**{**SWEEP, **arguments, **case.test})
    return run(case, callback), callback


UNTESTED: dict[Callable[[], Case], list[Any]] = {}
"""Traces of runs without a trial, which many are compared with."""


def untested(make: Callable[[], Case], folder, monkeypatch) -> list[Any]:
    if make not in UNTESTED:
        UNTESTED[make], _ = trace(make, WithoutTrial, folder, monkeypatch)
    return UNTESTED[make]


def check_bit_identical(make: Callable[[], Case], ending: dict[str, Any], folder, monkeypatch) -> None:
    """Compare the traces of a run with the trial and of one without."""
    expected = untested(make, folder / "without", monkeypatch)
    actual, test = trace(make, type("AfterTrial", (AfterTrial,), ending), folder / "with", monkeypatch)

    assert test.ran >= (1 if test.fault else 3)
    assert actual == expected
    if test.trials == 2:
        assert test.found[0].values == test.found[1].values


def check_noticed(mutate: Mutation, make: Callable[[], Case], folder, monkeypatch) -> None:
    """See that the comparison fails with a part switched off; an error would prove nothing, and is one here too."""
    expected = untested(make, folder / "without", monkeypatch)
    mutate(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # one trial alone, since a second one might raise
        actual, test = trace(make, AfterTrial, folder / "with", monkeypatch, search=None)

    assert test.ran >= 3
    assert actual != expected


def each_mutation(mutations: dict[str, tuple[Mutation, Callable[[], Case]]]) -> pytest.MarkDecorator:
    """Each with the scenario in which it shows."""
    return pytest.mark.parametrize(
        ("mutate", "make"),
        [pytest.param(mutate, make, marks=_marks(make), id=name) for name, (mutate, make) in mutations.items()],
    )


def nothing(*_, **__):
    """What a part of the restoration does when it is switched off."""


def without(target: str, replacement: Callable[..., Any] = nothing) -> Mutation:
    return lambda monkeypatch: monkeypatch.setattr(f"lightning_clr.{target}", replacement)


def both(one: Mutation, other: Mutation) -> Mutation:
    """Where either would do alone."""

    def mutate(monkeypatch: pytest.MonkeyPatch) -> None:
        one(monkeypatch)
        other(monkeypatch)

    return mutate


def keeping(*names: str) -> Mutation:
    """Leave out what the trial replaces on the trainer and its parts."""
    replace = Snapshot.replace

    def fewer(self, owner, **attributes):
        replace(self, owner, **{name: value for name, value in attributes.items() if name not in names})

    return without("trial.snapshot.Snapshot.replace", fewer)


def forgetting(*kinds: type) -> Mutation:
    """Leave objects of some classes out of the snapshot."""
    visit = Snapshot._visit

    def visit_others(self, value, depth, is_root=False):
        return (depth, []) if isinstance(value, kinds) else visit(self, value, depth, is_root)

    return without("trial.snapshot.Snapshot._visit", visit_others)
