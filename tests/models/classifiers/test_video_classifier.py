"""Classifiers of whole videos: what each selection takes of the snippets, and that graphs of them do the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from exporters import parity
from exporters.export import EXPORTERS, Format, open_session
from exporters.exportable import from_classifier
from models.catalog import CLASSIFIERS
from models.classifiers.video_classifier import ClassifierConfig, VideoClassifier
from service.runtime.session import to_numpy

SMALL = ClassifierConfig(5, 3, hidden=8, dropout=0.0)
VARIANTS = {
    "soft": SMALL,
    "soft, per class": replace(SMALL, attention="per_class", scores="sigmoid"),
    "hard": replace(SMALL, selection="hard"),
    "hard, many": replace(SMALL, selection="hard", scores="sigmoid", best_share=0.5),
    "average": replace(SMALL, selection="average"),
    "average, many": replace(SMALL, selection="average", scores="sigmoid"),
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def network(variant: str) -> VideoClassifier:
    torch.manual_seed(1)
    made = VideoClassifier(VARIANTS[variant])
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return made.eval()


def scores(made: VideoClassifier, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return made.decode(made(features, mask), mask)


@each_variant
def test_a_video_scores_alone_as_in_a_batch_whatever_stands_in_padded_places(variant: str) -> None:
    made = network(variant)
    features = torch.randn(4, 5, 9)
    mask = torch.arange(9) < torch.tensor([[9], [4], [1], [0]])
    together = scores(made, torch.where(mask[:, None], features, 1e3), mask)
    assert ((together >= 0) & (together <= 1)).all()
    assert not together[3].any()
    for video, count in enumerate((9, 4, 1)):
        alone = scores(made, features[video : video + 1, :, :count], torch.ones(1, count, dtype=torch.bool))
        torch.testing.assert_close(together[video], alone[0], rtol=1e-5, atol=1e-6)


@each_variant
def test_every_weight_learns(variant: str) -> None:
    made = network(variant)
    made(torch.randn(2, 5, 9), torch.ones(2, 9, dtype=torch.bool))[:, 0].sum().backward()
    assert [name for name, weight in made.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def snippet_logits(made: VideoClassifier, features: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return made.classify(made.shared(features).relu())[0]


def test_each_selection_by_hand() -> None:
    features, mask = torch.randn(1, 5, 8), torch.ones(1, 8, dtype=torch.bool)
    average = network("average")
    wanted = snippet_logits(average, features).softmax(dim=0).mean(dim=1)
    torch.testing.assert_close(scores(average, features, mask)[0], wanted, rtol=1e-4, atol=1e-5)
    hard = network("hard, many")
    wanted = snippet_logits(hard, features).topk(4, dim=1).values.mean(dim=1).sigmoid()
    torch.testing.assert_close(scores(hard, features, mask)[0], wanted, rtol=1e-4, atol=1e-5)
    soft = network("soft")
    assert soft.attend is not None
    with torch.inference_mode():
        weights = soft.attend(soft.shared(features).relu())[0].softmax(dim=1)
    wanted = (snippet_logits(soft, features).softmax(dim=0) * weights).sum(dim=1)
    torch.testing.assert_close(scores(soft, features, mask)[0], wanted, rtol=1e-4, atol=1e-5)


@each_variant
@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_a_graph_gives_what_its_classifier_gives(variant: str, form: Format) -> None:
    graph = from_classifier(network(variant))
    session = open_session(EXPORTERS[form](graph), form, variant)
    assert list(session.inputs) == [port.spec for port in graph.inputs]
    assert all(gap.relative <= 2e-5 < gap.magnitude for gap in parity.tensor_gaps(graph, session))
    features, mask = (value.numpy() for value in graph.examples({"B": 2, "T": 6}))
    found = to_numpy(session.run({"features": features, "mask": np.zeros_like(mask)})["video_scores"])
    assert not found.any()


def test_every_preset_makes_a_network() -> None:
    for entry in CLASSIFIERS.values():
        for preset in entry.presets.values():
            with torch.device("meta"):
                entry.network(preset())


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"best_share": 0.0}, "best_share is 0"), ({"dropout": 1}, "dropout is 1"), ({"hidden": 0}, "hidden is 0")],
)
def test_numbers_that_make_no_sense_are_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(SMALL, **changes)
