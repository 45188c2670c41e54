"""A progress bar for the sweep, of the kind the trainer uses."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lightning_clr.lightning import Trainer

_TITLE = "LR range test"


@contextmanager
def progress_bar(trainer: Trainer, total: int) -> Iterator[Callable[[int], object]]:
    """Show a bar of ``total`` steps where the trainer shows bars; the value of the ``with`` block advances it by one.

    It is called with the total as it is then, since a sweep may go on. The trainer's own bar, if one is on screen
    already, is laid aside meanwhile.
    """
    bar = trainer.progress_bar_callback
    if bar is None or getattr(bar, "is_disabled", False) or not trainer.is_global_zero:
        yield lambda total: None
    elif hasattr(bar, "progress"):  # RichProgressBar; two live displays would clash
        from rich.progress import Progress

        on_screen = bar.progress is not None and bar.progress.live.is_started
        if on_screen:
            bar.progress.stop()
        with Progress(transient=True) as progress:
            task = progress.add_task(_TITLE, total=total)
            yield lambda total: progress.update(task, advance=1, total=total)
        if on_screen:
            bar.progress.start()
    else:
        from tqdm.auto import tqdm  # type: ignore[import-untyped]  # comes with Lightning

        with tqdm(total=total, desc=_TITLE, leave=False, dynamic_ncols=True) as progress:

            def advance(total: int) -> None:
                progress.total = total
                progress.update()

            yield advance
