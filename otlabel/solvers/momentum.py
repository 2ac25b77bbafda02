r"""Sinkhorn's iteration with momentum, whose strength is learned on the way.

Near its end Sinkhorn's iteration on the class duals is linear: the error shrinks by the eigenvalues of a matrix, all
between 0 and some :math:`\mu < 1`, and the largest makes it slow. The heavy ball

.. math::
    d_{t+1} = \alpha \log \frac{b}{p(v_t)} + \beta\, d_t, \qquad v_{t+1} = v_t + d_{t+1}, \qquad
    \alpha = \frac{4}{(1 + s)^2}, \quad \beta = \Bigl(\frac{1 - s}{1 + s}\Bigr)^2, \quad s = \sqrt{1 - \mu}

shrinks all of them by :math:`\sqrt\beta` a step, 0.5 where :math:`\mu` is 0.9 (Polyak, "Some methods of speeding up the
convergence of iteration methods", 1964). A rate :math:`z > \sqrt\beta` tells of a larger eigenvalue than was reckoned
with, :math:`1 - (1 + \beta - z - \beta / z) / \alpha`.
"""

import math

from torch import Tensor

# The error of a heavy ball comes in waves. Only a rate that is so many times the one reckoned with tells something, and
# none that is near one, and it brings mu nearer to one by at most so much of what is missing.
SLACK = 1.1
STALLED = 0.98
NEARER = 0.5


class Momentum:
    """Steps from residuals `log(b / p)`; plain Sinkhorn steps until a rate is known."""

    def __init__(self) -> None:
        self.largest = 0.0  # mu
        self._gain, self._memory = 1.0, 0.0  # alpha, beta
        self._velocity: Tensor | None = None

    @property
    def rate(self) -> float:
        """By which a step should shrink the error."""
        return math.sqrt(self._memory)

    def learn(self, rate: float) -> None:
        """Take account of the rate by which the last steps shrank the error."""
        if not SLACK * self.rate < rate < STALLED:
            return
        if self._velocity is None:
            self.largest = rate
        else:
            slowness = (1.0 + self._memory - rate - self._memory / rate) / self._gain
            nearest = 1.0 - (1.0 - NEARER) * (1.0 - self.largest)
            self.largest = min(1.0 - slowness, nearest)
        root = math.sqrt(1.0 - self.largest)
        self._gain, self._memory = 4.0 / (1.0 + root) ** 2, ((1.0 - root) / (1.0 + root)) ** 2

    def step(self, residual: Tensor) -> Tensor:
        """By what the duals are to move, not to be changed; may change `residual`."""
        velocity = self._velocity
        if velocity is None or velocity.shape != residual.shape:  # at the start, or after problems left the batch
            self._velocity = residual.mul_(self._gain)
        else:
            self._velocity = velocity.mul_(self._memory).add_(residual, alpha=self._gain)
        return self._velocity
