"""Parts mapped over a Prefect task runner: the flow's own threads, or a Dask or Ray cluster."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prefect import task, unmapped
from prefect.cache_policies import NO_CACHE

from hubflow.errors import SettingsError
from hubflow.inference.batch.shard import predict_part
from hubflow.schemas.references import PredictionJob, ShardRecord, ShardRef
from hubflow.schemas.settings import RunnerSettings

SET_BY_DASK = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_", "PYTHONHASHSEED")
predict_part_task = task(name="predict_part", cache_policy=NO_CACHE, persist_result=False)(predict_part)


class OverRunner:
    """Maps parts over what the settings name; for use in a flow run."""

    def __init__(self, settings: RunnerSettings) -> None:
        self._settings = settings

    def __call__(self, work: PredictionJob, parts: Sequence[ShardRef]) -> Iterator[ShardRecord]:
        """Records of the parts, in order; the first part that fails ends them with its error."""
        if self._settings.kind == "flow":
            for future in predict_part_task.map(unmapped(work), list(parts)):
                yield future.result()
            return
        with _cluster(self._settings) as runner:
            if self._settings.address is None:
                from hubflow.runtime.threads import usable_cores

                work = work.model_copy(update={"threads": max(1, usable_cores() // self._settings.workers)})
            for future in runner.map(predict_part_task, {"work": unmapped(work), "part": list(parts)}):
                yield future.result()


@contextmanager
def _cluster(settings: RunnerSettings) -> Iterator[Any]:
    """The task runner of a cluster that runs, or of one that is started here and ends with the block.

    Raises:
        SettingsError: when the extra is not installed.
    """
    try:
        runner = _dask(settings) if settings.kind == "dask" else _ray(settings)
    except ImportError as error:
        raise SettingsError(
            f"runner {settings.kind} needs the extra `{settings.kind}` ({error}); uv sync --extra {settings.kind}"
        ) from error
    with _environment_kept(), runner:
        yield runner


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Take back what a local Dask cluster sets for its workers, and leaves set.

    A training in a process that is started from here would take `OMP_NUM_THREADS=1` for the user's word.
    """
    before = {name: os.environ.get(name) for name in SET_BY_DASK}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _dask(settings: RunnerSettings) -> Any:
    from prefect_dask.task_runners import DaskTaskRunner

    if settings.address is not None:
        return DaskTaskRunner(address=settings.address)
    local = {"n_workers": settings.workers, "threads_per_worker": 1, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=local)


def _ray(settings: RunnerSettings) -> Any:
    from prefect_ray.task_runners import RayTaskRunner

    if settings.address is not None:
        return RayTaskRunner(address=settings.address)
    return RayTaskRunner(init_kwargs={"num_cpus": settings.workers, "include_dashboard": False})
