"""What tests of flows need: tiny modules, filled stores, fakes that later stages accept, and assertions.

pytest finds the fixtures by itself where hubflow is installed (`hubflow.testing.plugin`): `prefect_server`, `hubflow_store`,
`filled_store`, `tiny_text_module`, `tiny_image_module`, `without_verification` and `replace_stage`.
`hubflow.testing.strategies` has hypothesis strategies of the contracts.
"""

from typing import TYPE_CHECKING

from hubflow.lazy import lazy_names

if TYPE_CHECKING:
    from hubflow.inference.verification import without_verification
    from hubflow.testing.fakes import fake_checkpoint, fake_dataset, fake_export, fake_verdict, make_reference
    from hubflow.testing.modules import TinyModule, make_tiny_image_module, make_tiny_text_module
    from hubflow.testing.stores import (
        FilledStore,
        assert_promoted,
        assert_rejected,
        fill_store,
        last_verdict,
        read_quarantine,
    )

__all__ = [
    "FilledStore",
    "TinyModule",
    "assert_promoted",
    "assert_rejected",
    "fake_checkpoint",
    "fake_dataset",
    "fake_export",
    "fake_verdict",
    "fill_store",
    "last_verdict",
    "make_reference",
    "make_tiny_image_module",
    "make_tiny_text_module",
    "read_quarantine",
    "without_verification",
]

_NAMES = {
    "hubflow.inference.verification": ("without_verification",),
    "hubflow.testing.fakes": ("fake_checkpoint", "fake_dataset", "fake_export", "fake_verdict", "make_reference"),
    "hubflow.testing.modules": ("TinyModule", "make_tiny_image_module", "make_tiny_text_module"),
    "hubflow.testing.stores": (
        "FilledStore",
        "assert_promoted",
        "assert_rejected",
        "fill_store",
        "last_verdict",
        "read_quarantine",
    ),
}

if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__, _NAMES)


def __dir__() -> list[str]:
    return __all__
