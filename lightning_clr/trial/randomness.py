"""Random generators: the global ones of Python, NumPy, torch and every accelerator, and those that objects hold."""

import functools
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

_ACCELERATORS = ("cuda", "xpu", "mps", "mtia", "hpu", "npu", "mlu", "musa")


def rng_state() -> dict[str, Any]:
    """State of the global random generators of Python, torch and, where they are in use, NumPy and accelerators."""
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if "numpy" in sys.modules:
        state["numpy"] = sys.modules["numpy"].random.get_state()
    for name, accelerator in _accelerators_in_use():
        state[name] = getattr(accelerator, "get_rng_state_all", accelerator.get_rng_state)()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Put the global random generators into a state taken by :func:`rng_state`."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "numpy" in state:
        sys.modules["numpy"].random.set_state(state["numpy"])
    for name, accelerator in _accelerators_in_use():
        if name in state:
            getattr(accelerator, "set_rng_state_all", accelerator.set_rng_state)(state[name])


def _accelerators_in_use() -> Iterator[tuple[str, Any]]:
    for name in _ACCELERATORS:
        accelerator: Any = getattr(torch, name, None)
        backend: Any = torch.backends.mps if name == "mps" else accelerator
        is_there = hasattr(accelerator, "get_rng_state") and backend.is_available()
        if is_there and getattr(accelerator, "is_initialized", lambda: True)():
            yield name, accelerator


def generator_state(value: Any) -> Callable[[], object] | None:
    """For a random generator, what puts it back into its present state if it has moved; ``None`` for all else."""
    methods = _methods(value)
    return None if methods is None else functools.partial(_put_back, *methods, methods[0]())


def _methods(value: Any) -> tuple[Callable[[], Any], Callable[[Any], object]] | None:
    """What gets and what sets the state of a random generator."""
    numpy: Any = sys.modules.get("numpy")
    if isinstance(value, torch.Generator):
        return value.get_state, value.set_state
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):  # which has no state
        return value.getstate, value.setstate
    if numpy is not None and isinstance(value, numpy.random.RandomState):
        return value.get_state, value.set_state
    if numpy is not None and isinstance(value, numpy.random.Generator | numpy.random.BitGenerator):
        bits = getattr(value, "bit_generator", value)
        return functools.partial(getattr, bits, "state"), functools.partial(setattr, bits, "state")
    return None


def _put_back(get: Callable[[], Any], put: Callable[[Any], object], state: Any) -> None:
    if pickle.dumps(get()) != pickle.dumps(state):
        put(state)
