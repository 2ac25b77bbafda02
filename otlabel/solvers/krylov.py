"""Conjugate gradients for the Newton system `(diag p - P' diag(a) P) d = b - p` of many classes.

Its diagonal is raised by the damping of each problem, relative to p: far from the optimum undamped directions are
long, cost many steps, and then are cut.
"""

import math
import warnings

import torch
from torch import Tensor

from otlabel.absorbed import AbsorbedKernel
from otlabel.solvers.iterate import Iterate

MOST_STEPS = 200
MOST_SPARSE_STEPS = 2000
# More damping keeps classes from the long ways that lie open to them where there are few samples.
MOST_DAMPING = 0.01
# The system is worth thinning while at most this share of the labels is kept.
DENSEST = 0.06
# Entries that are looked at together, and rows whose largest entries are compared first.
THINNED_ENTRIES = 2**18
SIEVE = 8


def conjugate_gradient(state: Iterate, gradient: Tensor) -> Tensor:
    """Solve with one pass over the kernel a step, preconditioned by the diagonal, each problem to its own accuracy."""
    mass = state.mass
    kernel, factor = state.kernel, state.factor
    damping = torch.tensor(state.damping, dtype=mass.dtype, device=mass.device).clamp_max_(MOST_DAMPING)
    diagonal = mass * (1.0 + damping.unsqueeze(-1))
    size = gradient.abs().sum(dim=-1)
    goal = size.sqrt().clamp_max(0.3) * size
    solution = torch.zeros_like(gradient)
    # Solvable are gradients that sum to zero over the classes with mass; the others are no part of the system.
    filled = torch.ones_like(gradient) if state.empty is None else (~state.empty).to(gradient.dtype)
    rest = gradient * filled
    rest = rest - filled * (rest.sum(dim=-1, keepdim=True) / filled.sum(dim=-1, keepdim=True))
    search = scaled = rest / diagonal
    energy = (rest * scaled).sum(dim=-1, keepdim=True)
    for _ in range(MOST_STEPS):
        image = diagonal * search - kernel.product(factor, search)
        curvature = (search * image).sum(dim=-1, keepdim=True)
        sound = (curvature > 0) & (energy > 0)
        length = torch.where(sound, energy / curvature, 0.0)
        solution = solution + length * search
        rest = rest - length * image
        if bool(((rest.abs().sum(dim=-1) <= goal) | ~sound[:, 0]).all()):
            break
        scaled = rest / diagonal
        following = (rest * scaled).sum(dim=-1, keepdim=True)
        search = scaled + torch.where(sound, following / energy, 0.0) * search
        energy = following
    return solution


def sparse_direction(state: Iterate, gradient: Tensor) -> Tensor | None:
    """Solve with the labels above a threshold only, or return None where they are too many.

    At small epsilon most labels are negligible. The kept ones make a graph Laplacian, positive semi-definite by
    construction, and the mass of the others goes to the diagonal (Tang et al., "Accelerating Sinkhorn Algorithm with
    Sparse Newton Iterations", ICLR 2024, for the idea).
    """
    error = max(state.errors)
    thinned = _thin(state.kernel, state.factor, min(1e-3, max(1e-6, 0.01 * error)))
    if thinned is None:
        return None
    row, column, value = thinned
    kernel, mass, rest = state.kernel, state.mass[0], gradient[0]
    n, k = kernel.block.shape[1:]
    weight = kernel.weight[0].to(torch.float64)
    total = torch.zeros(n, dtype=value.dtype, device=value.device).index_add_(0, row, value)
    value = value / total.index_select(0, row)
    weighted = value * weight.index_select(0, row)

    def over_classes(values: Tensor) -> Tensor:
        return torch.zeros(k, dtype=values.dtype, device=values.device).index_add_(0, column, values)

    kept = over_classes(weighted)
    diagonal = kept + (mass - kept).abs() + min(state.damping[0], MOST_DAMPING) * mass
    labels = _csr(row, column, value, shape=(n, k))
    order = torch.argsort(column.to(torch.int16 if k < 2**15 else torch.int32), stable=True)
    by_column = (part.index_select(0, order) for part in (column, row, weighted))
    transposed = _csr(*by_column, shape=(k, n))
    scale = 1.0 / (diagonal - over_classes(value * weighted)).clamp_min(1e-12 / k)
    goal = 0.3 * min(0.1, math.sqrt(error)) * rest.abs().sum().item()
    solution = torch.zeros_like(rest)
    search = scaled = rest * scale
    energy = torch.dot(rest, scaled)
    for step in range(MOST_SPARSE_STEPS):
        image = diagonal * search - torch.mv(transposed, torch.mv(labels, search))
        length = energy / torch.dot(search, image)
        solution = solution + length * search
        rest = rest - length * image
        if step % 4 == 3 and not rest.abs().sum().item() > goal:
            break
        scaled = rest * scale
        following = torch.dot(rest, scaled)
        search = scaled + (following / energy) * search
        energy = following
    return solution[None]


def _thin(kernel: AbsorbedKernel, factor: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor] | None:
    """Row, column and size of the labels above the threshold, sorted by row; None where too many to gain by it."""
    scale, most, kept = factor[0].to(kernel.dtype), DENSEST * kernel.block.numel(), 0
    block, row_scale = kernel.block[0], kernel.row_sum[0].reciprocal().unsqueeze(-1)
    n, k = block.shape
    step = max(SIEVE, THINNED_ENTRIES // k // SIEVE * SIEVE)
    room = block.new_empty(min(step, n), k)
    places, values = [], []
    for start in range(0, n, step):
        rows = torch.mul(block[start : start + step], row_scale[start : start + step], out=room[: n - start])
        # Searching all entries is slow; finding which columns of so many parts hold something is not.
        parts = SIEVE if rows.shape[0] % SIEVE == 0 else 1
        largest = rows.view(parts, -1, k).amax(dim=0).mul_(scale)
        at = (largest > threshold).view(-1).nonzero().squeeze(-1)
        cut = rows.view(parts, -1)
        candidates = cut.index_select(1, at).mul_(scale.index_select(0, at % k)).view(-1)
        hit = (candidates > threshold).nonzero().squeeze(-1)
        kept += hit.shape[0]
        if kept > most:
            return None
        part = hit // max(1, at.shape[0])
        places.append(at.index_select(0, hit - part * at.shape[0]).add_(part, alpha=cut.shape[1]).add_(start * k))
        values.append(candidates.index_select(0, hit))
    place = torch.cat(places)
    row = place // k
    return row, place - row * k, torch.cat(values).to(torch.float64)


def _csr(row: Tensor, column: Tensor, value: Tensor, *, shape: tuple[int, int]) -> Tensor:
    """Compressed rows from entries sorted by row."""
    start = torch.zeros(shape[0] + 1, dtype=torch.int64, device=row.device)
    start[1:] = torch.bincount(row, minlength=shape[0]).cumsum(0)
    with warnings.catch_warnings():
        # torch announces, once a process, that CSR tensors are in beta and unchecked by default.
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor support|invariant checks)", category=UserWarning)
        return torch.sparse_csr_tensor(start, column, value, shape)
