"""
A prior on a timeline
=====================

Frames of a recording show five steps of a procedure, roughly in order. The scores of single frames are noisy. A prior
that says "early frames are early steps" enters the transport problem as a KL term: it bends the labels and does not
fix them.
"""

import matplotlib.pyplot as plt
import torch

from otlabel import priors, sinkhorn_label, sinkhorn_prior_label

# %%
# A recording of 120 frames. Steps have different lengths, and one in four frames looks like another step.

generator = torch.Generator().manual_seed(0)
lengths = torch.tensor([16, 34, 20, 30, 20])
truth = torch.arange(5).repeat_interleave(lengths)
seen = torch.where(torch.rand(120, generator=generator) < 0.25, torch.randint(5, (120,), generator=generator), truth)
scores = torch.nn.functional.one_hot(seen, 5) + 0.6 * torch.randn(120, 5, generator=generator)

# %%
# The prior is a Gaussian around the diagonal of the timeline, as its logarithm. `sigma` is its width; `prior_weight`
# would scale its strength.

log_prior = priors.temporal_gaussian_prior(120, 5, sigma=0.7)
without = sinkhorn_label(scores, epsilon=0.5)
with_prior = sinkhorn_prior_label(scores, log_prior=log_prior, epsilon=0.5)

# %%
# Both have balanced shares. With the prior, labels of the same step lie together.

figure, axes = plt.subplots(4, 1, figsize=(8, 5.8), sharex=True)
for axis, image, title in (
    (axes[0], log_prior.exp(), "the prior (up to a factor for each frame)"),
    (axes[1], without.labels, "labels without the prior"),
    (axes[2], with_prior.labels, "labels with the prior"),
    (axes[3], torch.nn.functional.one_hot(truth, 5), "the true steps"),
):
    picture = axis.imshow(image.T, aspect="auto", interpolation="nearest", vmin=0, vmax=1)
    axis.set(title=title, yticks=range(5), ylabel="step")
    axis.spines[:].set_visible(False)
axes[3].set_xlabel("frame")
figure.colorbar(picture, ax=axes, label="label", shrink=0.6)
plt.show()

# %%
# How many frames are right:

for name, result in (("without", without), ("with", with_prior)):
    print(f"{name:8s} prior: {(result.hard_labels == truth).float().mean():.1%} of the frames, {result.n_iter} passes")
