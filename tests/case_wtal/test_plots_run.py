"""Pictures of a run: clusters, embedding, training."""

import math
from dataclasses import replace

import numpy as np
import pytest

from examples.case_wtal.data import Recording, Segment
from examples.case_wtal.inference import score_recordings
from examples.case_wtal.plots import (
    cluster_foreground_of,
    draw_clusters,
    draw_embedding,
    draw_training,
    prototypes,
    read_metrics,
    summarise_clusters,
)
from examples.case_wtal.plots.clusters import principal_curves, snippet_labels_of
from examples.case_wtal.plots.embedding import flatten
from tests.case_wtal.test_model import make_module
from tests.case_wtal.tiny import tiny_config, tiny_data


@pytest.fixture(scope="module")
def run():
    data, module = tiny_data(), make_module()
    return data, module, score_recordings(module, data.test)


def texts(figure):
    found = [t.get_text() for t in figure.texts] + [t.get_text() for e in figure.legends for t in e.get_texts()]
    for axis in figure.axes:
        found += [t.get_text() for t in axis.texts] + [axis.get_title(loc="left")]
        found += [t.get_text() for t in axis.get_legend().get_texts()] if axis.get_legend() else []
    return found


def drawn(figure, tmp_path):
    figure.savefig(tmp_path / "picture.png")
    return (tmp_path / "picture.png").stat().st_size


def test_snippets_are_labelled_by_what_is_true_at_their_middle():
    recording = Recording("a", {"s": np.zeros((4, 1), np.float32)}, 1.0, (Segment(0.6, 2.5, "x"),), ("x",))
    assert snippet_labels_of(recording).tolist() == ["background", "x", "background", "background"]


def test_cluster_shares_and_compositions_sum_to_one_and_the_most_foreground_is_first(run):
    data, _, scores = run
    foreground = np.array([0.2, 0.9, 0.1, 0.5])
    found = summarise_clusters(scores, foreground, data.classes)
    assert [c.index for c in found] == [1, 3, 0, 2]
    assert sum(c.share for c in found) == pytest.approx(1)
    for cluster in found:
        assert sum(cluster.composition.values()) == pytest.approx(1 if cluster.share else 0)


def test_typical_snippets_are_the_most_probable_one_of_each_recording(run):
    data, _, scores = run
    for cluster in summarise_clusters(scores, np.zeros(4), data.classes, typical=3):
        assert len({t.recording for t in cluster.typical}) == len(cluster.typical) <= 3
        values = [t.probability for t in cluster.typical]
        assert values == sorted(values, reverse=True)
        for t in cluster.typical:
            probability = scores[t.recording].cluster_probability
            assigned = probability.argmax(axis=1) == cluster.index
            assert t.probability == pytest.approx(probability[assigned, cluster.index].max())
            assert t.label == snippet_labels_of(scores[t.recording].recording)[t.snippet]


def test_picture_of_the_clusters_names_each_and_its_snippets(run, tmp_path):
    data, _, scores = run
    foreground = np.array([0.25, 0.75, 0.5, 1.0])
    figure = draw_clusters(scores, foreground, data, typical=2)
    assert {"0", "1", "2", "3", "0.25", "0.75", "0.50", "1.00"} <= set(texts(figure))
    assert set(data.classes) <= set(texts(figure))
    assert drawn(figure, tmp_path) > 10_000


def test_picture_of_many_clusters_shows_the_largest_and_says_so(run):
    data, _, scores = run
    figure = draw_clusters(scores, np.zeros(4), data, typical=1, most=2)
    assert "the 2 largest of 4 clusters" in texts(figure)


def test_clusters_can_be_shown_with_pictures_of_the_snippets(run):
    data, _, scores = run
    seen = []

    def frame(recording, snippet):
        seen.append((recording.name, snippet))
        return np.zeros((4, 6, 3))

    draw_clusters(scores, np.zeros(4), data, typical=1, thumbnail=frame)
    expected = [t for c in summarise_clusters(scores, np.zeros(4), data.classes, typical=1) for t in c.typical]
    assert seen == [(scores[t.recording].recording.name, t.snippet) for t in expected]


def test_principal_curves_are_uncorrelated_and_ordered(run):
    curves = np.concatenate(principal_curves(run[0].test))
    covariance = np.cov(curves, rowvar=False)
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-8)
    assert (np.diff(np.diag(covariance)) <= 0).all()


def test_prototypes_lie_in_the_space_of_the_embeddings(run):
    _, module, scores = run
    centres = prototypes(module)
    streams = len(module.network.heads)
    assert centres.shape == (4, scores[0].embedding.shape[1])
    np.testing.assert_allclose((centres**2).sum(axis=1), streams)
    assert cluster_foreground_of(module).shape == (4,)


def test_foreground_of_clusters_that_streams_do_not_share_is_their_mean():
    config = tiny_config()
    module = make_module(replace(config, loss=replace(config.loss, co_labels="none")))
    module.cluster_foreground[0], module.cluster_foreground[1] = 0.2, 0.6
    np.testing.assert_allclose(cluster_foreground_of(module), 0.4, rtol=1e-6)


def test_pca_map_keeps_distances_of_points_in_a_plane():
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((30, 2)) @ np.linalg.qr(rng.standard_normal((5, 2)))[0].T + 3
    flat = flatten(plane, "pca")
    distances = [np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (plane, flat)]
    np.testing.assert_allclose(*distances, atol=1e-9)
    assert flatten(plane[:, :1], "pca").shape == (30, 2)


def test_tsne_map_is_the_same_for_the_same_seed():
    points = np.random.default_rng(1).standard_normal((40, 6))
    first = flatten(points, "tsne", seed=3)
    np.testing.assert_array_equal(first, flatten(points, "tsne", seed=3))
    assert np.isfinite(first).all()


def test_picture_of_the_embedding_shows_every_prototype_and_class(run, tmp_path):
    data, module, scores = run
    figure = draw_embedding(scores, prototypes(module), np.linspace(0, 1, 4), data, method="pca")
    stars = [c for c in figure.axes[1].collections if c.get_gid() == "prototypes"]
    assert len(stars[0].get_offsets()) == 4
    np.testing.assert_allclose(stars[0].get_array(), np.linspace(0, 1, 4))
    there = {s.label for r in data.test for s in r.segments}
    assert {*there, "background"} <= set(texts(figure))
    assert drawn(figure, tmp_path) > 10_000


def test_embedding_is_drawn_without_clusters_and_of_some_snippets_only(run):
    data, module, scores = run
    nothing = prototypes(module)[:0]
    figure = draw_embedding(scores, nothing, np.zeros(0), data, method="pca", most=20)
    assert any(text.startswith("true class of 20 of") for text in texts(figure))


def test_metrics_come_back_from_the_file(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,loss/video,loss/class\n0,1.5,\n1,1.25,0.5\n")
    found = read_metrics(tmp_path / "metrics.csv")
    assert found["epoch"] == [0, 1]
    assert found["loss/video"] == [1.5, 1.25]
    assert math.isnan(found["loss/class"][0])


METRICS = {
    "epoch": [0, 1, 2],
    "loss/video": [3.0, 2.0, 1.0],
    "loss/class": [math.nan, 2.0, 1.0],
    "loss/total": [9.0, 8.0, 7.0],
    "clusters/label_entropy": [2.0, 1.0, 0.5],
    "clusters/class_entropy": [0.6, 0.3, 0.1],
    "clusters/proportion_entropy": [1.0, 1.3, 1.3],
}


def lines(axis):
    return {line.get_gid(): line.get_ydata() for line in axis.lines if line.get_gid()}


def test_training_is_drawn_with_losses_entropies_and_their_bound(tmp_path):
    figure = draw_training(METRICS, clusters=4, warm_epochs=2)
    losses, entropies = map(lines, figure.axes)
    assert set(losses) == {"video", "class"}
    np.testing.assert_array_equal(losses["video"], [3, 2, 1])
    assert len(entropies) == 3
    assert "ln 4" in texts(figure)
    assert "warm start" in texts(figure)
    assert drawn(figure, tmp_path) > 5_000


def test_training_without_clusters_has_one_panel():
    figure = draw_training({name: v for name, v in METRICS.items() if "clusters" not in name}, clusters=4)
    assert len(figure.axes) == 1
    assert "warm start" not in texts(figure)


def test_a_dollar_in_a_class_name_is_drawn_as_it_is(run, tmp_path):
    data, module, _ = run
    strange = {"jump": "$x$ <b>", "throw": r"\frac{$}", "turn": "$^$"}
    rename = {name: strange[name] for name in data.classes}
    test = tuple(
        replace(
            r,
            segments=tuple(replace(s, label=rename[s.label]) for s in r.segments),
            labels=tuple(rename[name] for name in r.labels),
        )
        for r in data.test
    )
    data = replace(data, classes=tuple(rename.values()), train=(), test=test)
    scores = score_recordings(module, test)
    for figure in (
        draw_clusters(scores, np.zeros(4), data, typical=2),
        draw_embedding(scores, prototypes(module), np.zeros(4), data, method="pca"),
    ):
        assert drawn(figure, tmp_path) > 5_000
