"""
When the classes are not of equal size
======================================

Balanced labels are wrong where the truth is skewed. `otlabel.marginals` estimates the shares from what is known: from a
few labelled samples, or from a classifier's predictions by maximum likelihood.
"""

import matplotlib.pyplot as plt
import torch

from otlabel import marginals, sinkhorn_marginal_label

# %%
# A long tail of six classes, and the logits of a calibrated classifier that was trained on equal shares.

generator = torch.Generator().manual_seed(0)
truth_shares = marginals.power_law(6, exponent=1.3)
truth = torch.multinomial(truth_shares, 4000, replacement=True, generator=generator)
means = 2.0 * torch.eye(6)
points = means[truth] + torch.randn(4000, 6, generator=generator)
logits = points @ means.T - means.square().sum(dim=1) / 2

# %%
# Four guesses of the shares: equal ones; the mean of the softmax, which is pulled towards equal shares; the maximum
# likelihood estimate; and the counts of 60 labelled samples.

guesses = {
    "equal": marginals.uniform(6),
    "mean of the softmax": marginals.empirical(logits.softmax(dim=1)),
    "60 labelled samples": marginals.from_labelled(truth[:60], 6, smoothing=1),
    "maximum likelihood": marginals.estimated(logits),
}

# %%
# With `epsilon=1` logits are taken as they are: the labels are the posterior under the guessed shares.

accuracy = {"argmax, no labeler": (logits.argmax(dim=1) == truth).float().mean().item()}
for name, shares in guesses.items():
    labels = sinkhorn_marginal_label(logits, shares, epsilon=1.0).hard_labels
    accuracy[name] = (labels == truth).float().mean().item()

# %%
# The closer the shares, the better the labels.

figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=[1.25, 1])
axes[0].bar(range(6), truth_shares, 0.8, color="#d1d5db", label="truth")
for (name, shares), marker, colour in zip(guesses.items(), "s^Do", ("C3", "C1", "C2", "C0"), strict=True):
    axes[0].plot(range(6), shares, marker, color=colour, label=name, markersize=6)
axes[0].set(title="shares of the classes", xlabel="class", ylabel="share", xticks=range(6))
axes[0].legend(fontsize=9)
bars = axes[1].barh(list(accuracy), list(accuracy.values()), color=["#9ca3af", "C3", "C1", "C2", "C0"])
axes[1].bar_label(bars, [f"{value:.1%}" for value in accuracy.values()], padding=3)
axes[1].set(title="samples labelled right", xlim=(0, 1), xlabel="accuracy")
axes[1].invert_yaxis()
plt.show()
