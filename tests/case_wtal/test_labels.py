"""Pseudo-labels: proportions, the prior, prototypes; and no setting is without effect."""

from dataclasses import fields, replace

import pytest
import torch

from examples.case_wtal.config import LabelConfig
from examples.case_wtal.labels import (
    class_labels,
    cluster_labels,
    prototype_cosine,
    snippet_labels,
    snippet_log_prior,
)
from examples.case_wtal.module import CaseModule
from tests.case_wtal.test_model import batch_of, make_module
from tests.case_wtal.tiny import WIDTHS, tiny_config, tiny_data

CONVERGED = LabelConfig(tol=1e-6, max_iter=10_000)

# field -> settings to start from, and the value that must make a difference
CHANGES = {
    "assignment": ({}, "prediction"),
    "form": ({}, "hard"),
    "epsilon": ({}, 0.5),
    "max_iter": ({"tol": None, "max_iter": 50}, 1),
    "tol": ({"tol": 1e-6}, 0.5),
    "smoothing": ({}, 3),
    "prior": ({}, "none"),
    "rank": ({}, "released_argsort"),
    "sigma": ({}, 10.0),
    "order_preserving": ({"sigma": 1.0}, True),
    "prior_weight": ({}, 0.2),
    "cluster_marginal": ({}, "uniform"),
    "initial_foreground": ({}, "one_over_k"),
    "memory": ({}, "ema"),
    "class_epsilon": ({}, 5.0),
    "ema_decay": ({"memory": "ema"}, 0.5),
}


def two_steps(label, class_weight=0.0):
    """What training sees of the labels: losses of two steps and the clusters' foreground in the end."""
    data, config = tiny_data(), tiny_config()
    module = make_module(replace(config, label=label, loss=replace(config.loss, class_weight=class_weight)))
    losses = [module.training_step(batch_of(data.train, data.classes)).detach() for _ in range(2)]
    return torch.cat([torch.stack(losses), module.cluster_foreground])


def cosines(n=40, k=4, streams=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [2 * torch.rand(n, k, generator=generator) - 1 for _ in range(streams)]


def test_every_setting_is_covered():
    assert CHANGES.keys() == {field.name for field in fields(LabelConfig)}


@pytest.mark.parametrize("field", CHANGES)
def test_every_setting_changes_an_answer(field):
    start, value = CHANGES[field]
    before, after = LabelConfig(**start), LabelConfig(**start | {field: value})
    weight = float(field.startswith("class_"))
    assert (two_steps(before, weight) - two_steps(after, weight)).abs().max() > 1e-5


@pytest.mark.parametrize("assignment", ["transport", "prediction"])
def test_hard_labels_are_the_largest_of_the_soft_ones(assignment):
    soft, hard = (
        snippet_labels(
            cosines(), torch.linspace(0, 1, 40), torch.rand(4, generator=torch.Generator().manual_seed(1)), settings
        )
        for settings in (LabelConfig(assignment=assignment), LabelConfig(assignment=assignment, form="hard"))
    )
    torch.testing.assert_close(hard, torch.nn.functional.one_hot(soft.argmax(dim=1), 4).float())


def test_without_transport_a_label_is_the_prediction():
    settings, a = LabelConfig(assignment="prediction"), cosines()
    expected = (5 * (a[0] + a[1]) / 2).softmax(dim=1)
    torch.testing.assert_close(snippet_labels(a, torch.rand(40), torch.rand(4), settings, 5.0), expected)
    a = cosines(n=8, k=2)
    torch.testing.assert_close(cluster_labels(a, torch.ones(40), settings, 5.0), (5 * (a[0] + a[1]) / 2).softmax(dim=1))


def test_attention_prior_differs_from_rank_prior():
    assert (two_steps(LabelConfig()) - two_steps(LabelConfig(prior="attention"))).abs().max() > 1e-5


@pytest.mark.parametrize("prior", ["rank", "attention", "none"])
def test_snippet_labels_meet_equal_shares(prior):
    labels = snippet_labels(cosines(), torch.rand(40), torch.rand(4), replace(CONVERGED, prior=prior))
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(40))
    torch.testing.assert_close(labels.sum(dim=0), torch.full((4,), 10.0), atol=1e-4, rtol=0)


def test_snippet_labels_fuse_streams_by_their_mean():
    a, b = cosines()
    fused = snippet_labels([a, b], torch.rand(40), torch.rand(4), replace(CONVERGED, prior="none"))
    mean = snippet_labels([(a + b) / 2], torch.rand(40), torch.rand(4), replace(CONVERGED, prior="none"))
    torch.testing.assert_close(fused, mean)


def test_prior_gives_foreground_clusters_the_snippets_of_high_attention():
    attention, foreground = torch.rand(40), torch.tensor([0.05, 0.35, 0.65, 0.95])
    labels = snippet_labels([torch.zeros(40, 4)], attention, foreground, CONVERGED)
    expected_foreground = labels @ foreground
    order = attention.argsort()
    assert (expected_foreground[order].diff() > -1e-5).all()
    assert labels[order[-1]].argmax() == 3
    assert labels[order[0]].argmax() == 0


def test_released_sigma_does_next_to_nothing():
    arguments = cosines(), torch.rand(40), torch.rand(4)
    released = snippet_labels(*arguments, replace(CONVERGED, sigma=10.0))
    none = snippet_labels(*arguments, replace(CONVERGED, prior="none"))
    torch.testing.assert_close(released, none, atol=0.01, rtol=0)


def test_attention_prior_is_a_gaussian_in_the_distance():
    attention, foreground = torch.rand(6), torch.rand(3)
    log_prior = snippet_log_prior(attention, foreground, LabelConfig(prior="attention", sigma=0.3))
    for n in range(6):
        for k in range(3):
            expected = -((attention[n] - foreground[k]) ** 2) / (2 * 0.3**2)
            torch.testing.assert_close(log_prior[n, k], expected)


def test_cluster_labels_meet_the_share_of_foreground():
    foreground = torch.tensor([1.0] * 3 + [0.0] * 9)
    labels = cluster_labels(cosines(n=8, k=2), foreground, CONVERGED)
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(8))
    torch.testing.assert_close(labels.mean(dim=0), torch.tensor([0.25, 0.75]), atol=1e-5, rtol=0)


def test_uniform_marginal_makes_half_of_the_clusters_foreground():
    labels = cluster_labels(
        cosines(n=8, k=2), torch.tensor([1.0] + [0.0] * 11), replace(CONVERGED, cluster_marginal="uniform")
    )
    torch.testing.assert_close(labels.mean(dim=0), torch.tensor([0.5, 0.5]), atol=1e-5, rtol=0)


def class_problem(seed=0):
    """Two videos of 20 snippets with classes {0} and {0, 2} of 3."""
    generator = torch.Generator().manual_seed(seed)
    activation = torch.randn(40, 3, generator=generator).softmax(dim=1)
    video = torch.tensor([[1.0, 0, 0]] * 20 + [[1.0, 0, 1.0]] * 20)
    return activation, torch.rand(40, generator=generator), video


def test_class_labels_stay_within_the_classes_of_the_video():
    activation, foreground, video = class_problem()
    labels = class_labels(activation, foreground, video, CONVERGED)
    assert (labels[video == 0] == 0).all()
    assert (labels.sum(dim=1) <= 1 + 1e-6).all()  # the rest is background


def test_class_labels_share_the_foreground_of_each_video_among_its_classes():
    activation, foreground, video = class_problem()
    share = class_labels(activation, foreground, video, CONVERGED).mean(dim=0)
    expected = foreground.mean() * torch.tensor([0.75, 0.0, 0.25])  # half the snippets {0}, half {0, 2}
    torch.testing.assert_close(share, expected, atol=1e-5, rtol=0)


def test_class_labels_at_epsilon_one_are_the_probabilities_reweighted_by_class():
    activation, foreground, video = class_problem()
    labels = class_labels(activation, foreground, video, replace(CONVERGED, class_epsilon=1.0))[20:]
    odds = labels[:, 0] / labels[:, 2] * activation[20:, 2] / activation[20:, 0]
    torch.testing.assert_close(odds, odds[0].expand(20), rtol=1e-4, atol=0)


def test_snippets_of_a_video_without_labels_are_background():
    activation, foreground, video = class_problem()
    video[:20] = 0
    labels = class_labels(activation, foreground, video, CONVERGED)
    assert (labels[:20] == 0).all()
    assert (labels[20:].sum(dim=1) > 0).all()
    assert (class_labels(activation, foreground, torch.zeros_like(video), CONVERGED) == 0).all()


def test_class_loss_begins_after_the_warm_start_and_with_cluster_classification_only():
    data, config = tiny_data(), tiny_config()
    batch = batch_of(data.train, data.classes)

    def loss(class_weight, warm_start_epochs=0, components="scc_ccc"):
        settings = replace(
            config.loss, class_weight=class_weight, warm_start_epochs=warm_start_epochs, components=components
        )
        return make_module(replace(config, loss=settings)).training_step(batch).item()

    assert loss(1.0) > loss(0.0)
    assert loss(1.0, warm_start_epochs=1) == loss(0.0, warm_start_epochs=1)
    assert loss(1.0, components="scc") == loss(0.0, components="scc")


def test_a_teacher_with_the_same_weights_teaches_the_same_class_labels_but_for_its_smoothing():
    data, config = tiny_data(), tiny_config()
    batch = batch_of(data.train, data.classes)
    config = replace(config, loss=replace(config.loss, class_weight=1.0))
    module = make_module(config)
    own = module._class_loss(module(batch.streams, batch.mask), batch)

    def taught(smoothing):
        teacher = make_module(replace(config, inference=replace(config.inference, smoothing=smoothing)))
        student = CaseModule(WIDTHS, 3, config, teacher)
        student.load_state_dict(module.state_dict())  # the teacher is no part of it
        return student._class_loss(student(batch.streams, batch.mask), batch)

    assert torch.equal(taught(1), own)
    assert not torch.allclose(taught(3), own)


def test_with_a_teacher_class_labels_do_not_wait_for_the_warm_start():
    data, config = tiny_data(), tiny_config()
    batch = batch_of(data.train, data.classes)
    config = replace(config, loss=replace(config.loss, class_weight=1.0, warm_start_epochs=1))
    alone, taught = make_module(config), make_module(config, teacher=make_module(config, seed=1))
    assert taught.training_step(batch) > alone.training_step(batch)


def test_prototypes_are_weighted_means():
    embedding, label = torch.rand(20, 5), torch.rand(20, 3).softmax(dim=1)
    foreground = torch.rand(20) > 0.5
    result = prototype_cosine(embedding, label, foreground.float())
    for k in range(3):
        cluster = sum(label[n, k] * embedding[n] for n in range(20)) / label[:, k].sum()
        for side, chosen in enumerate((foreground, ~foreground)):
            mean = embedding[chosen].mean(dim=0)
            expected = cluster @ mean / (cluster.norm() * mean.norm())
            torch.testing.assert_close(result[k, side], expected)


def test_a_batch_without_foreground_gives_finite_prototypes():
    embedding = torch.rand(6, 4, requires_grad=True)
    result = prototype_cosine(embedding, torch.rand(6, 2), torch.zeros(6))
    result.sum().backward()
    assert torch.equal(result[:, 0], torch.zeros(2))
    assert torch.isfinite(embedding.grad).all()


def test_labels_carry_no_gradient_and_prototypes_carry_it_to_the_embedding_only():
    scores = [torch.rand(12, 3, requires_grad=True)]
    labels = snippet_labels(scores, torch.rand(12), torch.rand(3), LabelConfig())
    assert not labels.requires_grad
    embedding = torch.rand(12, 4, requires_grad=True)
    assert prototype_cosine(embedding, labels, (torch.rand(12) > 0.5).float()).requires_grad
