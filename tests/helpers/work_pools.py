"""The base job templates in deploy/pools, and the jobs that Prefect's own workers make of them for runs on a server."""

import asyncio
import json
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.workers.base import BaseJobConfiguration, BaseWorker
from prefect.workers.process import ProcessWorker
from prefect_docker.worker import DockerWorker
from prefect_kubernetes.worker import KubernetesWorker

from hubflow.flows import fine_tune

FOLDER = Path(__file__).parents[2] / "deploy" / "pools"
WORKERS: dict[str, type[BaseWorker[Any, Any, Any]]] = {
    "process": ProcessWorker,
    "docker": DockerWorker,
    "kubernetes": KubernetesWorker,
}
POOL = "from-{}-json"
ENTRYPOINT = "hubflow.flows.fine_tune.fine_tune"


def template_of(kind: str) -> dict[str, Any]:
    """The base job template for pools of a type."""
    template: dict[str, Any] = json.loads((FOLDER / f"{kind}.json").read_text(encoding="utf-8"))
    return template


def make_pool(kind: str) -> str:
    """Make a pool from the template on the server that is set, where it is not there yet; gives its name."""
    name = POOL.format(kind)
    with get_client(sync_client=True) as client:
        if name not in [pool.name for pool in client.read_work_pools()]:
            client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template_of(kind)))
    return name


def make_run(
    kind: str,
    job_variables: dict[str, Any] | None = None,
    of_run: dict[str, Any] | None = None,
    parameters: dict[str, Any] | None = None,
) -> FlowRun:
    """Have the server make a run of a deployment of fine-tune in the pool.

    Args:
        kind: type of the pool.
        job_variables: of the deployment.
        of_run: job variables of the run.
        parameters: of the flow.
    """
    pool = make_pool(kind)
    with get_client(sync_client=True) as client:
        flow = client.create_flow(fine_tune)
        deployment = client.create_deployment(
            flow, f"in-{pool}", work_pool_name=pool, entrypoint=ENTRYPOINT, job_variables=job_variables or {}
        )
        return client.create_flow_run_from_deployment(deployment, parameters=parameters or {}, job_variables=of_run)


def job_of(run: FlowRun, kind: str) -> Any:
    """The job that a worker of this type starts for a run: its configuration, prepared as the worker prepares it."""
    configuration: type[BaseJobConfiguration] = WORKERS[kind].job_configuration

    async def prepared() -> BaseJobConfiguration:
        async with get_client() as client:
            pool = await client.read_work_pool(POOL.format(kind))
            return await configuration.resolve_for_flow_run(run, client=client, work_pool=pool, worker_name="a worker")

    return asyncio.run(prepared())


def pod_of(job: Any) -> dict[str, Any]:
    """The specification of the pod of a Kubernetes job."""
    pod: dict[str, Any] = job.job_manifest["spec"]["template"]["spec"]
    return pod


def container_of(job: Any) -> dict[str, Any]:
    """The one container of a Kubernetes job."""
    (container,) = pod_of(job)["containers"]
    return dict(container)


def environment_of(job: Any) -> dict[str, str]:
    """The variables of the container of a Kubernetes job."""
    return {one["name"]: one["value"] for one in container_of(job)["env"]}
