"""Many tasks on a Dask cluster, a few at a time: neither the tasks nor their results pile up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Client, Future

WINDOW = 64


def completed(
    client: Client, function: Callable, items: Iterable, *, retries: int = 0, window: int | None = None
) -> Iterator[tuple]:
    """Call `function(item)` on the cluster for every item; yields each item with its future as they end.

    A task whose worker dies is done again on another one; one that raises is tried `retries` times more. Tasks that
    are not done when the caller stops are cancelled.

    Args:
        client: of the cluster.
        function: of a module that the workers know.
        items: small values; taken one at a time.
        retries: how often a task that raised is tried again.
        window: tasks that are waiting or at work; default 64, more where there are more threads.
    """
    from distributed import as_completed

    items = iter(items)
    owners: dict[str, object] = {}
    futures = as_completed(loop=client.loop)

    def submit(count: int) -> None:
        for item in islice(items, count):
            future = client.submit(function, item, pure=False, retries=retries)
            owners[future.key] = item
            futures.add(future)

    window = window or max(WINDOW, 4 * sum(client.nthreads().values()))
    submit(window)
    try:
        for future in futures:
            yield owners.pop(future.key), future
            future.release()
            submit(window - len(owners))
    finally:
        if owners:
            client.cancel([_future(client, key) for key in owners], asynchronous=False)


def _future(client: Client, key: str) -> Future:
    from distributed import Future

    return Future(key, client=client)
