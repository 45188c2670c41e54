"""The wrapper of distributed data parallel training, whose buckets learn from the first backward pass.

After it they are sorted by the order in which gradients came, which changes the order of summation, and so the last
bits of all that follows. The wrapper stays the same object, with all that users have registered on it or set; only
what sums the gradients is made anew, as after unpickling. That takes no communication, so that a rank may do it alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def buckets_as_at_first(wrapper: Any) -> Iterator[None]:
    """Undo, at the end of the ``with`` block, what a DDP wrapper has learned in it; anything else is left alone.

    By then the wrapper's attributes have to be put back.
    """
    try:
        yield
    finally:
        if isinstance(wrapper, DistributedDataParallel) and hasattr(wrapper, "reducer"):
            _renew(wrapper)


def _renew(wrapper: Any) -> None:
    builtin = _builtin_hook(wrapper)
    hooks = [*wrapper._comm_hooks]
    wrapper._comm_hooks.clear()
    wrapper.__setstate__({name: value for name, value in vars(wrapper).items() if name not in ("reducer", "logger")})
    for hook, state in hooks:
        wrapper.register_comm_hook(state, hook)
    if builtin is not None:
        wrapper._register_builtin_comm_hook(builtin)
    if wrapper.mixed_precision is not None:
        wrapper.reducer._set_mixed_precision_param_dtype(wrapper.mixed_precision.param_dtype)


def _builtin_hook(wrapper: Any) -> Any:
    """The hook of torch's own that is written in C++, if the user has registered one: only its name is kept."""
    name = wrapper._get_ddp_logging_data().get("comm_hook")
    kinds = torch.distributed.BuiltinCommHookType.__members__.values()  # type: ignore[attr-defined]
    return next((kind for kind in kinds if str(kind) == name), None)
