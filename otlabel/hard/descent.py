r"""Prices that balance soft labels of one epsilon on a table of candidates, by Newton's method.

They minimise

.. math::
    \sum_i \epsilon \log \sum_j e^{(S_{ij} - p_j) / \epsilon}
    + \sum_j \bigl( c_j \max(p_j, 0) + m_j \min(p_j, 0) \bigr) .

The second derivative is the Laplacian of a graph of classes, which the few undecided samples link, so that conjugate
gradients on those take no time; the classes of which only the ceiling is known are one more node. The gradient is the
excess, mass N minus count c; the step is made for :math:`N \log(N / c)` in its place, since far from the solution mass
falls with the price as an exponential does. A class that no sample is undecided about has no second derivative to tell
how far to go: all that it holds prefer it by far, and what it needs others prefer by far. It leaps to the first price
at which that ends.
"""

import torch
from torch import Tensor

from otlabel.hard.candidates import Candidates

# Most steps, and those without progress, after which the exchanges are quicker.
MOST_STEPS, STALLED_STEPS, PROGRESS = 30, 4, 0.8
# Smaller labels link no classes.
LEAST_LABEL = 1e-3
FIRST_DAMPING, LEAST_DAMPING = 0.05, 1e-5
MORE_DAMPING, LESS_DAMPING = 8.0, 0.25
LONGEST_STEP = 12.0
STEP_CUTS = 8
# Masses below this share of the count are as good as none.
LEAST_MASS = 1e-3
MOST_CG_STEPS = 200
CG_TOL = 0.05
# A class is isolated where its links would let go less than this share of its excess within an epsilon.
ISOLATED = 0.05
LEAP_CUTS = 4


class Point:
    """Soft labels at some prices.

    Attributes:
        objective: Value of the objective.
        excess: Mass of each class above what its price asks for.
        mass: Mass of each class.
        beyond: The part of it of which only the ceiling is known.
        others: Shares of the classes in that.
        links: Sample, class (k for the ceiling) and size of the labels that are neither negligible nor nearly one.
    """

    def __init__(self, table: Candidates, epsilon: float, lower: Tensor, upper: Tensor, prices: Tensor) -> None:
        k = len(prices)
        net = (table.offers - prices) / epsilon
        other_sum = net.logsumexp(dim=0)
        self.others = torch.where(net == -torch.inf, 0.0, (net - other_sum).exp())
        mass, total, beyond = torch.zeros_like(prices), torch.zeros_like(other_sum), torch.zeros_like(other_sum)
        links = []
        for rows, classes, values in table.blocks():
            labels = (values - prices[classes]) / epsilon
            rest = table.rest[rows] / epsilon + other_sum
            peak = torch.maximum(labels.amax(dim=1), rest)
            labels, rest = (labels - peak[:, None]).exp_(), (rest - peak).exp_()
            row_sum = labels.sum(dim=1) + rest
            labels, rest = labels.div_(row_sum[:, None]), rest / row_sum
            mass += torch.bincount(classes.flatten(), weights=labels.flatten(), minlength=k)
            total += (peak + row_sum.log()).sum()
            beyond += rest.sum()
            row, at = _is_link(labels).nonzero(as_tuple=True)
            above = _is_link(rest).nonzero().squeeze(1)
            links.append(
                (
                    torch.cat([row, above]) + rows.start,
                    torch.cat([classes[row, at], torch.full_like(above, k)]),
                    torch.cat([labels[row, at], rest[above]]),
                )
            )
        self.links = tuple(torch.cat(parts) for parts in zip(*links, strict=True))
        self.beyond = beyond * self.others
        self.mass = mass + self.beyond
        wanted = torch.where(prices > 0, upper, torch.where(prices < 0, lower, self.mass))
        self.excess = self.mass - wanted.clamp(lower, upper)
        bounds = upper * prices.clamp(min=0) + lower * prices.clamp(max=0)
        self.objective = (epsilon * total + bounds.sum()).item()


class Graph:
    """Second derivative of the objective in units of epsilon, with the classes that stay where they are."""

    def __init__(self, point: Point, is_held: Tensor) -> None:
        sample, self.label, self.size = point.links
        self.others, self.is_held = point.others, is_held
        self.k, self.ceiling = len(point.mass), point.beyond.sum()
        _, self.row = torch.unique(sample, return_inverse=True)
        self.n = int(self.row.max()) + 1 if len(self.row) else 0
        self.share = self.size / torch.bincount(self.row, weights=self.size, minlength=self.n)[self.row]
        self.kept = self._sum(self.size)
        diagonal = self.kept - self._sum(self.size * self.share)
        within = self.ceiling * self.others * (1 - self.others)
        self.curve = diagonal[: self.k] + diagonal[self.k] * self.others**2 + within
        target = point.mass - point.excess
        mass = torch.maximum(point.mass, LEAST_MASS * target)
        pull = torch.where(target > 0, mass * (mass / target).log(), point.excess)
        # What a common change of all prices does is told by the excess itself.
        pull = pull + point.mass * ((point.excess.sum() - pull.sum()) / point.mass.sum())
        self.pull = torch.where(is_held, 0.0, pull)

    def step(self, damping: float) -> Tensor:
        """Solve for the step by conjugate gradients."""
        floor = damping * (self.curve + self.pull.abs()) + 1e-9
        scale = torch.where(self.is_held, 0.0, 1.0 / (self.curve + floor))
        goal = CG_TOL * self.pull.abs().sum()
        solution, rest = torch.zeros_like(self.pull), self.pull
        search = scaled = rest * scale
        energy = torch.dot(rest, scaled)
        for _ in range(MOST_CG_STEPS):
            found = torch.where(self.is_held, 0.0, self.image(search) + floor * search)
            length = energy / torch.dot(search, found)
            solution, rest = solution + length * search, rest - length * found
            if not bool(rest.abs().sum() > goal):
                break
            scaled = rest * scale
            following = torch.dot(rest, scaled)
            search, energy = scaled + (following / energy) * search, following
        return solution

    def image(self, step: Tensor) -> Tensor:
        """Change of the excess, of the other sign."""
        step = torch.cat([step, torch.dot(self.others, step)[None]])
        mean = torch.bincount(self.row, weights=self.share * step[self.label], minlength=self.n)
        image = self.kept * step - self._sum(self.size * mean[self.row])
        within = self.ceiling * (step[: self.k] - step[self.k])
        return image[: self.k] + self.others * (image[self.k] + within)

    def _sum(self, weights: Tensor) -> Tensor:
        return torch.bincount(self.label, weights=weights, minlength=self.k + 1)


class Descent:
    """Newton's method at one epsilon, for bounds in float64 on the masses of the classes."""

    def __init__(self, table: Candidates, epsilon: float, lower: Tensor, upper: Tensor) -> None:
        self.table, self.epsilon, self.lower, self.upper = table, epsilon, lower, upper
        # Only where the bounds differ does a price of zero mean something.
        self.has_kink = lower < upper
        self.is_exact = not bool(self.has_kink.any())

    def at(self, prices: Tensor) -> Point:
        """The soft labels at these prices."""
        return Point(self.table, self.epsilon, self.lower, self.upper, prices)

    def run(self, prices: Tensor, tol: float) -> tuple[Tensor, Point]:
        """Prices whose excess is a share `tol` of the samples, or what is reached before it is slow."""
        point, damping = self.at(prices), FIRST_DAMPING
        least, stalled, may_leap = torch.inf, 0, True
        for _ in range(MOST_STEPS):
            error = point.excess.abs().sum().item()
            stalled = 0 if error < PROGRESS * least else stalled + 1
            least = min(least, error)
            if error <= tol * self.table.shape[0] or stalled >= STALLED_STEPS:
                break
            graph = Graph(point, self.has_kink & (prices == 0) & (point.excess == 0))
            isolated = (graph.curve < ISOLATED * point.excess.abs()) & ~graph.is_held
            if may_leap and point.excess[isolated].abs().sum() > error / 2:
                found = self._leap(prices, point, isolated)
                may_leap = found is not None
                if found is not None:
                    prices, point = found
                    continue
            first = damping
            for _ in range(STEP_CUTS):
                step = graph.step(damping)
                if self.is_exact:  # a common change does nothing, and must not take the room of the others
                    step = step - step.median()
                moved = self._kept(prices, prices + self.epsilon * step.clamp(-LONGEST_STEP, LONGEST_STEP))
                new, gain = self.at(moved), torch.dot(point.excess, moved - prices).item()
                if gain > 0 and new.objective <= point.objective - 1e-4 * gain:
                    break
                damping *= MORE_DAMPING
            else:
                break
            damping = max(LESS_DAMPING * damping, LEAST_DAMPING) if damping == first else damping
            prices, point = moved, new
        return prices, point

    def _kept(self, prices: Tensor, moved: Tensor) -> Tensor:
        return torch.where(self.has_kink & (prices * moved < 0), 0.0, moved)

    def _leap(self, prices: Tensor, point: Point, isolated: Tensor) -> tuple[Tensor, Point] | None:
        """Each of these classes where, the others at rest, it would have its count; None if that is no descent."""
        count = (point.excess.abs().round() * isolated).to(torch.int64)
        rise = nearest_changes(self.table, prices, torch.where(point.excess > 0, count, -count))
        for _ in range(LEAP_CUTS):
            moved = self._kept(prices, prices + rise)
            new = self.at(moved)
            if new.objective < point.objective:
                return moved, new
            rise = rise / 2
        return None


def nearest_changes(table: Candidates, prices: Tensor, excess: Tensor) -> Tensor:
    """How far each price alone must move for so many samples to leave the class, or to come; 0 where it cannot.

    Samples that come as candidates and those that come by the ceiling are not added up: then it may be too far.
    """
    k = len(prices)
    offers = table.offers - prices
    margin = offers.amax()
    classes_left, leads, room = [], [], []
    for rows, classes, values in table.blocks():
        net = values - prices[classes]
        ceiling = table.rest[rows] + margin
        found, at = net.max(dim=1)
        best, own = torch.maximum(found, ceiling), classes.gather(1, at[:, None]).squeeze(1)
        gives = ((excess[own] > 0) & (found > ceiling)).nonzero().squeeze(1)
        second = net[gives].scatter_(1, at[gives, None], -torch.inf).amax(dim=1)
        is_other = (classes != own[:, None]) | (net < best[:, None])
        takes, where = ((excess[classes] < 0) & is_other).nonzero(as_tuple=True)
        classes_left += [own[gives], classes[takes, where]]
        leads += [found[gives] - torch.maximum(second, ceiling[gives]), best[takes] - net[takes, where]]
        room.append(best - table.rest[rows])
    label, lead = torch.cat(classes_left), torch.cat(leads)
    by_lead = lead.argsort()
    by_class = by_lead[label[by_lead].argsort(stable=True)]
    held = torch.bincount(label, minlength=k)
    wanted = excess.abs()
    place = held.cumsum(0) - held + (wanted - 1).clamp(min=0)
    is_known = (wanted > 0) & (held >= wanted)
    change = torch.full_like(prices, torch.inf)
    change[is_known] = lead[by_class[place[is_known]]]
    # A class that too few have for a candidate takes samples at the ceiling.
    most = int(wanted.max().clamp(1, len(table.rest)))
    above = torch.cat(room).topk(most, largest=False).values[(wanted - 1).clamp(0, most - 1)] - offers
    change = torch.where(excess < 0, torch.minimum(change, above.clamp(min=0)), change)
    return torch.where(change.isfinite() & (wanted > 0), change * excess.sign(), 0.0)


def _is_link(labels: Tensor) -> Tensor:
    return (labels > LEAST_LABEL) & (labels < 1 - LEAST_LABEL)
