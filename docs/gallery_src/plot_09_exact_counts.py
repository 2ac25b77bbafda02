"""
Exact counts, and a proof
=========================

Balanced soft labels have balanced sums, and their argmax does not have balanced counts. `otlabel.hard.capacity_labels`
gives every class its count, at the largest total score there is; class prices prove it.
"""

import matplotlib.pyplot as plt
import torch

from otlabel import hard, sinkhorn_label

# %%
# 3,000 samples, 60 classes, scores that differ little: many samples are undecided.

generator = torch.Generator().manual_seed(0)
features = torch.nn.functional.normalize(torch.randn(3000, 16, generator=generator), dim=1)
prototypes = torch.nn.functional.normalize(torch.randn(60, 16, generator=generator), dim=1)
scores = features @ prototypes.T

# %%
# `init=` hands over the class duals of the soft labels, from which the prices start.

soft = sinkhorn_label(scores, epsilon=0.1)
exact = hard.capacity_labels(scores, init=soft)
print(f"gap to the optimum: at most {exact.gap.item():.1e} of a total score of {exact.score.item():.1f}")

# %%
# Counts of the three rules, classes sorted by size.

counts = {
    "argmax of the scores": scores.argmax(dim=1).bincount(minlength=60),
    "argmax of balanced soft labels": soft.hard_labels.bincount(minlength=60),
    "capacity_labels": exact.labels.bincount(minlength=60),
}
figure, axis = plt.subplots(figsize=(7.6, 3.6))
for (name, count), style in zip(counts.items(), (":", "--", "-"), strict=True):
    axis.step(range(60), count.sort(descending=True).values, style, where="mid", label=name)
axis.set(title="Samples in each of 60 classes", xlabel="classes, the largest first", ylabel="samples", ylim=(0, None))
axis.legend()
plt.show()

# %%
# What exactness costs: mean score of the chosen class.

rows = torch.arange(3000)
for name, labels in (("argmax", scores.argmax(dim=1)), ("soft", soft.hard_labels), ("exact", exact.labels)):
    count = labels.bincount(minlength=60)
    print(f"{name:7s} mean score {scores[rows, labels].mean():.3f}, counts {count.min()} to {count.max()}")
