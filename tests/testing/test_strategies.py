"""Strategies: what is valid keeps its contract, what is broken does not."""

from typing import Any

import pandera.pandas as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandera.typing import Series

from hubflow.errors import ContractError, HubflowError
from hubflow.schemas.frames import (
    EvaluatedRows,
    EvaluatedTokens,
    Evaluations,
    Metrics,
    Predictions,
    SplitSummary,
    TokenPredictions,
    TrainingSteps,
)
from hubflow.schemas.rows import ImageRows, TextPairRows, TextRows, TokenRows, validate_rows
from hubflow.testing.strategies import broken, valid

ROWS = (TextRows, TextPairRows, TokenRows, ImageRows)
FRAMES = (SplitSummary, TrainingSteps, Evaluations, Metrics, EvaluatedRows, EvaluatedTokens, Predictions, TokenPredictions)
few = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


class Reviews(TextRows):
    """A contract of a user."""

    stars: Series[int] = pa.Field(ge=1, le=5)


@pytest.mark.parametrize("contract", [*ROWS, Reviews])
@few
@given(data=st.data())
def test_rows_are_kept_or_refused(contract: Any, data: st.DataObject) -> None:
    rows = data.draw(valid(contract))
    assert len(validate_rows(rows, contract, "made up")) == len(rows)
    with pytest.raises((ContractError, HubflowError)):
        validate_rows(data.draw(broken(contract)), contract, "made up")


@pytest.mark.parametrize("contract", FRAMES)
@few
@given(data=st.data())
def test_frames_are_kept_or_refused(contract: type[pa.DataFrameModel], data: st.DataObject) -> None:
    contract.validate(data.draw(valid(contract)))
    with pytest.raises((pa.errors.SchemaError, pa.errors.SchemaErrors, TypeError)):
        contract.validate(data.draw(broken(contract)))


def test_another_contract_is_refused() -> None:
    class Other(pa.DataFrameModel):
        x: Series[int]

    with pytest.raises(TypeError, match="there is no strategy of Other; expected one of TextRows"):
        valid(Other)
