"""deploy/pools: templates that a Prefect server takes, and the jobs that Prefect's own workers make of them."""

import re
from pathlib import Path
from typing import Any

import kubernetes_asyncio.client.models as kubernetes
import pytest
import yaml
from docker.models.containers import _create_container_args
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.templating import find_placeholders
from prefect_docker.worker import DockerWorker
from pydantic import ValidationError
from work_pools import ENTRYPOINT, WORKERS, container_of, environment_of, job_of, make_pool, make_run, pod_of, template_of

from hubflow.flows import fine_tune

PROJECT = Path(__file__).parents[1]
DOCKERFILE = (PROJECT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
PAGE = (PROJECT / "docs" / "how-to" / "work-pools.md").read_text(encoding="utf-8")
KINDS = sorted(WORKERS)
GPU = {"driver": "nvidia", "count": 2, "capabilities": [["gpu"]]}
OF_THE_IMAGE = ("PREFECT_HOME", "HUBFLOW_STORE_CACHE", "HUBFLOW_CACHE")
OF_A_JOB = {"parallelism", "completions"}
"""Fields of a job that Prefect's worker wants in the specification of its pod, where Kubernetes does not read them."""


def variables_of(kind: str) -> dict[str, Any]:
    properties: dict[str, Any] = template_of(kind)["variables"]["properties"]
    return properties


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_takes_the_template_and_keeps_it(kind: str, prefect_server: str) -> None:
    with get_client(sync_client=True) as client:
        pool = client.read_work_pool(make_pool(kind))
    assert (pool.type, pool.base_job_template) == (kind, template_of(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_the_template_configures_what_the_installed_worker_reads_and_nothing_else(kind: str) -> None:
    own = WORKERS[kind].get_default_base_job_template()
    assert set(template_of(kind)["job_configuration"]) == set(own["job_configuration"])
    replaced = {"container_create_kwargs"}  # whose parts are variables of their own
    assert set(own["variables"]["properties"]) - set(variables_of(kind)) <= replaced


@pytest.mark.parametrize("kind", KINDS)
def test_every_placeholder_is_a_variable_and_every_variable_is_used(kind: str) -> None:
    configuration = template_of(kind)["job_configuration"]
    used = {placeholder.name for placeholder in find_placeholders(configuration)}
    merged = {"env"} if isinstance(configuration["env"], dict) else set()  # by Prefect itself
    assert used | merged == set(variables_of(kind))


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_jobs_have_the_folders_and_the_user_of_the_image(kind: str, prefect_server: str) -> None:
    of_image = re.findall(r"^ENV (.*)$", DOCKERFILE.replace("\\\n", " "), re.MULTILINE)
    image = dict(re.findall(r"(\w+)=(\S+)", " ".join(of_image)))
    user, home = re.findall(r"--uid (\d+) .*--home-dir (\S+)", DOCKERFILE)[0]
    job = job_of(make_run(kind), kind)
    environment = environment_of(job) if kind == "kubernetes" else job.env
    assert {name: environment[name] for name in OF_THE_IMAGE} == {name: image[name] for name in OF_THE_IMAGE}
    assert all(environment[name].startswith(f"{home}/") for name in OF_THE_IMAGE)
    if kind == "docker":
        assert (job.container_create_kwargs["user"], job.volumes) == (user, [f"hubflow:{home}"])
    else:
        assert pod_of(job)["securityContext"]["runAsUser"] == int(user)
        assert {"name": "hubflow", "mountPath": home} in container_of(job)["volumeMounts"]


def test_a_kubernetes_job_has_the_limits_of_its_variables(prefect_server: str) -> None:
    of_deployment = {"image": "registry.internal/hubflow:gpu", "gpus": 1, "memory_limit": "8Gi", "cpu_limit": "4"}
    of_run = {"gpus": 2, "memory_limit": "16Gi", "shm_size": "2Gi", "termination_grace_seconds": 90, "volume_claim": "films"}
    job = job_of(make_run("kubernetes", of_deployment, of_run), "kubernetes")
    container = container_of(job)
    assert container["image"] == "registry.internal/hubflow:gpu"
    assert container["args"] == ["prefect", "flow-run", "execute"]
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": 2}
    assert pod_of(job)["terminationGracePeriodSeconds"] == 90
    assert pod_of(job)["volumes"] == [
        {"name": "hubflow", "persistentVolumeClaim": {"claimName": "films"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
    ]
    assert environment_of(job)["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"


def test_a_kubernetes_job_without_gpus_has_no_gpu_limit(prefect_server: str) -> None:
    job = job_of(make_run("kubernetes"), "kubernetes")
    assert "nvidia.com/gpu" not in str(job.job_manifest)
    assert {"tolerations", "nodeSelector"} & set(pod_of(job)) == set()
    assert pod_of(job)["terminationGracePeriodSeconds"] == 60


def test_a_kubernetes_job_has_only_fields_that_kubernetes_knows(prefect_server: str) -> None:
    toleration = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    job = job_of(
        make_run("kubernetes", {"gpus": 1, "tolerations": [toleration], "node_selector": {"gpu": "a100"}}), "kubernetes"
    )
    assert pod_of(job)["tolerations"] == [toleration]
    assert unknown_fields(job.job_manifest, "V1Job") == {f"spec.template.spec.{name}" for name in OF_A_JOB}
    pod_of(job)["terminationGraceSeconds"] = 60
    assert "spec.template.spec.terminationGraceSeconds" in unknown_fields(job.job_manifest, "V1Job")


def test_prefects_worker_refuses_a_manifest_that_is_no_job(prefect_server: str) -> None:
    job = job_of(make_run("kubernetes"), "kubernetes")
    manifest = {**job.job_manifest, "kind": "Pod"}
    with pytest.raises(ValidationError, match="/kind must have value 'Job'"):
        type(job)(job_manifest=manifest)


def test_a_docker_container_has_the_limits_of_its_variables(prefect_server: str) -> None:
    variables = {"mem_limit": "16g", "nano_cpus": 2_000_000_000, "shm_size": "2g", "device_requests": [GPU]}
    created = container_settings(variables)
    assert created["user"] == "10001"
    assert created["environment"]["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
    host = created["host_config"]
    assert (host["Memory"], host["NanoCpus"], host["ShmSize"], host["Init"]) == (16 << 30, 2_000_000_000, 2 << 30, True)
    (request,) = host["DeviceRequests"]
    assert (request["Driver"], request["Count"], request["Capabilities"]) == ("nvidia", 2, [["gpu"]])
    assert host["Binds"] == ["hubflow:/var/lib/hubflow"]


def test_a_docker_container_without_gpus_asks_for_no_device(prefect_server: str) -> None:
    created = container_settings({})
    assert created["image"] == "hubflow:cpu"
    assert {"DeviceRequests", "NanoCpus", "Memory"} & set(created["host_config"]) == set()


def test_a_process_sees_the_gpus_of_its_variable_and_sends_heartbeats(prefect_server: str) -> None:
    job = job_of(make_run("process", {"env": {"PARTNER": "a"}}, {"cuda_visible_devices": "0,1"}), "process")
    chosen = {name: job.env[name] for name in ("CUDA_VISIBLE_DEVICES", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "PARTNER")}
    assert chosen == {"CUDA_VISIBLE_DEVICES": "0,1", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30", "PARTNER": "a"}
    assert job_of(make_run("process", {}, {"env.CUDA_VISIBLE_DEVICES": "1"}), "process").env["CUDA_VISIBLE_DEVICES"] == "1"


def test_a_process_without_the_variable_sees_the_gpus_of_its_worker(
    prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert job_of(make_run("process"), "process").env["CUDA_VISIBLE_DEVICES"] == "3"


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        ("kubernetes", {"gpus": "two"}, "'two' is not valid under any"),
        ("kubernetes", {"gpus": 0}, "0 is less than the minimum of 1"),
        ("kubernetes", {"gpu": 2}, "'gpu'"),
        ("kubernetes", {"termination_grace_seconds": 5}, "5 is less than the minimum of 45"),
        ("docker", {"device_requests": [{"count": 1}]}, "'capabilities' is a required property"),
        ("docker", {"mem_limits": "16g"}, "'mem_limits'"),
        ("process", {"cuda_visible_devices": 0}, "0 is not valid under any"),
        ("process", {"cuda_devices": "0"}, "'cuda_devices'"),
    ],
)
def test_the_server_refuses_a_wrong_job_variable(kind: str, wrong: dict[str, Any], message: str, prefect_server: str) -> None:
    for of_deployment, of_run in ((wrong, None), (None, wrong)):
        with pytest.raises(PrefectHTTPStatusError) as refusal:
            make_run(kind, of_deployment, of_run)
        assert message in refusal.value.response.text


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_the_server_takes_the_job_variables_of_the_page(kind: str, prefect_server: str) -> None:
    section = PAGE.partition(f"\n## {kind.capitalize()}\n")[2].partition("\n## ")[0]
    blocks = [yaml.safe_load(text) for text in re.findall(r"^```yaml[^\n]*\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)]
    (variables,) = (block["job_variables"] for block in blocks if "job_variables" in block)
    assert set(variables) <= set(variables_of(kind))
    assert make_run(kind, {}, variables).job_variables == variables
    for claim in (block for block in blocks if "kind" in block):
        assert (claim["kind"], unknown_fields(claim, "V1PersistentVolumeClaim")) == ("PersistentVolumeClaim", set())
        assert claim["metadata"]["name"] == variables_of(kind)["volume_claim"]["default"]


def test_deploying_an_installed_flow_needs_its_module_path_or_an_image(prefect_server: str) -> None:
    pool = make_pool("process")
    with pytest.raises(ValueError, match="Either an image or remote storage location must be provided"):
        fine_tune.deploy(name="no-module-path", work_pool_name=pool)
    deployed = fine_tune.deploy(name="module-path", work_pool_name=pool, entrypoint_type=EntrypointType.MODULE_PATH)
    with get_client(sync_client=True) as client:
        assert client.read_deployment(deployed).entrypoint == ENTRYPOINT


def container_settings(job_variables: dict[str, Any]) -> dict[str, Any]:
    """What docker-py sends to the Docker daemon for a run: Prefect's worker and docker-py make it, no daemon is asked."""
    elsewhere = {
        "env": {"PREFECT_API_URL": "http://prefect.internal:4200/api"}
    }  # at a local one the daemon is asked its version
    job = job_of(make_run("docker", elsewhere, job_variables), "docker")
    worker = DockerWorker(work_pool_name=make_pool("docker"))
    settings = worker._build_container_settings(None, job)  # type: ignore[arg-type]
    created: dict[str, Any] = _create_container_args({**settings, "version": "1.45"})
    return created


def unknown_fields(value: Any, model: str, place: str = "") -> set[str]:
    """Places of fields that the Kubernetes client's model of an object does not have."""
    inner = re.fullmatch(r"(list\[|dict\(str, )(.*)[\])]", model)
    if inner is not None:
        values = enumerate(value) if isinstance(value, list) else value.items()
        return {found for key, part in values for found in unknown_fields(part, inner[2], f"{place}{key}.")}
    known = getattr(kubernetes, model, None)
    if known is None:
        return set()
    types = {known.attribute_map[name]: kind for name, kind in known.openapi_types.items()}
    found = {f"{place}{name}" for name in value if name not in types}
    for name in set(value) & set(types):
        found |= unknown_fields(value[name], types[name], f"{place}{name}.")
    return found
