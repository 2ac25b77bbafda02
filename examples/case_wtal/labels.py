"""Pseudo-labels of CASE. The only file of the example that calls otlabel, and only by its public names."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from examples.case_wtal.config import LabelConfig
from otlabel import (
    Auto,
    Sinkhorn,
    Solver,
    marginals,
    priors,
    sinkhorn_label,
    sinkhorn_marginal_label,
    sinkhorn_prior_label,
)


def solver_of(config: LabelConfig) -> Solver:
    """Solver settings; a missed tolerance is reported by the caller's log, not by a warning at every step."""
    if config.tol is None:
        return Sinkhorn(max_iter=config.max_iter, tol=None)
    return Auto(max_iter=config.max_iter, tol=config.tol, on_failure="ignore")


def snippet_labels(
    cluster_cosines: Sequence[Tensor],
    attention: Tensor,
    cluster_foreground: Tensor,
    config: LabelConfig,
    temperature: float = 10.0,
) -> Tensor:
    """Labels Q^S of snippets over clusters, shared by the streams (eqs. 7-12, 17).

    Args:
        cluster_cosines: Of each stream, shape (N, K); N counts valid snippets only. Streams are averaged, as the
            released program does with its logits.
        attention: Mean attention of the streams, shape (N,); its rank is the snippet's position in the prior.
        cluster_foreground: Q^C[:, foreground] of the previous iteration, shape (K,).
        config: Settings.
        temperature: Factor on cosines in the prediction, which is the label with `assignment="prediction"`.

    Returns:
        Shape (N, K), rows sum to one. With transport, clusters get equal shares up to `config.tol` before `form`.
    """
    with torch.no_grad():
        scores = torch.stack(tuple(cluster_cosines)).mean(dim=0)
        if config.assignment == "prediction":
            return _in_form((temperature * scores).softmax(dim=-1), config)
        if config.prior == "none":
            result = sinkhorn_label(scores, epsilon=config.epsilon, solver=solver_of(config))
        else:
            result = sinkhorn_prior_label(
                scores,
                log_prior=snippet_log_prior(attention, cluster_foreground, config),
                prior_weight=config.prior_weight,
                epsilon=config.epsilon,
                solver=solver_of(config),
            )
        return _in_form(result.labels, config)


def snippet_log_prior(attention: Tensor, cluster_foreground: Tensor, config: LabelConfig) -> Tensor:
    """Log of the prior Q_prior[n, k], Gaussian in (position of snippet n - foreground of cluster k) (eq. 11)."""
    if config.prior == "attention":
        return ((attention[:, None] - cluster_foreground) / config.sigma).square() / -2
    return priors.gaussian_rank_prior(
        attention,
        cluster_foreground,
        sigma=config.sigma,
        order_preserving=config.order_preserving,
        rank=config.rank,
    )


def cluster_labels(
    prototype_cosines: Sequence[Tensor], foreground: Tensor, config: LabelConfig, temperature: float = 10.0
) -> Tensor:
    """Labels Q^C of clusters over {foreground, background}, shared by the streams (eqs. 13, 19).

    Args:
        prototype_cosines: Of each stream, cosine of cluster and foreground/background prototypes, shape (K, 2).
        foreground: Foreground pseudo-label Q^A of each valid snippet, shape (N,); its mean is the marginal.
        config: Settings.
        temperature: As in `snippet_labels`.

    Returns:
        Shape (K, 2), rows sum to one.
    """
    with torch.no_grad():
        scores = torch.stack(tuple(prototype_cosines)).mean(dim=0)
        if config.assignment == "prediction":
            return _in_form((temperature * scores).softmax(dim=-1), config)
        share = marginals.uniform(2, dtype=scores.dtype, device=scores.device)
        if config.cluster_marginal == "empirical":
            share = marginals.empirical(torch.stack((foreground, 1 - foreground), dim=-1).to(scores.dtype))
        result = sinkhorn_marginal_label(scores, share, epsilon=config.epsilon, solver=solver_of(config))
        return _in_form(result.labels, config)


def class_labels(activation: Tensor, foreground: Tensor, video_labels: Tensor, config: LabelConfig) -> Tensor:
    """Labels of snippets over the action classes and background: ours, beyond CASE.

    A snippet may be labelled with a class of its video, or background. The share of background is that of the
    foreground map, the rest of each video goes to its classes alike: proportions that the masked problem can always
    meet.

    Args:
        activation: T-CAS as probabilities, shape (N, G).
        foreground: Foreground probability of each snippet, shape (N,).
        video_labels: Labels of each snippet's video, 0 or 1, shape (N, G).
        config: Settings.

    Returns:
        Mass of each class for each snippet, shape (N, G); what a row lacks to one is background.
    """
    with torch.no_grad():
        share = foreground.mean()
        expected = share * video_labels / video_labels.sum(dim=1, keepdim=True).clamp_min(1)
        expected = torch.cat((expected, 1 - expected.sum(dim=1, keepdim=True)), dim=1)
        probability = torch.cat((activation * foreground[:, None], 1 - foreground[:, None]), dim=1)
        return sinkhorn_marginal_label(
            probability.clamp_min(1e-12).log(),
            marginals.empirical(expected),
            epsilon=config.class_epsilon,
            mask=expected > 0,
            solver=solver_of(config),
        ).labels[:, :-1]


def prototype_cosine(embedding: Tensor, snippet_label: Tensor, foreground: Tensor) -> Tensor:
    """Cosine of each cluster's prototype with those of foreground and background (eqs. 4-6), shape (K, 2).

    Prototypes are label-weighted means of the embeddings; gradient flows through the embeddings only.

    Args:
        embedding: Shape (N, H).
        snippet_label: Q^S, shape (N, K).
        foreground: Q^A, shape (N,).
    """
    sides = torch.stack((foreground, 1 - foreground), dim=-1).to(embedding.dtype)
    # Sums instead of means: only directions matter, and an empty side then gives cosine 0 instead of NaN.
    clusters = F.normalize(snippet_label.T @ embedding, dim=-1)
    return clusters @ F.normalize(sides.T @ embedding, dim=-1).T


def _in_form(labels: Tensor, config: LabelConfig) -> Tensor:
    """Soft as they are, or all on the largest of each row."""
    return labels if config.form == "soft" else F.one_hot(labels.argmax(dim=-1), labels.shape[-1]).to(labels.dtype)
