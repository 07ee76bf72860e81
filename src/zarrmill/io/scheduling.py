"""What Snakemake does again and again for every job, and how it takes SIGTERM.

* Sizes of inputs, which its scheduler asks for: of all jobs that are ready, whenever it looks for the next ones. In a bucket each
  is a request: with 250 products that are ready and one that ends, 250. Sizes only order jobs with temporary inputs and jobs that
  are alike; ours read records of a few kilobytes.
* Parameters of the functions that rules call: for each call, which is a twelfth of the seconds of a dry run.
* Looking for jobs that can begin: a second after each look, because of the limit on jobs in a time; and a second after each of
  those. Every job that ends begins such a chain, so that after 1,500 jobs there are 1,500 looks a second; and the last one keeps
  a driver that is done from ending.
* SIGTERM: its handler takes the scheduler's lock, which the thread that it interrupts holds while it uploads what jobs wrote:
  such a driver stands still for ever (Snakemake 9.27).
"""

import inspect
import threading
import time
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

PARAMETERS = ("self", "jobs")
"""Of the method that asks for sizes; another one is left as it is."""
LATER = ("self", "delay")
"""Of the method that has it look again; another one is left as it is."""


def ask_no_sizes(scheduler: ModuleType) -> None:
    """Let the scheduler take every input for empty.

    Args: scheduler: the module ``snakemake.scheduling.job_scheduler``, whose ``JobScheduler`` keeps sizes in ``_input_sizes``.
    """
    kind: Any = scheduler.JobScheduler  # Snakemake has no types
    if tuple(inspect.signature(kind.update_input_sizes).parameters) != PARAMETERS:
        return

    async def update_input_sizes(self: Any, jobs: Iterable[Any]) -> None:
        self._input_sizes = dict.fromkeys((path for job in jobs for path in job.input), 0)

    kind.update_input_sizes = update_input_sizes


def know_parameters(common: ModuleType, *functions: Callable[..., Any]) -> None:
    """Let the parameters of functions be looked up once, not for every job.

    Args: common: the module ``snakemake.common``; functions: that rules call with wildcards.
    """
    keep = getattr(common, "overwrite_function_params", None)
    if keep is None:
        return
    for function in functions:
        keep(function, inspect.signature(function).parameters)


def look_again_once(scheduler: ModuleType) -> None:
    """Let one timer at a time have the scheduler look again for jobs that can begin, and none keep the process from ending.

    Args: scheduler: the module ``snakemake.scheduling.job_scheduler``, whose ``JobScheduler`` waits for ``_open_jobs``.
    """
    kind: Any = scheduler.JobScheduler  # Snakemake has no types
    if tuple(inspect.signature(kind._schedule_reevalutation).parameters) != LATER:
        return
    lock = threading.Lock()

    def _schedule_reevalutation(self: Any, delay: float) -> None:
        def look() -> None:
            with lock:
                due.remove(at)
            self._open_jobs.release()

        due: list[float] = vars(self).setdefault("_due", [])
        at = time.monotonic() + delay
        with lock:
            if any(other <= at for other in due):
                return
            due.append(at)
        timer = threading.Timer(delay, look)
        timer.daemon = True
        timer.start()

    kind._schedule_reevalutation = _schedule_reevalutation


def end_in_a_thread(scheduler: ModuleType) -> None:
    """Let the scheduler take SIGTERM when it is done with what it does just then, where its handler would wait for itself.

    Args: scheduler: the module ``snakemake.scheduling.job_scheduler``, whose ``JobScheduler`` ends by ``exit_gracefully``.
    """
    kind: Any = scheduler.JobScheduler  # Snakemake has no types
    end = kind.exit_gracefully

    def exit_gracefully(self: Any, *signal: Any) -> None:
        threading.Thread(target=end, args=(self, *signal), daemon=True).start()

    kind.exit_gracefully = exit_gracefully
