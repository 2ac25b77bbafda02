"""Baselines: published costs, padding that counts for nothing, gradients, losses, and CASE added to them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from examples.case_wtal.baselines import BASELINES, AcmNet, AcmNetSettings, BasNet, adapt, parts
from examples.case_wtal.baselines.co2net import coactivity_loss, mutual_loss, suppress
from examples.case_wtal.commands.costs import PUBLISHED, STREAMS
from examples.case_wtal.config import CaseConfig, ModelConfig
from examples.case_wtal.inference import detect, score_recordings
from examples.case_wtal.model import CaseNetwork, count_costs
from examples.case_wtal.recipes import RECIPES, paper
from examples.case_wtal.run import train
from tests.case_wtal.test_model import batch_of, make_module, pad
from tests.case_wtal.tiny import WIDTHS, replace, tiny_config, tiny_data

ADDED = ("basnet", "acmnet", "co2net")
ALL_WIDTHS = [{"one": 3}, WIDTHS, {"x": 4, "y": 1, "z": 7}]


def settings(baseline, components="scc_ccc", **train):
    config = adapt(tiny_config(components, **train), baseline)
    return replace(config, model=replace(config.model, joint=8))


def batch(widths=WIDTHS, count=5):
    rng, data = np.random.default_rng(0), tiny_data()
    recordings = [
        replace(r, streams={n: rng.standard_normal((len(r), w)).astype(np.float32) for n, w in widths.items()})
        for r in data.train[:count]
    ]
    return batch_of(recordings, data.classes)


# ---- costs


@pytest.mark.parametrize(
    ("baseline", "parameters", "operations"),
    [("basnet", 26.26, 38.6), ("acmnet", 12.63, 9.47), ("co2net", 34.13, 20.88)],
)
def test_costs_are_the_published_ones(baseline, parameters, operations):
    network = CaseNetwork(STREAMS, 20, adapt(paper("thumos14"), baseline)).baseline
    found, counted = count_costs(network, STREAMS, 750)
    assert found / 1e6 == pytest.approx(parameters, abs=0.005)
    assert counted / 1e9 == pytest.approx(operations, abs=0.005)
    assert PUBLISHED[baseline] == pytest.approx((found / 1e6, counted / 1e9), abs=0.0061)  # ACM-Net's 9.474 as 9.48


@pytest.mark.parametrize("baseline", BASELINES)
def test_costs_are_those_of_every_layer(baseline):
    whole = CaseNetwork(WIDTHS, 3, settings(baseline))
    alone = count_costs(whole.baseline, WIDTHS, 20)
    added = sum(width for width in whole.baseline.embedding_widths) * 4
    assert count_costs(whole, WIDTHS, 20) == (alone[0] + added, alone[1] + 20 * added)


# ---- padding, gradients, any streams


@pytest.mark.parametrize("widths", ALL_WIDTHS)
@pytest.mark.parametrize("baseline", BASELINES)
def test_padding_changes_neither_losses_nor_gradients(baseline, widths):
    results = []
    for extra in (0, 7):
        module = make_module(settings(baseline), widths).eval()  # dropout would draw other numbers for other shapes
        loss = module.training_step(pad(batch(widths), extra))
        loss.backward()
        results.append((loss.detach(), torch.cat([p.grad.flatten() for p in module.parameters()])))
    for plain, padded in zip(*results, strict=True):
        torch.testing.assert_close(padded, plain, atol=2e-5, rtol=1e-4)  # labels are converged to 1e-3


@pytest.mark.parametrize("baseline", BASELINES)
def test_what_stands_in_padded_snippets_of_the_output_does_not_count(baseline):
    module = make_module(settings(baseline)).eval()
    short = pad(batch(), 3)
    output = module(short.streams, short.mask).baseline
    ends = short.mask.sum(dim=1)
    alone = []
    for i, end in enumerate(ends.tolist()):
        features = {name: f[i : i + 1, :end] for name, f in short.streams.items()}
        mask = torch.ones(1, end, dtype=torch.bool)
        single = module(features, mask).baseline
        activation = module.network.baseline.class_activation
        alone.append(module.network.baseline.video_scores(single, mask))
        torch.testing.assert_close(activation(output)[i, :end], activation(single)[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(module.network.baseline.video_scores(output, short.mask), torch.cat(alone))


@pytest.mark.parametrize("widths", ALL_WIDTHS)
@pytest.mark.parametrize("baseline", BASELINES)
def test_every_parameter_learns_from_any_streams(baseline, widths):
    module = make_module(settings(baseline), widths).eval()
    module.training_step(batch(widths)).backward()
    # CO2-Net's snippets are as wide as its streams, and cosines of a single number are signs, which do not change.
    signs = {f"network.heads.{i}.prototypes" for i, w in enumerate(widths.values()) if baseline == "co2net" and w == 1}
    still = {n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert still <= signs
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


@pytest.mark.parametrize("baseline", BASELINES)
def test_alone_a_baseline_leaves_the_clusters_alone(baseline):
    module = make_module(settings(baseline, "baseline"))
    module.training_step(batch()).backward()
    assert all(head.prototypes.grad is None for head in module.network.heads)


@pytest.mark.parametrize("baseline", BASELINES)
def test_output_keeps_the_interface(baseline):
    module, data = make_module(settings(baseline)).eval(), batch()
    output = module.network.baseline(data.streams, data.mask)
    b, t = data.mask.shape
    assert [o.embedding.shape for o in output.streams] == [(b, t, w) for w in module.network.baseline.embedding_widths]
    for stream in output.streams:
        assert stream.cas.shape == (b, t, 3)
        assert stream.attention.shape == (b, t)
        assert 0 <= stream.attention.min() <= stream.attention.max() <= 1
    scores = module.network.baseline.video_scores(output, data.mask)
    activation = module.network.baseline.class_activation(output)
    assert (scores.shape, activation.shape) == ((b, 3), (b, t, 3))
    assert 0 <= activation.min() <= activation.max() <= 1
    assert 0 <= scores.min() <= scores.max() <= 1
    _, foreground = module.network.baseline.training_losses(output, data, 0)
    assert (foreground.dtype, foreground.shape) == (torch.bool, (1, b, t))
    assert not (foreground & ~data.mask).any()
    assert foreground.any(dim=2).all()


@pytest.mark.parametrize("baseline", ADDED)
def test_the_attention_put_in_its_own_place_changes_nothing_and_another_foreground_does(baseline):
    module, data = make_module(settings(baseline)).eval(), batch()
    output = module.network.baseline(data.streams, data.mask)
    activation = module.network.baseline.class_activation
    own = [o.attention for o in output.streams]
    torch.testing.assert_close(activation(output, own), activation(output))
    other = activation(output, [a * torch.linspace(0, 1, a.shape[1]) for a in own])
    assert (other - activation(output)).abs().max() > 1e-3


@pytest.mark.parametrize("baseline", BASELINES)
def test_epoch_zero_is_the_same_whatever_the_seed_of_the_clusters_adds(baseline):
    """Base and base + CASE start from the same weights, so their difference is CASE's."""
    states = [make_module(settings(baseline, c)).network.baseline.state_dict() for c in ("baseline", "scc_ccc")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# ---- training


@pytest.mark.parametrize("baseline", ADDED)
def test_equal_seeds_give_equal_weights(baseline):
    config, data = settings(baseline), tiny_data()
    first, second = (train(config, data, progress=False).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("components", ["baseline", "scc_ccc"])
@pytest.mark.parametrize("baseline", ADDED)
def test_losses_fall_and_detections_come_out(baseline, components):
    config, data = settings(baseline, components, epochs=12), tiny_data(train=12)
    before, after = (
        train(replace(config, train=replace(config.train, epochs=epochs)), data, progress=False) for epochs in (1, 12)
    )
    videos = [float(_video_loss(module, data)) for module in (before, after)]
    assert videos[1] < videos[0]
    detections = detect(score_recordings(after, data.test), data.classes, config)
    assert len(detections) > 0


def _video_loss(module, data):
    module.log_dict = lambda *_, **__: None
    everything = batch_of(data.train, data.classes)
    output = module.network.baseline(everything.streams, everything.mask)
    found, _ = module.network.baseline.training_losses(output, everything, 0)
    return sum(value.detach() for name, value in found.items() if name in {"base", "suppressed", "instance", "context"})


# ---- settings


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("baseline", ADDED)
def test_adaptation_changes_the_network_the_fusion_and_thresholds_only(baseline, recipe):
    config = RECIPES[recipe]("ninapro")
    adapted = adapt(config, baseline)
    assert adapted.model.baseline == baseline
    restored = replace(
        adapted,
        model=config.model,
        inference=replace(adapted.inference, fusion=config.inference.fusion),
        proposal=replace(adapted.proposal, thresholds=config.proposal.thresholds),
    )
    assert restored == config


def test_own_baseline_needs_no_adaptation():
    assert adapt(paper("ninapro"), "own") == paper("ninapro")


def test_joint_width_is_a_setting():
    def width(joint):
        return CaseNetwork(WIDTHS, 3, CaseConfig(model=ModelConfig("acmnet", joint=joint))).heads[0].prototypes.shape[1]

    assert (width(5), width(9)) == (5, 9)


# ---- losses


def cas_of(seed=0, shape=(4, 6, 3)):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(shape[1]) < torch.tensor([6, 4, 5, 3])[:, None]
    return torch.randn(shape, generator=generator, dtype=torch.float64), mask


@pytest.mark.parametrize("joined", [False, True])
def test_coactivity_is_a_loop_over_pairs_with_a_common_class(joined):
    cas, mask = cas_of()
    features, _ = cas_of(1, (4, 6, 5))
    labels = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, int(joined)]], dtype=torch.float64)
    found = []
    for i in range(4):
        for j in range(4):
            for g in range(3):
                if i == j or not labels[i, g] * labels[j, g]:
                    continue
                parts_of = []
                for v in (i, j):
                    x, w = features[v][mask[v]], cas[v][mask[v]][:, g].softmax(dim=0)
                    parts_of.append((w @ x, (1 - w) @ x / (len(x) - 1)))
                (high_i, _), (high_j, low_j) = parts_of
                near = 1 - F.cosine_similarity(high_i, high_j, dim=0)
                far = 1 - F.cosine_similarity(high_i, low_j, dim=0)
                found.append((near - far + 0.5).clamp_min(0))
    expected = torch.stack(found).mean()
    torch.testing.assert_close(coactivity_loss(features, cas, mask, labels, 0.5), expected)


def test_coactivity_of_recordings_without_a_common_class_is_zero():
    cas, mask = cas_of()
    assert coactivity_loss(cas, cas, mask, torch.eye(4, 3, dtype=torch.float64), 0.5) == 0


@given(st.integers(0, 50))
def test_suppression_keeps_what_is_attended_and_lowers_the_rest(seed):
    cas, mask = cas_of(seed)
    ones = torch.ones(mask.shape, dtype=cas.dtype)
    torch.testing.assert_close(suppress(cas, ones, mask), cas)
    low = torch.stack([c[m].amin(dim=0) for c, m in zip(cas, mask, strict=True)])
    torch.testing.assert_close(suppress(cas, 0 * ones, mask), low[:, None].expand_as(cas))


def test_mutual_loss_is_the_distance_of_two_attentions_and_each_learns_half():
    mask = torch.tensor([[True, True, False]])
    a, b = torch.tensor([[0.2, 0.6, 0.9]], requires_grad=True), torch.tensor([[0.4, 0.1, 0.3]], requires_grad=True)
    loss = mutual_loss([a, b], mask)
    assert float(loss.detach()) == pytest.approx((0.04 + 0.25) / 2)
    loss.backward()
    torch.testing.assert_close(a.grad, torch.tensor([[-0.1, 0.25, 0.0]]))
    torch.testing.assert_close(b.grad, -a.grad)
    assert mutual_loss([a], mask) == 0


def test_sparsity_of_basnet_is_the_weighted_sum_of_the_filter():
    data, module = batch(), make_module(settings("basnet")).eval()
    output = module.network.baseline(data.streams, data.mask)
    found, _ = module.network.baseline.training_losses(output, data, 0)
    total = sum(a[m].sum() for a, m in zip(output.streams[0].attention, data.mask, strict=True)) / len(data.mask)
    torch.testing.assert_close(found["sparsity"], 1e-4 * total)


def test_basnet_labels_every_recording_background_in_the_base_branch_only():
    data, module = batch(), make_module(settings("basnet")).eval()
    output = module.network.baseline(data.streams, data.mask)
    found, _ = module.network.baseline.training_losses(output, data, 0)
    for name, background in (("base", 1.0), ("suppressed", 0.0)):
        rows = []
        for cas, mask, label in zip(output.extra[name], data.mask, data.labels, strict=True):
            best = cas[mask].sort(dim=0, descending=True).values[: int(mask.sum()) // 4].mean(dim=0)
            target = torch.cat((label, torch.tensor([background])))
            rows.append(-(target / target.sum() * best.log_softmax(dim=0)).sum())
        torch.testing.assert_close(found[name], torch.stack(rows).mean())


@pytest.mark.parametrize(
    ("instance", "context", "background", "expected"),
    [(9.0, 4.0, 0.0, 0.0), (4.0, 4.0, 0.0, 9.0), (9.0, 4.0, 2.0, 9.0), (0.0, 0.0, 0.0, 36.0)],
)
def test_magnitude_loss_wants_a_margin_of_three(instance, context, background, expected):
    config = settings("acmnet")
    network = AcmNet({"one": 2}, 3, config, AcmNetSettings(margin=3.0))
    attention = torch.eye(3)[[0, 0, 1, 1, 2, 2]][None]
    norms = torch.tensor([instance, instance, context, context, background, background])
    embedding = torch.stack((norms, torch.zeros(6)), dim=-1)[None]
    loss = network._magnitude_loss(embedding, attention, torch.ones(1, 6, dtype=torch.bool))
    assert float(loss) == pytest.approx(expected)


def test_settings_of_a_baseline_weigh_its_losses():
    data = batch()
    values = []
    for weight in (1.0, 2.0):
        torch.manual_seed(0)
        network = AcmNet(WIDTHS, 3, settings("acmnet"), AcmNetSettings(guide=weight)).eval()
        values.append(network.training_losses(network(data.streams, data.mask), data, 0)[0]["guide"])
    torch.testing.assert_close(values[1], 2 * values[0])


def test_dropout_is_for_training_only():
    data = batch()
    network = BasNet(WIDTHS, 3, settings("basnet"))
    first, second = (network(data.streams, data.mask).extra["base"] for _ in range(2))
    assert not torch.equal(first, second)
    network.eval()
    first, second = (network(data.streams, data.mask).extra["base"] for _ in range(2))
    assert torch.equal(first, second)


def test_first_layer_sees_neighbours_but_never_beyond_the_end():
    conv = parts.TemporalConv(2, 3, 3)
    mask = torch.tensor([[True, True, True, False, False]])
    signal = torch.randn(1, 2, 5) * mask
    torch.testing.assert_close(conv(signal, mask)[..., :3], conv(signal[..., :3], mask[:, :3]))
    assert (conv(signal, mask)[..., 3:] == 0).all()


@pytest.mark.parametrize("baseline", ADDED)
def test_in_the_warm_start_the_foreground_is_chosen_without_the_attention(baseline):
    config = settings(baseline)
    module = make_module(replace(config, loss=replace(config.loss, warm_start_epochs=1))).eval()
    data = batch()
    network, output = module.network.baseline, module.network.baseline(data.streams, data.mask)
    plain = output.extra["base" if baseline == "basnet" else "logits"]
    expected = parts.action_snippets(plain[..., :-1], data.mask, data.labels, config.loss.topk_ratio)
    (_, warm), (_, later) = (network.training_losses(output, data, epoch) for epoch in (0, 1))
    assert torch.equal(warm, expected)
    assert not torch.equal(later, warm)
