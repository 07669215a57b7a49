"""Input checks and the logistic function."""

import math

import numpy as np
import pytest

from qin.metrics import logits
from qin.metrics.logits import positive_rows, prior_logit, row_chunks, sigmoid


@pytest.mark.parametrize("label", [np.array([0, 1, 1]), np.array([0.0, 1.0, 1.0]), np.array([False, True, True])])
def test_labels_of_any_type_give_the_positive_rows(label: np.ndarray) -> None:
    assert positive_rows(np.zeros(3), label).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("logit", "label", "message"),
    [
        ([0.0, 1.0], [0, 1, 1], "equal length"),
        ([[0.0, 1.0]], [[0, 1]], "1-d"),
        ([0.0, math.nan], [0, 1], "every logit must be finite: element 1 is nan"),
        ([-math.inf, 0.0], [0, 1], "every logit must be finite: element 0 is -inf"),
        ([0.0, 1.0, 2.0], [0, 1, 2], "every label must be 0 or 1: row 2 is 2"),
        ([0.0, 1.0, 2.0], [0, 1, math.nan], "every label must be 0 or 1: row 2 is nan"),
        ([0.0, 1.0], [0, 0], "both classes must be present: 0 positives in 2 rows"),
        ([], [], "both classes must be present: 0 positives in 0 rows"),
    ],
)
def test_bad_input_is_refused(logit: list[float], label: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        positive_rows(np.array(logit), np.array(label))


def test_sigmoid_keeps_relative_precision_and_never_overflows() -> None:
    logit = np.array([-1000.0, -700.0, -40.0, 0.0, 40.0, 1000.0])
    expected = [0.0, math.exp(-700.0), math.exp(-40.0) / (1.0 + math.exp(-40.0)), 0.5, 1.0, 1.0]
    np.testing.assert_allclose(sigmoid(logit), expected, rtol=1e-14)


def test_prior_logit_inverts_the_sigmoid() -> None:
    for rate in (1e-9, 0.019, 0.5, 0.9):
        assert float(sigmoid(np.array([prior_logit(rate)]))[0]) == pytest.approx(rate, rel=1e-13)


def test_chunks_cover_every_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logits, "_CHUNK_ROWS", 4)
    values = np.arange(10, dtype=np.float32)
    chunks = [chunk for _, chunk in row_chunks(values)]
    assert [chunk.size for chunk in chunks] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(chunks), values)
    chunks[0][:] = -1.0  # a copy: the caller's array must not change
    assert values[0] == 0.0
