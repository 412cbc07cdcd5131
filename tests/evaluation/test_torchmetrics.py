"""torchmetrics as a second referee, where it is installed (`pip install torchmetrics`); no dependency of ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_ranking import draw

from xcoop.evaluation.metrics import classification_metrics

functional = pytest.importorskip("torchmetrics.functional.classification")


@pytest.mark.parametrize("seed", range(100))
def test_equals_torchmetrics(seed: int) -> None:
    classes = (2, 3, 5)[seed % 3]
    labels, p = draw(seed, 60, classes)
    found, truth, values = classification_metrics(labels, p), torch.tensor(labels), torch.tensor(p)
    many = {"num_classes": classes}
    assert found["accuracy"] == pytest.approx(
        functional.multiclass_accuracy(values, truth, average="micro", **many).item(), abs=1e-6
    )
    assert found["macro_f1"] == pytest.approx(functional.multiclass_f1_score(values, truth, **many).item(), abs=1e-6)
    assert found["mcc"] == pytest.approx(
        functional.multiclass_matthews_corrcoef(values, truth, **many).item(), abs=1e-6
    )
    if classes == 2:
        assert found["macro_auc"] == pytest.approx(functional.binary_auroc(values[:, 1], truth).item(), abs=1e-6)
        assert found["average_precision"] == pytest.approx(
            functional.binary_average_precision(values[:, 1], truth).item(), abs=1e-6
        )
    else:
        assert found["macro_auc"] == pytest.approx(functional.multiclass_auroc(values, truth, **many).item(), abs=1e-6)
        assert found["average_precision"] == pytest.approx(
            functional.multiclass_average_precision(values, truth, **many).item(), abs=1e-6
        )


@pytest.mark.parametrize("seed", range(20))
def test_calibration_error_equals_torchmetrics(seed: int) -> None:
    # Continuous values: of those on the border between two bins, each has its own rule.
    rng = np.random.default_rng(seed)
    labels, p = rng.integers(0, 4, 80), rng.dirichlet(np.ones(4), 80)
    expected = functional.multiclass_calibration_error(torch.tensor(p), torch.tensor(labels), num_classes=4, n_bins=15)
    assert classification_metrics(labels, p)["ece"] == pytest.approx(expected.item(), abs=1e-6)
