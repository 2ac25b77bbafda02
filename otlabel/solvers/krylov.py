"""Conjugate gradients for the Newton system `(diag p - P' diag(a) P) d = b - p` of many classes."""

import math
import warnings

import torch
from torch import Tensor

from otlabel.absorbed import AbsorbedKernel
from otlabel.solvers.iterate import Iterate

MOST_STEPS = 200
MOST_SPARSE_STEPS = 2000
# The system is worth thinning while at most this share of the labels is kept.
DENSEST = 0.06
# Entries that are looked at together, and rows whose largest entries are compared first.
THINNED_ENTRIES = 2**18
SIEVE = 8


def conjugate_gradient(state: Iterate, gradient: Tensor) -> Tensor:
    """Solve with one pass over the kernel a step, preconditioned by diag p, each problem to its own accuracy."""
    mass = state.mass
    kernel, factor = state.kernel, state.factor
    size = gradient.abs().sum(dim=-1)
    goal = size.sqrt().clamp_max(0.3) * size
    solution = torch.zeros_like(gradient)
    # Solvable are gradients that sum to zero over the classes with mass; the others are no part of the system.
    filled = torch.ones_like(gradient) if state.empty is None else (~state.empty).to(gradient.dtype)
    rest = gradient * filled
    rest = rest - filled * (rest.sum(dim=-1, keepdim=True) / filled.sum(dim=-1, keepdim=True))
    search = scaled = rest / mass
    energy = (rest * scaled).sum(dim=-1, keepdim=True)
    for _ in range(MOST_STEPS):
        image = mass * search - kernel.product(factor, search)
        curvature = (search * image).sum(dim=-1, keepdim=True)
        sound = (curvature > 0) & (energy > 0)
        length = torch.where(sound, energy / curvature, 0.0)
        solution = solution + length * search
        rest = rest - length * image
        if bool(((rest.abs().sum(dim=-1) <= goal) | ~sound[:, 0]).all()):
            break
        scaled = rest / mass
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
    value = value / torch.zeros(n, dtype=value.dtype, device=value.device).index_add_(0, row, value)[row]
    weighted = value * weight[row]

    def over_classes(values: Tensor) -> Tensor:
        return torch.zeros(k, dtype=values.dtype, device=values.device).index_add_(0, column, values)

    kept = over_classes(weighted)
    diagonal = kept + (mass - kept).abs() + 1e-7 * mass
    labels = _csr(row, column, value, (n, k))
    order = torch.argsort(column, stable=True)
    transposed = _csr(column[order], row[order], weighted[order], (k, n))
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
    scale = factor[0].to(kernel.dtype)
    found, most, kept = [], DENSEST * kernel.block.numel(), 0
    block, row_sum = kernel.block[0], kernel.row_sum[0]
    n, k = block.shape
    step = max(SIEVE, THINNED_ENTRIES // k // SIEVE * SIEVE)
    for start in range(0, n, step):
        rows = block[start : start + step] / row_sum[start : start + step, None]
        if rows.shape[0] % SIEVE:
            labels = rows.mul_(scale)
            row, column = (labels > threshold).nonzero(as_tuple=True)
            value = labels[row, column]
        else:
            # Searching all entries is slow, finding which groups of rows hold something is not.
            groups = rows.view(-1, SIEVE, k)
            group, column = (groups.amax(dim=1).mul_(scale) > threshold).nonzero(as_tuple=True)
            candidates = groups[group, :, column].mul_(scale[column, None])
            hit, within = (candidates > threshold).nonzero(as_tuple=True)
            row, column, value = group[hit] * SIEVE + within, column[hit], candidates[hit, within]
        kept += value.shape[0]
        if kept > most:
            return None
        found.append((row + start, column, value.to(torch.float64)))
    row, column, value = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = torch.argsort(row, stable=True)
    return row[order], column[order], value[order]


def _csr(row: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    """Compressed rows from entries sorted by row."""
    start = torch.zeros(shape[0] + 1, dtype=torch.int64, device=row.device)
    start[1:] = torch.bincount(row, minlength=shape[0]).cumsum(0)
    with warnings.catch_warnings():
        # torch announces, once a process, that CSR tensors are in beta and unchecked by default.
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor support|invariant checks)", category=UserWarning)
        return torch.sparse_csr_tensor(start, column, value, shape)
