"""A user's own contract of rows: a subclass of the kind's, named in the settings or given. No Paddle or Prefect here."""

import hashlib
import inspect
import sys

import pandera.pandas as pa

from hubflow.errors import SettingsError
from hubflow.schemas.importing import import_object
from hubflow.schemas.references import RowKind
from hubflow.schemas.rows import ROW_MODELS, RowModel

NOT_THEIRS = ("hubflow", "pandera", "builtins", "typing")  # typing's source differs between releases of Python, and is long


def contract_of(kind: RowKind, given: str | type | None) -> RowModel:
    """The contract of rows of `kind`: hubflow's own, or a subclass of it that a user gives.

    Args:
        kind: what the rows are.
        given: the class, or where to import it from: `package.module:ClassName`.

    Raises:
        SettingsError: when it cannot be imported, is no subclass of the kind's contract, would leave out or add anything
            without a word, or asks for values that are unique, which cannot be said of rows that are seen a chunk at a time.
    """
    base = ROW_MODELS[kind]
    if given is None:
        return base
    expected = f"package.module:ClassName, a subclass of hubflow.schemas.rows.{base.__name__}"
    model = import_object(given, "contract", expected) if isinstance(given, str) else given
    if not isinstance(model, type) or not issubclass(model, base):
        raise SettingsError(
            f"contract: {given!r} is no subclass of hubflow.schemas.rows.{base.__name__}, the contract of {kind} rows; "
            "derive your class from it"
        )
    schema = model.to_schema()
    unique = [name for name, column in schema.columns.items() if column.unique] + list(schema.unique or ())
    if unique:
        raise SettingsError(
            f"contract: {model.__name__} asks for unique values of {', '.join(map(repr, unique))}; rows are checked a chunk at "
            "a time, so that repeats far apart would pass; leave `unique` out"
        )
    _require_no_silence(model.__name__, schema)
    return model


def _require_no_silence(name: str, schema: pa.DataFrameSchema) -> None:
    """Refuse what makes pandera drop rows or columns, or add some, where nobody would be told."""
    silent = {
        "drop_invalid_rows = True": schema.drop_invalid_rows,
        'strict = "filter"': schema.strict == "filter",
        "add_missing_columns = True": schema.add_missing_columns,
    }
    for setting, is_set in silent.items():
        if is_set:
            raise SettingsError(
                f"contract: {name} has {setting}, which would change the rows without a word; leave it out: rows that break "
                "the contract are quarantined, and further columns are carried through"
            )


def contract_identity(model: RowModel) -> dict[str, str]:
    """What tells one contract from another in the key of what was made under it: its name and its modules' source."""
    try:
        theirs = [cls for cls in model.__mro__ if cls.__module__.split(".")[0] not in NOT_THEIRS]
        modules = dict.fromkeys(sys.modules[cls.__module__] for cls in theirs)  # for the constants and helpers beside them
        source = "".join([*map(inspect.getsource, modules), *(cls.__qualname__ for cls in theirs)])
    except (OSError, TypeError, KeyError):
        source = ""
    return {
        "name": f"{model.__module__}:{model.__qualname__}",
        "source_sha256": hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest(),
    }
