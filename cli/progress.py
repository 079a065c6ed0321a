"""A progress bar over bytes, rows or tokens, on stderr; nothing when stderr is not a terminal.

Of many processes the first shows it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cli.options import shown, speaks


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yields a function that is called with how much has just been done."""
    if not (sys.stderr.isatty() and speaks()):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress, TextColumn

    columns = Progress.get_default_columns()
    if total is None:  # how much there is only shows at the end
        columns = (*columns[:2], TextColumn("{task.completed:,.0f}"))
    with Progress(
        *columns,
        console=Console(file=sys.stderr),  # whatever it is while the bar is shown
        transient=True,
    ) as bar:
        task = bar.add_task(escape(shown(description)), total=total)
        yield lambda done: bar.update(task, advance=done)
