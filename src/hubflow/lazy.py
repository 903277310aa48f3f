"""Public names that are imported when they are first used, and the warning before a public name goes away."""

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Deprecation(NamedTuple):
    """A public name, argument or setting that goes away; see "Versions" in CONTRIBUTING.md.

    Attributes:
        name: what goes away, as its users write it.
        since: the first version that warns, such as `0.3`.
        removed_in: the first version without it, at least one minor version later.
        instead: what to use, as its users write it.
    """

    name: str
    since: str
    removed_in: str
    instead: str

    def warn(self, stacklevel: int = 2) -> None:
        """Warn the caller. A FutureWarning is shown by default; Python hides a DeprecationWarning of a library.

        Args:
            stacklevel: which caller the warning names: 1 is the caller of `warn`, 2 is the caller of that function.
        """
        message = f"{self.name} is deprecated since hubflow {self.since} and is removed in {self.removed_in}"
        warnings.warn(f"{message}; use {self.instead}", FutureWarning, stacklevel=stacklevel + 1)


def lazy_names(
    package: str, names: Mapping[str, Sequence[str]], deprecated: Mapping[str, tuple[str, Deprecation]] | None = None
) -> Callable[[str], object]:
    """Make the `__getattr__` of a package (PEP 562) that imports each of its names at the first use.

    Args:
        package: the package's `__name__`.
        names: by module, the names that it defines; a module of the package itself may be a name too.
        deprecated: by name that goes away, where its object is (`package.module:name`), and the warning.

    Returns:
        The function. It raises AttributeError for a name that the package does not have.
    """
    modules = {name: module for module, defined in names.items() for name in defined}
    going = deprecated or {}

    def find(name: str) -> object:
        if name in going:
            path, deprecation = going[name]
            deprecation.warn()
            home, _, defined = path.partition(":")
            return getattr(importlib.import_module(home), defined)
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(modules[name])
        value = module if modules[name] == f"{package}.{name}" else getattr(module, name)
        setattr(sys.modules[package], name, value)  # so that it is asked for once
        return value

    return find
