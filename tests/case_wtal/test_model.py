"""Network and training step: costs, any streams, and padding that changes nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from examples.case_wtal.baselines.own import StreamNetwork
from examples.case_wtal.config import CaseConfig, LabelConfig, LossConfig, ModelConfig
from examples.case_wtal.data.batches import Batch, RecordingDataset, collate
from examples.case_wtal.inference import score_recordings
from examples.case_wtal.model import CaseNetwork, count_costs
from examples.case_wtal.module import CaseModule, temporal_mean
from tests.case_wtal.tiny import WIDTHS, replace, tiny_config, tiny_data


def make_module(config=None, widths=WIDTHS, seed=0, teacher=None):
    torch.manual_seed(seed)
    module = CaseModule(widths, 3, config or tiny_config(), teacher)
    module.log_dict = lambda *_, **__: None  # there is no trainer to log to
    return module


def pad(batch, extra):
    streams = {name: torch.nn.functional.pad(f, (0, 0, 0, extra)) for name, f in batch.streams.items()}
    return Batch(streams, torch.nn.functional.pad(batch.mask, (0, extra)), batch.labels)


def batch_of(recordings, classes):
    dataset = RecordingDataset(recordings, classes)
    return collate([dataset[i] for i in range(len(dataset))])


def test_costs_are_those_of_the_paper():
    widths = {"rgb": 1024, "flow": 1024}
    parameters, operations = count_costs(CaseNetwork(widths, 20, CaseConfig()), widths, 750)
    assert parameters == 2_137_130
    assert operations / 1e9 == pytest.approx(1.60128, abs=5e-6)


@pytest.mark.parametrize("widths", [{"one": 3}, {"a": 5, "b": 2}, {"x": 4, "y": 1, "z": 7}])
def test_any_number_of_streams_of_any_width_trains_and_scores(widths):
    rng = np.random.default_rng(0)
    data = tiny_data()
    recordings = [
        replace(r, streams={n: rng.standard_normal((len(r), w)).astype(np.float32) for n, w in widths.items()})
        for r in data.train
    ]
    module = make_module(widths=widths)
    loss = module.training_step(batch_of(recordings, data.classes))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
    scores = score_recordings(module, recordings)
    assert [s.class_activation.shape for s in scores] == [(len(r), 3) for r in recordings]
    assert {s.streams for s in scores} == {len(widths)}


def test_output_shapes():
    features = {name: torch.randn(2, 9, width) for name, width in WIDTHS.items()}
    network = CaseNetwork(WIDTHS, 3, CaseConfig(model=ModelConfig(hidden=8, kernel_size=3, clusters=5)))
    output = network(features, torch.ones(2, 9, dtype=torch.bool))
    for stream, cosine in zip(output.baseline.streams, output.cluster_cosine, strict=True):
        assert stream.cas.shape == (2, 9, 3)
        assert stream.attention.shape == (2, 9)
        assert stream.embedding.shape == (2, 9, 8)
        assert cosine.shape == (2, 9, 5)
        assert cosine.abs().max() <= 1 + 1e-6


def test_streams_and_branches_share_no_weights():
    network = CaseNetwork({"a": 4, "b": 4}, 3, CaseConfig(model=ModelConfig(hidden=8)))
    pointers = [p.data_ptr() for p in network.parameters()]
    assert len(set(pointers)) == len(pointers) == 2 * 9


def test_a_padded_recording_in_a_batch_is_scored_as_alone():
    module, data = make_module(), tiny_data()
    together = score_recordings(module, data.train)
    for recording, score in zip(data.train, together, strict=True):
        (alone,) = score_recordings(module, [recording])
        for field in ("class_activation", "attention", "cluster_foreground", "video_scores"):
            # float32 sums in another order
            np.testing.assert_allclose(getattr(score, field), getattr(alone, field), atol=1e-6)


@pytest.mark.parametrize("smoothing", [1, 3])
def test_padding_changes_neither_losses_nor_labels(smoothing):
    data = tiny_data()
    config = replace(tiny_config(), label=LabelConfig(smoothing=smoothing))
    batch = batch_of(data.train[:3], data.classes)
    results = []
    for extra in (0, 7):
        module = make_module(config)
        loss = module.training_step(pad(batch, extra))
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in module.parameters()])
        results.append((loss.detach(), module.cluster_foreground, gradient))
    for plain, padded in zip(*results, strict=True):
        torch.testing.assert_close(padded, plain, atol=2e-5, rtol=1e-4)  # labels are converged to 1e-3


def test_temporal_mean_is_a_loop_over_valid_neighbours():
    values, mask = torch.randn(2, 7, 3), torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    expected = values.clone()
    for b, length in enumerate((7, 4)):
        for t in range(length):
            expected[b, t] = values[b, max(0, t - 2) : min(length, t + 3)].mean(dim=0)
    torch.testing.assert_close(temporal_mean(values, mask, 5)[mask], expected[mask])


def test_baseline_leaves_the_clusters_alone():
    module, data = make_module(tiny_config("baseline")), tiny_data()
    module.training_step(batch_of(data.train, data.classes)).backward()
    assert all(head.prototypes.grad is None for head in module.network.heads)
    torch.testing.assert_close(module.cluster_foreground, torch.full((4,), 0.5))


def test_cluster_foreground_is_part_of_the_state_and_follows_training():
    module, data = make_module(), tiny_data()
    module.training_step(batch_of(data.train, data.classes))
    state = module.state_dict()["cluster_foreground"]
    assert not torch.equal(state, torch.full((4,), 0.5))
    fresh = make_module(seed=1)
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh.cluster_foreground, state)


def one_step(**loss):
    data, config = tiny_data(), tiny_config()
    module = make_module(replace(config, loss=replace(config.loss, **loss)))
    module.training_step(batch_of(data.train, data.classes)).backward()
    return module


def test_streams_that_share_no_labels_have_clusters_of_their_own():
    assert one_step(co_labels="all").cluster_foreground.shape == (4,)
    for kind in ("baseline", "none"):
        foreground = one_step(co_labels=kind).cluster_foreground
        assert foreground.shape == (2, 4)
        assert not torch.equal(foreground[0], foreground[1])


def test_without_co_labels_a_stream_is_trained_as_if_it_were_alone():
    data, config = tiny_data(), replace(tiny_config(), loss=LossConfig("baseline", co_labels="none", topk_ratio=4))
    both = make_module(config)
    both.training_step(batch_of(data.train, data.classes)).backward()
    for name, width in WIDTHS.items():
        alone = make_module(config, {name: width})
        alone.network.baseline.streams[name].load_state_dict(both.network.baseline.streams[name].state_dict())
        streams = [replace(r, streams={name: r.streams[name]}) for r in data.train]
        alone.training_step(batch_of(streams, data.classes)).backward()
        for p, q in zip(both.network.baseline.streams[name].parameters(), alone.network.parameters(), strict=False):
            scale = 2 if p is both.network.baseline.streams[name].class_encoder.weight else 1
            if scale == 2:  # the video loss is a mean over the streams
                torch.testing.assert_close(scale * p.grad, q.grad, atol=1e-6, rtol=1e-4)


def test_class_branch_alone_leaves_the_attention_untrained():
    module = one_step(components="baseline", attention=False)
    for stream in module.network.baseline.streams.values():
        assert stream.attention_layer.weight.grad is None
        assert stream.classifier.weight.grad.abs().sum() > 0


def test_unknown_baseline_is_refused():
    with pytest.raises(ValueError, match=r"`model.baseline` must be one of own.*got 'nobody'"):
        CaseNetwork(WIDTHS, 3, CaseConfig(model=ModelConfig(baseline="nobody")))


@given(st.integers(0, 2**31), st.integers(1, 9), st.sampled_from([0.0, 0.3, 1.0]))
def test_classifier_learns_what_two_plain_convolutions_would(seed, snippets, looked_at):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    stream = StreamNetwork(4, 3, ModelConfig(hidden=5)).double()
    layers = [stream.class_encoder, stream.classifier]
    for layer in layers:
        torch.nn.init.normal_(layer.weight, generator=generator)
    features, cotangent = draw(2, snippets, 4), draw(2, snippets, 3)
    cotangent[torch.rand((2, snippets), generator=generator) >= looked_at] = 0
    cas = stream(features).cas
    found = torch.autograd.grad(cas, [p for layer in layers for p in layer.parameters()], cotangent)
    hidden = torch.relu(torch.nn.functional.conv1d(features.mT, layers[0].weight, layers[0].bias))
    plain = torch.nn.functional.conv1d(hidden, layers[1].weight, layers[1].bias).mT
    expected = torch.autograd.grad(plain, [p for layer in layers for p in layer.parameters()], cotangent)
    torch.testing.assert_close(cas, plain, rtol=1e-12, atol=1e-12)  # sums of at most 18 terms in float64
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_features_that_ask_for_a_gradient_get_it(kernel_size):
    features = torch.randn(1, 6, 4, dtype=torch.float64, requires_grad=True)
    stream = StreamNetwork(4, 3, ModelConfig(hidden=5, kernel_size=kernel_size)).double()
    assert torch.autograd.gradcheck(lambda f: stream(f).cas, features)


def test_even_kernel_is_refused():
    with pytest.raises(ValueError, match="`kernel_size` must be odd, got 2"):
        CaseNetwork(WIDTHS, 3, CaseConfig(model=ModelConfig(kernel_size=2)))


def test_no_stream_is_refused():
    with pytest.raises(ValueError, match="`stream_widths` must name at least one stream, got none"):
        CaseNetwork({}, 3, CaseConfig())
