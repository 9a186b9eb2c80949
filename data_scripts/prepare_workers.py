"""Many scans on many processes: each is prepared on its own, and what goes wrong with one costs that one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from course_lib.errors import BadInput
from data_scripts.folder_subjects import Subject
from data_scripts.prepare_subject import CannotWrite, Settings, prepare

DEATHS = 2  # of workers over one scan, after which it is given up


def attempt(folder: Path, settings: Settings, subject: Subject) -> tuple[str, dict | None, BadInput | None]:
    """Prepare one subject.

    Returns:
        Its name, and its side-car or what is wrong.

    Raises:
        CannotWrite: the output folder fails.
    """
    try:
        return subject.name, prepare(folder, settings, subject), None
    except CannotWrite:
        raise
    except BadInput as error:
        return subject.name, None, error
    except MemoryError:
        return subject.name, None, BadInput("there is not enough memory for it.", file=subject.image.path)
    except Exception as error:  # one bad file must not stop the others; it is listed with the error's own words
        cause = f"unexpected {type(error).__name__}: {error}"
        return subject.name, None, BadInput(cause, file=subject.image.path, remedy="Please report this.")


def attempt_all(
    folder: Path, settings: Settings, subjects: list[Subject], workers: int, scheduler: str | None = None
) -> Iterator[tuple[str, dict | None, BadInput | None]]:
    """`attempt` for every subject, in the order in which they end.

    With one worker all is done in this process; with more, by processes of a Dask cluster of this computer; with a
    scheduler, by its workers. No more scans are under way than there are workers, and results are small, so that
    memory does not grow with the number of scans. A scan whose worker is killed is done again by another one, and
    refused when that has happened three times.

    Raises:
        BadInput: the scheduler does not answer, or its workers lack the course or do not see the folders.
        CannotWrite: the output folder fails.
    """
    task = partial(attempt, folder, settings)
    workers = min(workers, len(subjects))
    if not subjects or (workers <= 1 and not scheduler):
        yield from map(task, subjects)
        return
    from distributed.scheduler import KilledWorker

    from course_lib.sweep.cluster import check_workers, connect
    from course_lib.sweep.window import completed

    with connect(workers, scheduler, deaths=DEATHS) as client:
        if scheduler:
            check_workers(client, [folder / "dataset_description.json", subjects[0].image.path])
        window = max(1, sum(client.nthreads().values()))
        for subject, future in completed(client, task, subjects, window=window):
            error = future.exception()
            if isinstance(error, KilledWorker):
                yield subject.name, None, _killed(subject)
            elif error is not None:
                raise error
            else:
                yield future.result()


def _killed(subject: Subject) -> BadInput:
    cause = f"{DEATHS + 1} workers were killed over it, perhaps for want of memory."
    remedy = "Run again with --workers 1: what is finished is kept."
    return BadInput(cause, file=subject.image.path, field="workers", remedy=remedy)
