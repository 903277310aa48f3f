"""MLflow's model registry: a version for each export that was in use, and an alias at the one that is."""

import os
import re
from typing import Any
from urllib.parse import quote

from hubflow.deployment.pointer import read_deployed
from hubflow.errors import RegistryError
from hubflow.schemas.deployment import Deployed
from hubflow.schemas.references import ExportRef
from hubflow.schemas.urls import is_url

SHA256, EXPORT, REVISION = "hubflow.sha256", "hubflow.export", "hubflow.revision"
"""Tags of a model version: hash of the export's manifest, its path in the store, and the revision that first put it in use."""
LOCAL = "hubflow-store://"
"""Before the path of an export on a machine: a server of MLflow refuses `file://` as the source of a version."""
_USER = re.compile(r"//[^/@\s]+@")
_ABSENT, _PRESENT = "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"


def open_registry(uri: str, username: str | None = None, password: str | None = None) -> Any:
    """A client of MLflow's model registry.

    Args:
        uri: of the registry, such as https://host or sqlite:////data/mlflow.db.
        username: for a server that asks for one; MLFLOW_TRACKING_USERNAME and so on otherwise.
        password: of that user.

    Raises:
        RegistryError: when MLflow is not installed, or there is no registry of that kind.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        if (error.name or "").split(".")[0] != "mlflow":
            raise
        raise RegistryError("a model registry needs MLflow's client: pip install 'hubflow[mlflow]'") from error
    if username is not None:
        scheme, _, rest = uri.partition("://")
        uri = f"{scheme}://{quote(username, safe='')}:{quote(password or '', safe='')}@{rest}"
    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except Exception as error:
        raise _fault(uri, error) from None


def follow_pointer(client: Any, model: str, alias: str, name: str, store: str) -> str | None:
    """Have an alias of a registered model be at the export that is in use; the model and its version are made where missing.

    Args:
        client: of the registry.
        model: name of the registered model.
        alias: such as `champion`.
        name: of the deployed pointer.
        store: folder, or URL, of the store.

    Returns:
        The version that the alias is at; None where nothing is in use, and the alias is gone.

    Raises:
        RegistryError: when the registry refuses, or does not answer.
        StoreError: when the pointer cannot be read.
    """
    deployed = read_deployed(store, name)
    while True:
        try:
            version = _set_alias(client, model, alias, deployed, store)
        except Exception as error:  # of MLflow's client, of requests and of SQLAlchemy
            raise _fault(f"the model registry, model {model!r}", error) from None
        again = read_deployed(store, name)
        if again.revision == deployed.revision:
            return version
        deployed = again  # another run has moved the pointer in the meantime: the last one counts


def _set_alias(client: Any, model: str, alias: str, deployed: Deployed, store: str) -> str | None:
    from mlflow.exceptions import MlflowException

    if deployed.export is None:
        try:
            client.delete_registered_model_alias(model, alias)
        except MlflowException as error:
            if error.error_code != _ABSENT:
                raise
        return None
    try:
        client.create_registered_model(model, description=f"hubflow's deployed pointer {deployed.name!r}")
    except MlflowException as error:
        if error.error_code != _PRESENT:
            raise
    version = _find_version(client, model, deployed.export) or _make_version(client, model, deployed, store)
    client.set_registered_model_alias(model, alias, version)
    return version


def _find_version(client: Any, model: str, export: ExportRef) -> str | None:
    token = None
    while True:
        page = client.search_model_versions(f"name='{model}'", page_token=token)
        for found in page:
            if found.tags.get(SHA256) == export.sha256:
                return str(found.version)
        token = page.token
        if not token:
            return None


def _make_version(client: Any, model: str, deployed: Deployed, store: str) -> str:
    export, move = deployed.export, deployed.move
    assert export is not None
    assert move is not None
    tags = {SHA256: export.sha256, EXPORT: export.path, REVISION: str(move.revision), "hubflow.store": store}
    metrics = {f"{split}.{name}": f"{value:.6g}" for split, of in export.metrics.items() for name, value in of.items()}
    address = f"{store}/{export.path}"
    source = address if is_url(address) else f"{LOCAL}{address}"
    made = client.create_model_version(model, source, tags={**metrics, **tags}, description=move.reason)
    return str(made.version)


def _fault(what: str, error: Exception) -> RegistryError:
    shown = _USER.sub("//", f"{what}: {error}")
    return RegistryError(f"{shown}; check the block Model Registry, and that its server answers")
