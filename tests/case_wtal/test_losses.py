"""Each loss and the top-k selection against an obvious loop."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.case_wtal.losses import attention_loss, label_loss, select_topk, video_logits, video_loss

CLOSE = {"atol": 1e-6, "rtol": 1e-5}  # float32 sums in another order


def masks(lengths, total):
    return torch.arange(total) < torch.tensor(lengths)[:, None]


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    ratio=st.integers(1, 8),
    levels=st.integers(1, 5),
    seed=st.integers(0, 10_000),
)
def test_topk_is_a_loop_over_valid_snippets(lengths, ratio, levels, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (len(lengths), 10, 3), generator=generator) / levels  # few levels make ties
    selected = select_topk(scores, masks(lengths, 10), ratio)
    for b, length in enumerate(lengths):
        for g in range(3):
            # Of equal scores the earlier snippet goes first.
            order = sorted(range(length), key=lambda t: (-scores[b, t, g].item(), t))
            chosen = set(order[: max(1, length // ratio)])
            assert set(selected[b, :, g].nonzero().flatten().tolist()) == chosen


def test_topk_never_selects_padding_even_below_every_score():
    scores = torch.full((1, 6, 1), -5.0)
    assert select_topk(scores, masks([2], 6), 1)[0, :, 0].tolist() == [True, True, False, False, False, False]


def test_video_logits_are_the_mean_of_the_selected():
    cas, selected = torch.randn(2, 5, 3), torch.rand(2, 5, 3) > 0.4
    selected[:, 0] = True
    for b in range(2):
        for g in range(3):
            chosen = [cas[b, t, g] for t in range(5) if selected[b, t, g]]
            torch.testing.assert_close(video_logits(cas, selected)[b, g], sum(chosen) / len(chosen), **CLOSE)


def test_video_loss_is_a_loop_that_leaves_out_recordings_without_labels():
    logits = [torch.randn(3, 4), torch.randn(3, 4)]
    labels = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
    losses = []
    for b in (0, 2):
        for stream in logits:
            probability = stream[b].softmax(dim=0)
            present = [g for g in range(4) if labels[b, g]]
            losses.append(-sum(probability[g].log() for g in present) / len(present))
    torch.testing.assert_close(video_loss(logits, labels), sum(losses) / 4, **CLOSE)


def test_video_loss_without_any_label_is_zero_with_a_gradient():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = video_loss([logits], torch.zeros(2, 3))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(2, 3))


@pytest.mark.parametrize("q", [0.0, 0.3, 0.7, 1.0])
def test_attention_loss_is_a_loop_over_both_sides_of_each_video(q):
    attention = [torch.rand(3, 6) * 0.98 + 0.01 for _ in range(2)]
    foreground, mask = torch.rand(3, 6) > 0.6, masks([6, 4, 1], 6)
    foreground[2] = False  # a video without a positive

    def gce(p):
        return -math.log(p) if q == 0 else (1 - p**q) / q

    total = 0.0
    for stream in attention:
        for b, length in enumerate((6, 4, 1)):
            positive = [gce(stream[b, t].item()) for t in range(length) if foreground[b, t]]
            negative = [gce(1 - stream[b, t].item()) for t in range(length) if not foreground[b, t]]
            total += sum(sum(side) / len(side) for side in (positive, negative) if side) / 3
    torch.testing.assert_close(attention_loss(attention, foreground, mask, q), torch.tensor(total), **CLOSE)


def test_gce_tends_to_cross_entropy():
    attention, foreground = [torch.rand(2, 5) * 0.9 + 0.05], torch.rand(2, 5) > 0.5
    mask = torch.ones(2, 5, dtype=torch.bool)
    limit, near = (attention_loss(attention, foreground, mask, q) for q in (0.0, 1e-3))
    torch.testing.assert_close(near, limit, atol=1e-2, rtol=0)  # the distance is of the order of q log^2 p


@pytest.mark.parametrize("q", [0.0, 0.7])
def test_attention_loss_has_finite_gradients_at_certainty(q):
    attention = torch.tensor([[0.0, 1.0, 0.0, 1.0]], requires_grad=True)
    foreground = torch.tensor([[True, True, False, False]])
    attention_loss([attention], foreground, torch.ones(1, 4, dtype=torch.bool), q).backward()
    assert torch.isfinite(attention.grad).all()


def test_label_loss_is_a_loop_over_soft_labels():
    logits = [torch.randn(5, 3), torch.randn(5, 3)]
    labels = torch.rand(5, 3).softmax(dim=1)
    total = 0.0
    for stream in logits:
        for n in range(5):
            total -= sum(labels[n, k] * stream[n].softmax(dim=0)[k].log() for k in range(3)) / 5
    torch.testing.assert_close(label_loss(logits, labels), total, **CLOSE)
