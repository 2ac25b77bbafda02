"""
Balanced labels against argmax
==============================

Scores favour one class, as those of a network do early in training. The best class of each sample, taken sample by
sample, then gives that class nearly everything. A labeler decides for all samples together, so that every class gets
its share, and moves the samples that are cheapest to move.
"""

import matplotlib.pyplot as plt
import torch

from otlabel import sinkhorn_label

# %%
# Points around four prototypes. A score is minus the squared distance to a prototype; the first one is favoured.

generator = torch.Generator().manual_seed(0)
prototypes = torch.tensor([[0.0, 0.0], [2.2, 0.3], [0.4, 2.1], [2.4, 2.3]])
points = prototypes.repeat_interleave(100, dim=0) + 0.55 * torch.randn(400, 2, generator=generator)
scores = -torch.cdist(points, prototypes).square()
scores[:, 0] += 6.0

# %%
# `epsilon` is in units of the scores: 0.1 is small beside distances of about 2, so labels are nearly hard.

result = sinkhorn_label(scores, epsilon=0.1)
print(result)

# %%
# What each rule assigns, and how many samples each class has.

by_argmax, by_transport = scores.argmax(dim=1), result.hard_labels
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), width_ratios=[1, 1, 0.9])
colours = [f"C{i}" for i in range(4)]
for axis, labels, title in (
    (axes[0], by_argmax, "argmax of the scores"),
    (axes[1], by_transport, "balanced labels"),
):
    for j, colour in enumerate(colours):
        axis.scatter(*points[labels == j].T, s=9, color=colour, marker="os^D"[j], linewidths=0)
    axis.scatter(*prototypes.T, s=90, color="black", marker="x", linewidths=2)
    axis.set(title=title, xticks=[], yticks=[], aspect="equal")
    axis.spines[:].set_visible(False)

rows = torch.arange(4)
axes[2].axvline(100, color="black", linewidth=0.8, linestyle=":", zorder=0)
for labels, offset, kind, opacity in ((by_argmax, -0.2, "argmax", 0.45), (by_transport, 0.2, "balanced", 1.0)):
    count = labels.bincount(minlength=4)
    bars = axes[2].barh(rows + offset, count, 0.36, color=colours, alpha=opacity)
    texts = axes[2].bar_label(bars, [f"{number} {kind}" for number in count.tolist()], padding=3, fontsize=8)
    for text in texts:
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
axes[2].set(title="samples in each class", yticks=rows, yticklabels=[f"class {j}" for j in range(4)], xlim=(0, 350))
axes[2].invert_yaxis()
plt.show()

# %%
# The soft labels meet the shares to the tolerance of the solver; their argmax nearly does. Exact counts are the subject
# of :doc:`plot_09_exact_counts`.

print("shares of the soft labels:", [round(share, 4) for share in result.proportions.tolist()])
