"""Parameters of hubflow's flows: a run's settings may be a part of its deployment's, and name Prefect Variables."""

import inspect
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ParamSpec, TypeVar
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from hubflow.blocks import HubflowStore, load_block
from hubflow.errors import SettingsError, join_limited
from hubflow.orchestration.run_context import dated_run_name, in_run, runs_alone
from hubflow.schemas.parsing import is_complete, merged, parse_settings
from hubflow.schemas.settings import FineTuneSettings
from hubflow.schemas.sweep import SweepSettings
from hubflow.schemas.urls import VARIABLE

PARAMETER = "settings"
_NAME = re.compile(r"[a-z0-9_-]+")
_OWN_RUN = "PREFECT__FLOW_RUN_ID"
"""Variable of the environment by which a worker, or another runner, tells a process which run it is started for."""
P = ParamSpec("P")
R = TypeVar("R")


def settings_flow(name: str, **options: Any) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Decorator: a Prefect flow with one parameter, `settings`, of which a run of a deployment may give a part.

    A run's settings that are complete by themselves replace the deployment's. Others are put into the deployment's, group by
    group (see `merged`). Texts such as `prefect://variables/NAME` stand for the value of a Prefect Variable, now.

    Args:
        name: of the flow.
        options: other options of a Prefect flow.
    """

    def decorate(function: Callable[P, R]) -> Flow[P, R]:
        options.setdefault("flow_run_name", dated_run_name)
        return _SettingsFlow(function, name=name, persist_result=False, **options)

    return decorate


def with_variables(values: Any, path: str = "") -> Any:
    """Copy of settings in which each text `prefect://variables/NAME` is the value of that Prefect Variable.

    `prefect://variables/NAME/KEY` is one value of a Variable that holds a JSON object.

    Args:
        values: the settings, not yet validated.
        path: of the values in the settings, with dots, for errors.

    Raises:
        SettingsError: naming the setting, when there is no such Variable, or no such key in it.
    """
    if isinstance(values, Mapping):
        return {name: with_variables(value, f"{path}.{name}".lstrip(".")) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [with_variables(value, f"{path}[{position}]") for position, value in enumerate(values)]
    if isinstance(values, str) and values.startswith(VARIABLE):
        return _variable(values, path)
    return values


def _variable(reference: str, path: str) -> Any:
    name, *keys = reference.removeprefix(VARIABLE).split("/")
    if not _NAME.fullmatch(name):
        raise SettingsError(f"{path}: {reference!r} names no Prefect Variable; expected {VARIABLE}NAME, or {VARIABLE}NAME/KEY")
    with get_client(sync_client=True) as client:
        found = client.read_variable_by_name(name)
    if found is None:
        raise SettingsError(
            f"{path}: this Prefect server has no Variable {name!r}; make it with `prefect variable set {name} VALUE`"
        )
    value: Any = found.value
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            known = f"it has {join_limited(sorted(value))}" if isinstance(value, dict) else f"it is no object but {value!r}"
            raise SettingsError(f"{path}: {reference!r}: there is no {key!r} in the Variable; {known}")
        value = value[key]
    return value


class _SettingsFlow(Flow[P, R]):
    """A flow whose parameter `settings` is completed by the deployment's before it is validated."""

    def __init__(self, fn: Callable[P, R], *args: Any, **options: Any) -> None:
        self.model: type[BaseModel] = inspect.get_annotations(fn)[PARAMETER]
        fn.__annotations__[PARAMETER] = Annotated[self.model, _Part()]
        super().__init__(fn, *args, **options)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run the flow as Prefect does, or as a plain function where that is asked for (`without_prefect`)."""
        if not runs_alone():
            return super().__call__(*args, **options)
        return self.fn(**self.validate_parameters(inspect.signature(self.fn).bind(*args, **options).arguments))  # type: ignore[call-arg]

    def validate_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The settings of a run as the flow's model.

        Raises:
            SettingsError: naming each setting that is wrong, or a Prefect Variable that is missing.
        """
        values = parameters.get(PARAMETER)
        if isinstance(values, dict):
            given = _deployed() if not (is_complete(self.model, values) or in_run()) else None
            whole = values if given is None else merged(self.model, given, values)
            values = parse_settings(self.model, with_variables(whole), "settings of the run")
        return super().validate_parameters({**parameters, PARAMETER: _with_store_of_block(values)})

    def with_options(self, *args: Any, **options: Any) -> Flow[P, R]:
        """The same flow with other options of a Prefect flow."""
        changed: Any = super().with_options(*args, **options)
        changed.__class__, changed.model = _SettingsFlow, self.model
        return changed  # type: ignore[no-any-return]


def _with_store_of_block(settings: Any) -> Any:
    """The settings; where they name a block for the store and no store, with the block's URL for it."""
    if isinstance(settings, SweepSettings):
        return settings.model_copy(update={"base": _with_store_of_block(settings.base)})
    if not isinstance(settings, FineTuneSettings) or settings.store_block is None:
        return settings
    if settings.store != type(settings).model_fields["store"].default:
        return settings
    return settings.model_copy(update={"store": load_block(HubflowStore, settings.store_block, "store_block").url})


def _deployed() -> dict[str, Any] | None:
    """The settings of the deployment that this process runs; None where it runs none."""
    run_id = os.environ.get(_OWN_RUN)
    if run_id is None:
        return None
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(run_id))
        if run.deployment_id is None:
            return None
        try:
            found = client.read_deployment(run.deployment_id)
        except ObjectNotFound:  # it was deleted since
            return None
    settings = found.parameters.get(PARAMETER)
    return settings if isinstance(settings, dict) else None


@dataclass(frozen=True)
class _Part:
    """The JSON schema of settings of which a part may be given: nothing in them is required."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        _require_nothing(found, handler, set())
        return found


def _require_nothing(node: Any, handler: GetJsonSchemaHandler, seen: set[int]) -> None:
    """Take `required` out of a JSON schema, and of every definition that it refers to."""
    if isinstance(node, list):
        for inner in node:
            _require_nothing(inner, handler, seen)
    elif isinstance(node, dict):
        target = handler.resolve_ref_schema(node) if "$ref" in node else node
        if id(target) in seen:
            return
        seen.add(id(target))
        if isinstance(target.get("required"), list):
            del target["required"]
        if isinstance(target.get("oneOf"), list):  # a part without the name that chooses one is a part of several
            target["anyOf"] = target.pop("oneOf")
        for inner in list(target.values()):
            _require_nothing(inner, handler, seen)
