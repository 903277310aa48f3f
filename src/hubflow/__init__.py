"""hubflow: fine-tuning pipeline stages over Paddle static programs.

`hubflow.flows` has the flows, `hubflow.stages` the stages, `hubflow.schemas` the settings and contracts, and `hubflow.hub` the
Task API. What is in the `__all__` of these packages and of this one is public; all else is internal and may change.
The names of this package are imported when they are first used, so that `import hubflow` stays fast.
"""

from typing import TYPE_CHECKING

from hubflow.lazy import lazy_names

if TYPE_CHECKING:
    from hubflow import hub
    from hubflow.errors import HubflowError
    from hubflow.inference.predictor import Predictor
    from hubflow.schemas.deployment import NightlySettings
    from hubflow.schemas.parsing import load_settings
    from hubflow.schemas.settings import FineTuneSettings, PredictSettings
    from hubflow.schemas.sweep import SweepSettings
    from hubflow.store.store import Store
    from hubflow.training.callbacks import Callback, Step, TrainState
    from hubflow.version import __version__

__all__ = [
    "Callback",
    "FineTuneSettings",
    "HubflowError",
    "NightlySettings",
    "PredictSettings",
    "Predictor",
    "Step",
    "Store",
    "SweepSettings",
    "TrainState",
    "__version__",
    "hub",
    "load_settings",
]

_NAMES = {
    "hubflow.errors": ("HubflowError",),
    "hubflow.hub": ("hub",),
    "hubflow.inference.predictor": ("Predictor",),
    "hubflow.schemas.deployment": ("NightlySettings",),
    "hubflow.schemas.parsing": ("load_settings",),
    "hubflow.schemas.settings": ("FineTuneSettings", "PredictSettings"),
    "hubflow.schemas.sweep": ("SweepSettings",),
    "hubflow.store.store": ("Store",),
    "hubflow.training.callbacks": ("Callback", "Step", "TrainState"),
    "hubflow.version": ("__version__",),
}

if not TYPE_CHECKING:  # for a type checker, the names above are all there are
    __getattr__ = lazy_names(__name__, _NAMES)


def __dir__() -> list[str]:
    return __all__
