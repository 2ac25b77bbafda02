r"""
What three iterations leave undone
==================================

The error of the class shares against the passes over the scores, for the truncated loop and for the solvers. The
smaller :math:`\epsilon` is, the further Sinkhorn's iteration is from the optimum after any number of steps; Newton's
method on the class duals hardly notices.
"""

import matplotlib.pyplot as plt
import torch

from otlabel import Anderson, Auto, Newton, Sinkhorn, sinkhorn_label

# %%
# Cosines of clustered samples with 16 prototypes.

generator = torch.Generator().manual_seed(0)
prototypes = torch.nn.functional.normalize(torch.randn(16, 32, generator=generator), dim=1)
sizes = torch.distributions.Dirichlet(torch.ones(16))
torch.manual_seed(0)
members = torch.multinomial(sizes.sample(), 2000, replacement=True)
features = prototypes[members] + 0.15 * torch.randn(2000, 32, generator=generator)
scores = torch.nn.functional.normalize(features, dim=1) @ prototypes.T

# %%
# The error after a given number of passes: the solver is asked for an error that it cannot reach in that many, and says
# how far it got. Sinkhorn is run for each number of iterations.

BUDGETS = [1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 90, 128, 181, 256]
SOLVERS = {"Sinkhorn": Sinkhorn, "Anderson": Anderson, "Newton": Newton, "Auto": Auto}


def course(solver: type, epsilon: float) -> tuple[list[int], list[float]]:
    """Passes and errors; ends when the error is at the rounding of float64."""
    passes, errors = [], []
    for budget in BUDGETS:
        chosen = solver(max_iter=budget, tol=1e-10, on_failure="ignore")
        result = sinkhorn_label(scores.double(), epsilon=epsilon, solver=chosen)
        passes.append(result.n_iter)
        errors.append(result.marginal_error.item())
        if result.converged:
            break
    return passes, errors


# %%
# The dotted line marks three iterations, where SwAV and its descendants stop. At the smaller epsilon `Auto` is Newton's
# method from the start, so the two lie on each other.

figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
for axis, epsilon in zip(axes, (0.05, 0.005), strict=True):
    for (name, solver), marker in zip(SOLVERS.items(), "o^sD", strict=True):
        passes, errors = course(solver, epsilon)
        axis.loglog(passes, errors, marker=marker, markersize=4, label=name, zorder=3 if name == "Auto" else 2)
    axis.axvline(3, color="black", linestyle=":", linewidth=1)
    axis.axhline(1e-4, color="#9ca3af", linewidth=0.8)
    axis.set(title=rf"$\epsilon$ = {epsilon}", xlabel="passes over the scores")
    axis.set_xticks([1, 3, 10, 30, 100, 256], ["1", "3", "10", "30", "100", "256"], minor=False)
    axis.minorticks_off()
axes[0].set_ylabel("marginal error (L1, at most 2)")
axes[0].text(1, 1.3e-4, "default tolerance", fontsize=8, color="#6b7280")
axes[1].legend(loc="lower right")
plt.show()

# %%
# In numbers: the share of all labels that three iterations leave in a wrong class is half of the error.

for epsilon in (0.05, 0.005):
    three = sinkhorn_label(scores, epsilon=epsilon, solver=Sinkhorn(max_iter=3, tol=None))
    done = sinkhorn_label(scores, epsilon=epsilon)
    misplaced, largest = three.marginal_error.item() / 2, 16 * three.proportions.max().item()
    print(f"epsilon {epsilon}, three iterations: {misplaced:.0%} misplaced, largest class {largest:.1f} x its share")
    print(f"epsilon {epsilon}, Auto: error {done.marginal_error.item():.0e} after {done.n_iter} passes")
