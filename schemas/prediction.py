"""How a batch prediction is spread over processes. Must not import Paddle or Prefect."""

from typing import Literal

from pydantic import Field

from hubflow.schemas.base import Settings


class RunnerSettings(Settings):
    """What the parts of a prediction are mapped over in the flow."""

    kind: Literal["flow", "dask", "ray"] = Field(
        "flow", description="flow: the flow's own task runner, which is threads; dask, ray: a cluster (extras `dask`, `ray`)"
    )
    workers: int = Field(2, ge=1, description="Processes of a cluster that is started here, which share the cores")
    address: str | None = Field(None, description="Of a cluster that runs; its workers must see the same files")
