"""
Labels that agree with their neighbours
=======================================

Frames next to each other usually show the same action. `fused_gromov_wasserstein_label` adds that to the transport
problem: a price for neighbouring frames with different labels. No order of the actions is assumed, and an action may
come twice.
"""

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap

from otlabel import sinkhorn_label
from otlabel.structured import TemporalConsistency, fused_gromov_wasserstein_label

# %%
# 200 frames, four actions, the first of which comes back at the end; noisy scores.

generator = torch.Generator().manual_seed(1)
truth = torch.tensor([0, 1, 2, 3, 1, 0]).repeat_interleave(torch.tensor([30, 40, 30, 45, 30, 25]))
scores = torch.nn.functional.one_hot(truth, 4) + 0.9 * torch.randn(200, 4, generator=generator)

# %%
# `rho` is what a class pays for a size other than its share; `radius` is the neighbourhood, as a part of the recording.

alone = sinkhorn_label(scores, epsilon=0.2)
together = fused_gromov_wasserstein_label(scores, TemporalConsistency(weight=0.5, radius=0.04), rho=0.05, epsilon=0.1)
print(together)

# %%
# Each strip is one labelling of the same frames.

strips = {
    "truth": truth,
    "argmax of the scores": scores.argmax(dim=1),
    "balanced": alone.hard_labels,
    "neighbours agree": together.hard_labels,
}
colours = ListedColormap(["#0072B2", "#E69F00", "#009E73", "#CC79A7"])
figure, axes = plt.subplots(len(strips), 1, figsize=(8, 3.4), sharex=True)
for axis, (name, labels) in zip(axes, strips.items(), strict=True):
    axis.imshow(labels[None], aspect="auto", cmap=colours, interpolation="nearest", vmin=0, vmax=3)
    right = (labels == truth).float().mean()
    changes = int((labels[1:] != labels[:-1]).sum())
    note = "" if name == "truth" else f": {right:.0%} of the frames right, {changes} changes of label"
    axis.set_title(name + note, fontsize=10)
    axis.set_yticks([])
axes[-1].set_xlabel("frame")
plt.show()
