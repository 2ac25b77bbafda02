"""Maps at test time against their formulas; and no setting of model, losses or inference is without effect."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from examples.case_wtal.config import InferenceConfig, LossConfig, ModelConfig, TrainConfig
from examples.case_wtal.inference import RecordingScores, detect, score_recordings
from examples.case_wtal.run import evaluate_detections, train
from tests.case_wtal.test_model import batch_of, make_module
from tests.case_wtal.tiny import tiny_config, tiny_data


@pytest.fixture(scope="module")
def data():
    return tiny_data()


@pytest.fixture(scope="module")
def module(data):
    return train(tiny_config(epochs=8), data, progress=False)


@pytest.fixture(scope="module")
def scores(module, data):
    return score_recordings(module, data.test)


def made_up(streams, length=9, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    recording = tiny_data().test[0]
    activation, attention = rng.random((length, classes)), rng.random(length)
    assisted, clusters = rng.random((length, classes)), rng.random((length, 4))
    video, embedding = rng.random(classes), rng.random((length, 5))
    return RecordingScores(
        recording, streams, activation, assisted, attention, rng.random(length), video, clusters, embedding
    )


def smoothed(values, width):
    """Moving average with repeated ends, one entry at a time."""
    last, half = len(values) - 1, width // 2
    return np.stack(
        [
            np.mean([values[min(max(i, 0), last)] for i in range(t - half, t + half + 1)], axis=0)
            for t in range(last + 1)
        ]
    )


@pytest.mark.parametrize("width", [1, 3, 5])
@pytest.mark.parametrize("streams", [1, 2, 3])
def test_mean_map_counts_every_map_of_every_stream_alike(streams, width):
    s, settings = made_up(streams), InferenceConfig(smoothing=width)
    attention, clusters = streams * [s.attention[:, None]], streams * [s.cluster_foreground[:, None]]
    for foreground, maps in (
        ("attention", [s.class_activation, *attention]),
        ("clusters", [s.assisted_activation, *clusters]),
        ("fused", [s.assisted_activation, *attention, *clusters]),
    ):
        # Averages of nine numbers in [0, 1] in another order of sums.
        found = s.class_map(settings, foreground=foreground)
        np.testing.assert_allclose(found, smoothed(sum(maps) / len(maps), width), atol=1e-14)


@pytest.mark.parametrize("width", [1, 5])
def test_geometric_map_is_the_root_of_the_product_of_smoothed_maps(width):
    s, settings = made_up(2), InferenceConfig(fusion="geometric", smoothing=width)
    activation, fused = (
        smoothed(s.assisted_activation, width),
        smoothed((s.attention + s.cluster_foreground) / 2, width),
    )
    np.testing.assert_allclose(s.class_map(settings), np.sqrt(activation * fused[:, None]), atol=1e-14)
    alone = np.sqrt(smoothed(s.class_activation, width) * smoothed(s.attention, width)[:, None])
    np.testing.assert_allclose(s.class_map(settings, foreground="attention"), alone, atol=1e-14)


def test_class_activation_can_be_the_whole_map():
    s, settings = made_up(2), InferenceConfig(fusion="class_activation", smoothing=3)
    np.testing.assert_allclose(s.class_map(settings), smoothed(s.assisted_activation, 3), atol=1e-14)
    plain = s.class_map(settings, foreground="attention")
    np.testing.assert_allclose(plain, smoothed(s.class_activation, 3), atol=1e-14)


def outputs_of(module, recording):
    features = {name: torch.from_numpy(f)[None] for name, f in recording.streams.items()}
    return module(features, torch.ones(1, len(recording), dtype=torch.bool))


def test_embeddings_are_unit_vectors_of_each_stream_side_by_side(module, scores, data):
    expected = [
        torch.nn.functional.normalize(o.embedding[0], dim=-1) for o in outputs_of(module, data.test[0]).baseline.streams
    ]
    np.testing.assert_allclose(scores[0].embedding, torch.cat(expected, dim=-1).detach(), atol=1e-6)  # float32


def test_cluster_probabilities_are_the_mean_over_the_streams(module, scores, data):
    cosines = outputs_of(module, data.test[0]).cluster_cosine
    expected = sum((10 * c[0]).softmax(dim=-1) for c in cosines) / len(cosines)
    np.testing.assert_allclose(scores[0].cluster_probability, expected.detach(), atol=1e-6)  # float32 network


def test_cluster_foreground_is_the_law_of_total_probability(module, scores, data):
    recording = data.test[0]
    expected = np.zeros(len(recording))
    for cosine in outputs_of(module, recording).cluster_cosine:
        for t, row in enumerate(cosine[0].detach()):
            assigned = torch.exp(10 * row) / torch.exp(10 * row).sum()
            expected[t] += float((assigned * module.cluster_foreground).sum()) / len(recording.streams)
    np.testing.assert_allclose(scores[0].cluster_foreground, expected, atol=1e-6)  # float32 network


def test_video_scores_are_the_mean_of_softmaxed_topk_means(module, scores, data):
    recording = data.test[1]
    outputs = outputs_of(module, recording).baseline.streams
    activation = sum(o.cas[0].softmax(dim=1) for o in outputs) / 2
    calibrated = (activation + sum(o.attention[0] for o in outputs)[:, None]) / 3
    k = max(1, len(recording) // module.config.loss.topk_ratio)
    best = calibrated.topk(k, dim=0).indices
    video = sum(o.cas[0].gather(0, best).mean(dim=0).softmax(dim=0) for o in outputs) / 2
    np.testing.assert_allclose(scores[1].video_scores, video.detach(), atol=1e-6)  # float32 network


# field -> a value that must change the detections or their evaluation
INFERENCE = {"foreground": "clusters", "fusion": "geometric", "smoothing": 3, "protocol": "activitynet"}


def answer(scores, data, config):
    found = detect(scores, data.classes, config)
    return found, evaluate_detections(found, data, config.inference.protocol)


def test_every_inference_setting_is_covered():
    assert INFERENCE.keys() == {field.name for field in fields(InferenceConfig)}


@pytest.mark.parametrize("field", INFERENCE)
def test_every_inference_setting_changes_an_answer(field, scores, data):
    config = tiny_config()
    changed = replace(config, inference=replace(config.inference, **{field: INFERENCE[field]}))
    (found, before), (other, after) = answer(scores, data, config), answer(scores, data, changed)
    same = len(found) == len(other) and np.array_equal(found.score, other.score)
    assert not same or before.protocol.tious != after.protocol.tious


def test_rows_of_a_table_can_overrule_the_foreground(scores, data):
    config = tiny_config()
    off = replace(config, inference=replace(config.inference, foreground="attention"))
    overruled = detect(scores, data.classes, config, foreground="attention")
    assert np.array_equal(overruled.score, detect(scores, data.classes, off).score)
    assert not np.array_equal(overruled.score, detect(scores, data.classes, config).score)


# field -> settings to start from, and the value that must change the loss
LOSS = {
    "components": ({}, "scc"),
    "snippet_weight": ({}, 2.0),
    "cluster_weight": ({}, 1.0),
    "class_weight": ({}, 1.0),
    "attention": ({"components": "baseline"}, False),
    "co_labels": ({}, "none"),
    "gce_q": ({}, 0.3),
    "topk_ratio": ({}, 2),
    "warm_start_epochs": ({}, 5),
}
MODEL = {"hidden": ({}, 16), "kernel_size": ({}, 1), "clusters": ({}, 6), "temperature": ({}, 5.0)}


def first_loss(config):
    data = tiny_data()
    return make_module(config).training_step(batch_of(data.train, data.classes)).item()


@pytest.mark.parametrize(("kind", "table", "part"), [(LossConfig, LOSS, "loss"), (ModelConfig, MODEL, "model")])
def test_every_loss_and_model_setting_changes_the_loss(kind, table, part):
    # Other baselines have tests of their own.
    assert {*table} == {field.name for field in fields(kind)} - {"baseline", "joint"}
    config = tiny_config()
    for name, (start, value) in table.items():
        before = replace(getattr(config, part), **start)
        losses = [
            first_loss(replace(config, **{part: settings})) for settings in (before, replace(before, **{name: value}))
        ]
        assert abs(losses[0] - losses[1]) > 1e-6, name


TRAIN = {"epochs": 3, "batch_size": 2, "learning_rate": 1e-3, "weight_decay": 0.5, "snippets": 10, "seed": 1}


def test_every_training_setting_but_the_checkpoint_changes_the_weights(data):
    # The checkpoint is chosen after the fact: `test_best_on_test_keeps_the_best_epoch_and_says_so`.
    # Stages need class labels: `test_a_second_stage_learns_from_the_first`. The device changes rounding alone.
    assert {*TRAIN, "checkpoint", "stages", "device"} == {field.name for field in fields(TrainConfig)}

    def weights(config):
        return torch.cat([p.flatten() for p in train(config, data, progress=False).parameters()])

    before = weights(tiny_config())
    for name, value in TRAIN.items():
        assert (weights(tiny_config(**{name: value})) - before).abs().max() > 1e-6, name
