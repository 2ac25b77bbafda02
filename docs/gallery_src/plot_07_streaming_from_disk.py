"""
Labels of a file that is larger than memory
===========================================

`otlabel.streaming.stream_label` reads scores block by block from a memmap (or HDF5, zarr, safetensors, a loader), keeps
sums of k numbers, and writes labels block by block. Here the file is small, so that the answer can be compared with the
one made in memory.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from otlabel import sinkhorn_label
from otlabel.streaming import stream_label

# %%
# 100,000 x 50 cosines in half precision, written in pieces as a program that extracts features would.

folder = Path(tempfile.mkdtemp())
n, k = 100_000, 50
generator = torch.Generator().manual_seed(0)
prototypes = torch.nn.functional.normalize(torch.randn(k, 64, generator=generator), dim=1)
popularity = torch.arange(1, k + 1, dtype=torch.float32) ** -1.0
scores = np.lib.format.open_memmap(folder / "scores.npy", mode="w+", dtype=np.float16, shape=(n, k))
for start in range(0, n, 10_000):
    members = torch.multinomial(popularity, 10_000, replacement=True, generator=generator)
    features = prototypes[members] + 0.12 * torch.randn(10_000, 64, generator=generator)
    scores[start : start + 10_000] = (torch.nn.functional.normalize(features, dim=1) @ prototypes.T).numpy()
scores.flush()

# %%
# `resume=` names a journal: were the process killed now, the same call would go on after the last complete pass, with
# the same bits. `start_rows` is small to have something to see; by default the start is the solution for far more rows.

source = np.load(folder / "scores.npy", mmap_mode="r")
result = stream_label(source, epsilon=0.05, block_rows=8192, start_rows=1000, resume=folder / "journal")
print(f"{result.status}: error {result.marginal_error:.1e} after {result.n_iter} passes")

# %%
# Labels go to a file, or come block by block. Their shares are counted on the way.

shares = sum(labels.sum(dim=0, dtype=torch.float64) for labels in result.blocks()) / n
raw = torch.from_numpy(np.bincount(np.asarray(source).argmax(axis=1), minlength=k)) / n

figure, axis = plt.subplots(figsize=(8, 3.4))
axis.bar(range(k), 100 * raw, color="C1", alpha=0.6, label="argmax of the scores")
axis.plot(range(k), 100 * shares, "o", color="C0", markersize=4, label="streamed labels")
axis.axhline(100 / k, color="black", linewidth=0.8, linestyle=":")
axis.set(title="Shares of 50 classes in 100,000 rows", xlabel="class", ylabel="share, %", xlim=(-1, k))
axis.legend()
plt.show()

# %%
# The same problem in memory, to the same tolerance: the labels agree as far as the tolerance goes.

in_memory = sinkhorn_label(torch.from_numpy(np.array(source)), epsilon=0.05)
streamed = next(iter(result.blocks()))
difference = (streamed.float() - in_memory.labels[: len(streamed)]).abs().max()
print(f"largest difference of a label: {difference:.0e}")
for file in folder.iterdir():
    file.unlink()
folder.rmdir()
