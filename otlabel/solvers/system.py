"""Newton's system of few classes, solved by elimination in buffers that are made once for all steps."""

import torch
from torch import Tensor


class System:
    """`H d = gradient` for `H = diag p - P' diag(a) P + p p'`, the Hessian with the constant it does not see fixed.

    It is solved in the unknowns `factor * d`, for which the kernel needs no scaling. p p' makes the mean movement,
    weighted by the mass, zero.
    """

    def __init__(self, sums: Tensor) -> None:
        batch, k = sums.shape
        self.batch = batch
        self._matrix = sums.new_empty(batch, k, k)
        self._diagonal = self._matrix.diagonal(dim1=-2, dim2=-1)
        self._sums = sums.new_empty(batch, k)
        self._column, self._row = self._sums.unsqueeze(-1), self._sums.unsqueeze(1)

    def solve(self, gram: Tensor, sums: Tensor, factor: Tensor, gradient: Tensor, damping: list[float]) -> Tensor:
        """The direction, with the diagonal raised by `damping` of each problem, relative to it."""
        self._sums.copy_(sums)
        torch.baddbmm(gram, self._column, self._row, beta=-1.0, out=self._matrix)
        if min(damping) < max(damping):
            ridge = torch.tensor([[1.0 + value] for value in damping], dtype=sums.dtype, device=sums.device)
            self._diagonal.addcdiv_(sums.mul(ridge), factor)
        else:
            self._diagonal.addcdiv_(sums, factor, value=1.0 + damping[0])
        scaled: Tensor = torch.linalg.solve_ex(self._matrix, gradient / factor)[0]
        return scaled.div_(factor)
