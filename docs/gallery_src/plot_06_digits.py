"""
A network that learns from its own labels
=========================================

Scikit-learn's handwritten digits, no label used. One view of an image is labelled by transport over the batch, the
other view has to predict that label. This is the example `examples/digits` for a few epochs instead of a hundred, with
and without the constraint that clusters have equal shares.
"""

from dataclasses import replace

import matplotlib.pyplot as plt
import torch

from examples.digits.data import load_images
from examples.digits.evaluation import clustering_accuracy
from examples.digits.train import Settings, train

# %%
# `SinkhornLabeler` and `SwappedPredictionLoss` of `otlabel.nn` do the labelling in `examples.digits.train`. "softmax"
# labels are as sharp, without the proportions.

# sphinx_gallery_thumbnail_number = 2
images, digits = load_images()
settings = replace(Settings(), epochs=15, heads=2)
balanced = train(images, seed=0, settings=settings, labels="transport")
free = train(images, seed=0, settings=replace(settings, heads=1), labels="softmax")

# %%
# Shares of the ten clusters over the epochs. Without balance everything ends in one cluster.

figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
for axis, run, title in ((axes[0], balanced, "balanced labels"), (axes[1], free, "labels without balance")):
    axis.stackplot(
        range(1, 16), run.shares.T, colors=plt.get_cmap("viridis")(torch.linspace(0, 1, 10)), edgecolor="white"
    )
    axis.set(title=title, xlabel="epoch", xlim=(1, 15), ylim=(0, 1))
axes[0].set_ylabel("share of the images")
plt.show()

# %%
# Images of the clusters: each row is one, named by the digit that most of its images show.

order = torch.stack([digits[balanced.clusters == j].mode().values for j in range(10)]).argsort(stable=True)
figure, axes = plt.subplots(10, 14, figsize=(6.2, 4.6), gridspec_kw={"wspace": 0.05, "hspace": 0.05})
for row, j in zip(axes, order.tolist(), strict=True):
    for axis, image in zip(row, images[balanced.clusters == j], strict=False):
        axis.imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
    for axis in row:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
figure.suptitle("members of the ten clusters after 15 epochs")
plt.show()

# %%
# Accuracy matches clusters and digits one to one. A hundred epochs and five heads give 97 %.

for name, run in (("balanced labels", balanced), ("without balance", free)):
    print(f"{name}: {clustering_accuracy(run.clusters.numpy(), digits.numpy()):.1%} of the digits")
