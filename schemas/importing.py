"""What a user names in the settings as `package.module:name`, imported. Must not import Paddle or Prefect."""

import importlib

from hubflow.schemas.errors import SettingsError


def imported(path: str, setting: str, expected: str) -> object:
    """What `path`, `package.module:name`, names.

    Args:
        path: where to import it from.
        setting: that has the path, named in errors.
        expected: what it should be, for errors.

    Raises:
        SettingsError: when the module cannot be imported, or has nothing of this name.
    """
    module_name, _, name = path.partition(":")
    try:
        found: object = importlib.import_module(module_name)
    except Exception as error:  # whatever the module raises as it is imported
        raise SettingsError(
            f"{setting}: {path!r}: {module_name} cannot be imported ({error!r}); expected {expected}"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise SettingsError(f"{setting}: {path!r}: {module_name} has no {name!r}; expected {expected}")
        found = getattr(found, part)
    return found
