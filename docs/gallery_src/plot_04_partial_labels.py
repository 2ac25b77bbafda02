"""
Partial labels and outliers
===========================

Some samples belong to no class. Labels of all samples force them somewhere, and they push others out of their class.
`sinkhorn_partial_label` labels a share of the samples only, the part that fits best.
"""

import matplotlib.pyplot as plt
import torch

from otlabel import sinkhorn_label, sinkhorn_partial_label

# %%
# Three clusters of 100 points, and 75 points anywhere: one in five. Scores say how well a point fits a cluster.

generator = torch.Generator().manual_seed(3)
centres = torch.tensor([[-2.0, -1.0], [2.0, -1.0], [0.0, 2.0]])
inliers = centres.repeat_interleave(100, dim=0) + 0.45 * torch.randn(300, 2, generator=generator)
outliers = 9 * torch.rand(75, 2, generator=generator) - torch.tensor([4.5, 3.8])
points = torch.cat([inliers, outliers])
scores = -torch.cdist(points, centres).square()

# %%
# The whole set, and the best 80 % of it.

everything = sinkhorn_label(scores, epsilon=0.2)
partial = sinkhorn_partial_label(scores, 0.8, epsilon=0.2, slack="none")
labelled = partial.labels.sum(dim=1)

# %%
# A point is as opaque as it is labelled; crosses are less than half labelled.

figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharex=True, sharey=True)
for axis, result, part, title in (
    (axes[0], everything, torch.ones(375), "all samples labelled"),
    (axes[1], partial, labelled, "80 % labelled"),
):
    for j in range(3):
        chosen = (result.hard_labels == j) & (part >= 0.5)
        axis.scatter(
            *points[chosen].T, s=14, color=f"C{j}", marker="os^"[j], alpha=part[chosen].clamp(0, 1), linewidths=0
        )
    left = part < 0.5
    axis.scatter(*points[left].T, s=18, color="#9ca3af", marker="x", linewidths=1)
    axis.scatter(*centres.T, s=110, color="black", marker="+", linewidths=2)
    axis.set(title=title, xticks=[], yticks=[], aspect="equal")
    axis.spines[:].set_visible(False)
plt.show()

# %%
# The labelled mass is exactly what was asked for, in equal shares, and little of it is on the outliers.

print("labelled mass:", round(partial.row_mass.sum().item(), 4))
print("shares of the classes:", [round(share, 4) for share in partial.proportions.tolist()])
print(f"labelled part of the inliers {labelled[:300].mean():.1%}, of the outliers {labelled[300:].mean():.1%}")
