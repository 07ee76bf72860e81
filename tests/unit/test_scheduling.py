"""What a driver finds out once, or not at all."""

import asyncio
import inspect
import signal
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from snakemake import common
from snakemake.scheduling import job_scheduler

from zarrmill.io.scheduling import (
    LATER,
    PARAMETERS,
    ask_no_sizes,
    end_in_a_thread,
    know_parameters,
    look_again_once,
)


def scheduler(method: Any) -> ModuleType:
    module = ModuleType("job_scheduler")
    module.JobScheduler = type("JobScheduler", (), {"update_input_sizes": method})  # type: ignore[attr-defined]
    return module


def test_inputs_of_all_jobs_are_empty_and_nothing_is_asked_for() -> None:
    async def asks(self: Any, jobs: Any) -> None:
        raise AssertionError("a request for every job that is ready")

    module = scheduler(asks)
    ask_no_sizes(module)
    found = module.JobScheduler()
    asyncio.run(found.update_input_sizes([SimpleNamespace(input=["a", "b"]), SimpleNamespace(input=["b", "c"])]))
    assert found._input_sizes == {"a": 0, "b": 0, "c": 0}


def test_another_method_is_left_as_it_is() -> None:
    async def other(self: Any, jobs: Any, how: Any) -> None:
        pass

    module = scheduler(other)
    ask_no_sizes(module)
    assert module.JobScheduler.update_input_sizes is other


def test_it_fits_the_scheduler_that_is_installed() -> None:
    source = inspect.getsource(job_scheduler)
    assert source.count("self._input_sizes") >= 3
    assert tuple(inspect.signature(job_scheduler.JobScheduler.update_input_sizes).parameters) == PARAMETERS


def test_parameters_are_known_without_looking_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def memory(wildcards: Any, attempt: int) -> int:
        return 100 * attempt

    know_parameters(common, memory)
    monkeypatch.setattr(inspect, "signature", None)
    given = {"attempt": 2, "threads": 1}
    assert common.get_input_function_aux_params(memory, given) == {"attempt": 2}


def test_without_a_place_for_them_functions_stay_as_they_are() -> None:
    def memory(wildcards: Any) -> int:
        return 1

    know_parameters(ModuleType("common"), memory)
    assert not vars(memory)


def waiting(module: ModuleType) -> Any:
    """Return a scheduler that waits for jobs."""
    found = module.JobScheduler()
    found._open_jobs = threading.Semaphore(0)
    return found


def later(method: Any) -> ModuleType:
    module = ModuleType("job_scheduler")
    module.JobScheduler = type("JobScheduler", (), {"_schedule_reevalutation": method})  # type: ignore[attr-defined]
    return module


def test_one_look_is_due_however_often_it_is_asked_for() -> None:
    module = later(lambda self, delay: None)
    look_again_once(module)
    one, other = waiting(module), waiting(module)
    for found in (one, one, one, other):
        found._schedule_reevalutation(0.05)
    for found in (one, other):
        assert found._open_jobs.acquire(timeout=10)
        assert not found._open_jobs.acquire(timeout=0.2), "a look for each that was asked for"
    one._schedule_reevalutation(0.05)
    assert one._open_jobs.acquire(timeout=10), "none is due any more: the next one is asked for in vain"


def test_an_earlier_look_does_not_wait_for_a_later_one_and_none_keeps_the_process() -> None:
    module = later(lambda self, delay: None)
    look_again_once(module)
    found, before = waiting(module), set(threading.enumerate())
    found._schedule_reevalutation(600)
    found._schedule_reevalutation(0.05)
    assert found._open_jobs.acquire(timeout=10)
    assert all(thread.daemon for thread in set(threading.enumerate()) - before)


def test_another_way_to_look_again_is_left_as_it_is() -> None:
    def method(self: Any, delay: int, why: str) -> None:
        pass

    module = later(method)
    look_again_once(module)
    assert module.JobScheduler._schedule_reevalutation is method


def test_looking_again_fits_the_scheduler_that_is_installed() -> None:
    kind = job_scheduler.JobScheduler
    assert tuple(inspect.signature(kind._schedule_reevalutation).parameters) == LATER
    assert "self._open_jobs.release()" in inspect.getsource(kind._schedule_reevalutation)


def test_sigterm_while_the_scheduler_is_at_work_is_taken_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_scheduler.JobScheduler, "exit_gracefully", job_scheduler.JobScheduler.exit_gracefully)
    end_in_a_thread(job_scheduler)
    one = object.__new__(job_scheduler.JobScheduler)
    one._lock, one._open_jobs, one._user_kill = threading.Lock(), threading.Semaphore(0), None
    before = signal.signal(signal.SIGTERM, one.exit_gracefully)
    try:
        with one._lock:
            signal.raise_signal(signal.SIGTERM)  # an own handler of Snakemake would never return
            assert one._user_kill is None
        assert one._open_jobs.acquire(timeout=30)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert one._user_kill == "graceful"
