"""What a driver finds out once, or not at all."""

import asyncio
import inspect
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from snakemake import common
from snakemake.scheduling import job_scheduler

from zarrmill.io.scheduling import PARAMETERS, ask_no_sizes, know_parameters


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
