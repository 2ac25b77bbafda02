"""Every error says which argument, what is required, what arrived and what to do; none is left without a test."""

import ast
import importlib
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import otlabel
from otlabel import (
    Anderson,
    Auto,
    ConvergenceError,
    ConvergenceWarning,
    InfeasibleProblemError,
    Newton,
    NumericalWarning,
    Sinkhorn,
    marginals,
    sinkhorn_label,
    sinkhorn_marginal_label,
    sinkhorn_prior_label,
)
from otlabel.errors import FAST_RANGE_BLOCK, FAST_RANGE_FROM, value_range
from otlabel.graphs import CapturedLabeler
from otlabel.priors import gaussian_rank_prior, temporal_gaussian_prior
from otlabel.testing import assert_feasible, reference_solve

SCORES = torch.tensor([[0.9, 0.1], [0.8, 0.3], [0.2, 0.7], [0.1, 0.6]])
HALF = torch.tensor([0.5, 0.5])
MANY = torch.rand(60, 7, generator=torch.Generator().manual_seed(0))
NAN, INF = float("nan"), float("inf")


def with_entry(value, shape=(4, 2), at=0):
    """Ones with one entry replaced."""
    tensor = torch.ones(shape)
    tensor.view(-1)[at] = value
    return tensor


def label(**options):
    return sinkhorn_label(SCORES, **{"epsilon": 0.5, **options})


def share(marginal, **options):
    return sinkhorn_marginal_label(SCORES, marginal, **{"epsilon": 0.5, **options})


def prior(*args, **options):
    return sinkhorn_prior_label(SCORES, *args, **{"epsilon": 0.5, **options})


def rank_prior(sample_score=HALF, class_score=HALF, *, sigma=1.0, **options):
    return gaussian_rank_prior(sample_score, class_score, sigma=sigma, **options)


def mask_of(*rows):
    return torch.tensor([[mark == "x" for mark in row] for row in rows])


def confined(k):
    """Two thirds of the samples may take the first class only."""
    mask = torch.ones(3, k, dtype=torch.bool)
    mask[:2, 1:] = False
    return mask


def without_last_class(k):
    mask = torch.ones(3, k, dtype=torch.bool)
    mask[:, -1] = False
    return mask


def rare_last_class(n, k):
    """Of n samples one may take the last class, which needs n / k of them."""
    mask = torch.ones(n, k, dtype=torch.bool)
    mask[1:, -1] = False
    return mask


FLOATING = "must be float16, bfloat16, float32 or float64"
# What is called, what it raises, and the words a user relies on.
CASES = {
    # scores
    "scores list": (lambda: sinkhorn_label([[1.0]]), TypeError, r"`scores` must be a torch\.Tensor, got list"),
    "scores list, prior": (
        lambda: sinkhorn_prior_label([[1.0]], HALF),
        TypeError,
        r"`scores` must be a torch\.Tensor, got list",
    ),
    "scores integer": (lambda: sinkhorn_label(SCORES.long()), TypeError, rf"`scores` {FLOATING}, got torch\.int64"),
    "scores complex": (lambda: sinkhorn_label(SCORES * 1j), TypeError, rf"`scores` {FLOATING}, got torch\.complex64"),
    "scores vector": (
        lambda: sinkhorn_label(SCORES[0]),
        ValueError,
        r"`scores` must have shape \(\*batch, n, k\), got \(2,\)\. Add a dimension",
    ),
    "scores without rows": (
        lambda: sinkhorn_label(SCORES[:0]),
        ValueError,
        r"`scores` must not be empty, got shape \(0, 2\)",
    ),
    "scores without classes": (
        lambda: sinkhorn_label(SCORES[:, :0]),
        ValueError,
        r"`scores` must not be empty, got shape \(4, 0\)",
    ),
    "scores without problems": (
        lambda: sinkhorn_label(SCORES[None][:0]),
        ValueError,
        r"`scores` must not be empty, got shape \(0, 4, 2\)",
    ),
    "scores NaN": (
        lambda: sinkhorn_label(with_entry(NAN)),
        ValueError,
        r"`scores` must hold no NaN and no \+inf, got 1 NaN and 0 \+inf of 8 entries",
    ),
    "scores +inf": (lambda: sinkhorn_label(with_entry(INF)), ValueError, r"got 0 NaN and 1 \+inf of 8 entries"),
    "scores NaN, marginal": (
        lambda: sinkhorn_marginal_label(with_entry(NAN), HALF),
        ValueError,
        "`scores` must hold no NaN",
    ),
    "scores NaN, prior": (lambda: sinkhorn_prior_label(with_entry(NAN), HALF), ValueError, "`scores` must hold no NaN"),
    # epsilon
    "epsilon zero": (lambda: label(epsilon=0), ValueError, r"`epsilon` must be positive and finite, got 0\.0\."),
    "epsilon negative": (lambda: label(epsilon=-0.1), ValueError, r"`epsilon` must be positive and finite, got -0\.1"),
    "epsilon NaN": (lambda: label(epsilon=NAN), ValueError, "`epsilon` must be positive and finite, got nan"),
    "epsilon infinite": (lambda: label(epsilon=INF), ValueError, "`epsilon` must be positive and finite, got inf"),
    "epsilon text": (lambda: label(epsilon="0.05"), TypeError, "`epsilon` must be a number, got str"),
    "epsilon bool": (lambda: label(epsilon=True), TypeError, "`epsilon` must be a number, got bool"),
    "epsilon None": (lambda: label(epsilon=None), TypeError, "`epsilon` must be a number, got NoneType"),
    "epsilon tensor of integers": (
        lambda: label(epsilon=torch.tensor(1)),
        TypeError,
        rf"`epsilon` {FLOATING}, got torch\.int64",
    ),
    "epsilon tensor with a zero": (
        lambda: sinkhorn_label(SCORES.expand(2, 4, 2), epsilon=torch.tensor([0.1, 0.0])),
        ValueError,
        r"`epsilon` must be positive and finite, got 0\.0\.",
    ),
    "epsilon tensor with NaN": (
        lambda: sinkhorn_label(SCORES.expand(2, 4, 2), epsilon=torch.tensor([0.1, NAN])),
        ValueError,
        "`epsilon` must be positive and finite, got nan",
    ),
    "epsilon far below the scores": (
        lambda: sinkhorn_label(1e300 * SCORES.double()),
        ValueError,
        r"`epsilon` must keep `scores / epsilon` within 1e\+300, got 1\.8e\+301\. Raise it",
    ),
    "epsilon too small for any scores": (
        lambda: label(epsilon=1e-309),
        ValueError,
        r"`epsilon` must keep `scores / epsilon` within 1e\+300, got inf",
    ),
    "epsilon shape": (
        lambda: sinkhorn_label(SCORES.expand(2, 4, 2), epsilon=torch.ones(3)),
        ValueError,
        r"`epsilon` must have shape \(2,\) \(or broadcast to it\), got \(3,\)",
    ),
    "epsilon shape without batch": (
        lambda: label(epsilon=torch.ones(4)),
        ValueError,
        r"`epsilon` must have shape \(\) \(or broadcast to it\), got \(4,\)",
    ),
    "epsilon empty": (
        lambda: sinkhorn_label(SCORES.expand(2, 4, 2), epsilon=torch.ones(0)),
        ValueError,
        r"`epsilon` must have shape \(2,\) .*, got \(0,\)",
    ),
    "epsilon device": (
        lambda: label(epsilon=torch.tensor(0.1, device="meta")),
        ValueError,
        "`epsilon` must be on the device cpu of `scores`, got meta",
    ),
    # sample_weight
    "weight list": (
        lambda: label(sample_weight=[1.0] * 4),
        TypeError,
        r"`sample_weight` must be a torch\.Tensor of real numbers, got list",
    ),
    "weight complex": (
        lambda: label(sample_weight=torch.ones(4) * 1j),
        TypeError,
        r"`sample_weight` must be a torch\.Tensor of real numbers",
    ),
    "weight shape": (
        lambda: label(sample_weight=torch.ones(2)),
        ValueError,
        r"`sample_weight` must have shape \(4,\) \(or broadcast to it\), got \(2,\)",
    ),
    "weight with too many dimensions": (
        lambda: label(sample_weight=torch.ones(1, 4)),
        ValueError,
        r"`sample_weight` must have shape \(4,\) .*, got \(1, 4\)",
    ),
    "weight negative": (
        lambda: label(sample_weight=with_entry(-1.0, 4)),
        ValueError,
        "`sample_weight` must be finite and non-negative, got values from -1 to 1",
    ),
    "weight NaN": (
        lambda: label(sample_weight=with_entry(NAN, 4)),
        ValueError,
        "`sample_weight` must be finite and non-negative, got values from nan",
    ),
    "weight infinite": (
        lambda: label(sample_weight=with_entry(INF, 4)),
        ValueError,
        "`sample_weight` must be finite and non-negative, got values from 1 to inf",
    ),
    "weight zero": (
        lambda: label(sample_weight=torch.zeros(4)),
        ValueError,
        "`sample_weight` must not sum to zero, got a sum of 0",
    ),
    "weight zero in one problem": (
        lambda: sinkhorn_label(SCORES.expand(2, 4, 2), sample_weight=torch.tensor([[1.0] * 4, [0.0] * 4])),
        ValueError,
        "`sample_weight` must not sum to zero",
    ),
    "weight device": (
        lambda: label(sample_weight=torch.ones(4, device="meta")),
        ValueError,
        "`sample_weight` must be on the device cpu of `scores`, got meta",
    ),
    # marginal
    "marginal None": (lambda: share(None), TypeError, r"`marginal` must be .*, got None\. Use `sinkhorn_label`"),
    "marginal list": (lambda: share([0.5, 0.5]), TypeError, r"`marginal` must be a torch\.Tensor, got list"),
    "marginal of counts": (lambda: share(torch.tensor([1, 1])), TypeError, rf"`marginal` {FLOATING}, got torch\.int64"),
    "marginal shape": (
        lambda: share(torch.full((3,), 1 / 3)),
        ValueError,
        r"`marginal` must have shape \(2,\) \(or broadcast to it\), got \(3,\)",
    ),
    "marginal sum": (
        lambda: share(torch.tensor([0.5, 1.0])),
        ValueError,
        r"`marginal` must sum to 1, got a sum of 1\.5\. Divide it by its sum",
    ),
    "marginal zero": (lambda: share(torch.zeros(2)), ValueError, "`marginal` must sum to 1, got a sum of 0"),
    "marginal sum in one problem": (
        lambda: sinkhorn_marginal_label(SCORES.expand(2, 4, 2), torch.tensor([[0.5, 0.5], [0.3, 0.3]])),
        ValueError,
        r"`marginal` must sum to 1, got a sum of 0\.6",
    ),
    "marginal negative": (
        lambda: share(torch.tensor([1.5, -0.5])),
        ValueError,
        r"`marginal` must be finite and non-negative, got values from -0\.5 to 1\.5",
    ),
    "marginal NaN": (
        lambda: share(torch.tensor([0.5, NAN])),
        ValueError,
        "`marginal` must be finite and non-negative, got values from nan",
    ),
    "marginal device": (
        lambda: share(HALF.to("meta")),
        ValueError,
        "`marginal` must be on the device cpu of `scores`, got meta",
    ),
    "marginal of a prior": (lambda: prior(HALF, marginal=SCORES), ValueError, r"`marginal` must have shape \(2,\)"),
    # prior
    "no prior": (prior, ValueError, "exactly one of `prior` and `log_prior` must be given, got neither"),
    "two priors": (lambda: prior(HALF, log_prior=HALF), ValueError, "exactly one of .* must be given, got both"),
    "prior list": (lambda: prior([1.0, 1.0]), TypeError, r"`prior` must be a torch\.Tensor, got list"),
    "prior integer": (lambda: prior(torch.ones(2).long()), TypeError, rf"`prior` {FLOATING}, got torch\.int64"),
    "prior of logarithms": (
        lambda: prior(-HALF),
        ValueError,
        r"`prior` must be finite and non-negative, got values from -0\.5 to -0\.5\. Pass logarithms as `log_prior`",
    ),
    "prior NaN": (lambda: prior(with_entry(NAN)), ValueError, "`prior` must be finite and non-negative, .* nan"),
    "prior infinite": (lambda: prior(with_entry(INF)), ValueError, "`prior` must be finite .* from 1 to inf"),
    "prior device": (
        lambda: prior(HALF.to("meta")),
        ValueError,
        "`prior` must be on the device cpu of `scores`, got meta",
    ),
    "prior shape": (
        lambda: prior(torch.ones(3, 2)),
        ValueError,
        r"`log_prior` must have shape \(4, 2\) \(or broadcast to it\), got \(3, 2\)",
    ),
    "log prior shape": (
        lambda: prior(log_prior=torch.ones(4)),
        ValueError,
        r"`log_prior` must have shape \(4, 2\) \(or broadcast to it\), got \(4,\)",
    ),
    "log prior list": (lambda: prior(log_prior=[0.0]), TypeError, r"`log_prior` must be a torch\.Tensor, got list"),
    "log prior NaN": (
        lambda: prior(log_prior=with_entry(NAN)),
        ValueError,
        r"`log_prior` must hold no NaN and no \+inf, got nan",
    ),
    "log prior +inf": (
        lambda: prior(log_prior=with_entry(INF)),
        ValueError,
        r"`log_prior` must hold no NaN and no \+inf, got inf",
    ),
    "log prior device": (
        lambda: prior(log_prior=HALF.to("meta")),
        ValueError,
        "`log_prior` must be on the device cpu of `scores`, got meta",
    ),
    "prior weight negative": (
        lambda: prior(HALF, prior_weight=-1.0),
        ValueError,
        r"`prior_weight` must be finite and at least 0, got -1\.0",
    ),
    "prior weight NaN": (lambda: prior(HALF, prior_weight=NAN), ValueError, "`prior_weight` must be .*, got nan"),
    "prior weight infinite": (lambda: prior(HALF, prior_weight=INF), ValueError, "`prior_weight` must be .*, got inf"),
    "prior weight tensor": (
        lambda: prior(HALF, prior_weight=torch.tensor(1.0)),
        TypeError,
        "`prior_weight` must be a number, got Tensor",
    ),
    # mask
    "mask list": (lambda: label(mask=[[True]]), TypeError, r"`mask` must be a boolean torch\.Tensor, got list"),
    "mask of floats": (
        lambda: label(mask=torch.ones(4, 2)),
        TypeError,
        r"`mask` must be a boolean torch\.Tensor, got torch\.float32\. .*`mask\.bool\(\)`",
    ),
    "mask shape": (
        lambda: label(mask=torch.ones(4, dtype=torch.bool)),
        ValueError,
        r"`mask` must have shape \(4, 2\) \(or broadcast to it\), got \(4,\)",
    ),
    "mask device": (
        lambda: label(mask=torch.ones(4, 2, dtype=torch.bool, device="meta")),
        ValueError,
        "`mask` must be on the device cpu of `scores`, got meta",
    ),
    # no plan
    "sample without a class": (
        lambda: label(mask=mask_of("xx", "xx", "..", "..")),
        InfeasibleProblemError,
        "`mask` must leave every weighted sample a class with mass, got 2 without, first row 2 of problem 0",
    ),
    "sample without a class in a batch": (
        lambda: sinkhorn_label(
            SCORES.expand(2, 4, 2),
            mask=torch.stack([mask_of("xx", "xx", "xx", "xx"), mask_of("xx", "xx", "xx", "..")]),
        ),
        InfeasibleProblemError,
        "got 1 without, first row 3 of problem 1",
    ),
    "sample with -inf scores only": (
        lambda: sinkhorn_label(SCORES.masked_fill(mask_of("xx", "..", "..", ".."), -INF)),
        InfeasibleProblemError,
        "-inf in `scores` must leave every weighted sample a class",
    ),
    "sample with a zero prior only": (
        lambda: prior(SCORES.masked_fill(mask_of("xx", "..", "..", ".."), 0.0)),
        InfeasibleProblemError,
        r"zeros of the prior \(-inf in `log_prior`\) must leave every weighted sample a class",
    ),
    "sample with an empty class only": (
        lambda: share(torch.tensor([1.0, 0.0]), mask=mask_of("xx", "xx", "xx", ".x")),
        InfeasibleProblemError,
        "a class with mass, got 1 without, first row 3",
    ),
    "sample without a class by mask and scores together": (
        lambda: sinkhorn_label(
            SCORES.masked_fill(mask_of("x.", "..", "..", ".."), -INF), mask=mask_of("x.", "xx", "xx", "xx")
        ),
        InfeasibleProblemError,
        "`mask` and -inf in `scores` must leave every weighted sample a class",
    ),
    "too many samples for one class": (
        lambda: label(mask=mask_of("x.", "x.", "x.", "xx")),
        InfeasibleProblemError,
        r"`mask` must leave room for the class proportions, .* lack 0\.25 of the total mass\. .*change `marginal`",
    ),
    "heavy sample for one class": (
        lambda: label(mask=mask_of("x.", "xx", "xx", "xx"), sample_weight=torch.tensor([7.0, 1.0, 1.0, 1.0])),
        InfeasibleProblemError,
        r"lack 0\.2 of the total mass",
    ),
    "class without a sample": (
        lambda: label(mask=mask_of("x.", "x.", "x.", "x.")),
        InfeasibleProblemError,
        "`mask` must leave every class with mass a weighted sample, got 1 without, first class 1 of problem 0",
    ),
    "class with a weightless sample only": (
        lambda: label(mask=mask_of("x.", "x.", "x.", "xx"), sample_weight=torch.tensor([1, 1, 1, 0])),
        InfeasibleProblemError,
        "must leave every class with mass a weighted sample, got 1 without, first class 1",
    ),
    "class of tiny share without a sample": (  # far below the rounding that the other checks forgive
        lambda: share(torch.tensor([1.0, 1e-12]), mask=mask_of("x.", "x.", "x.", "x.")),
        InfeasibleProblemError,
        "must leave every class with mass a weighted sample, got 1 without, first class 1",
    ),
    "set of classes too small": (
        # Every class alone could be filled, and every sample has a choice; four of six samples share two of four.
        lambda: sinkhorn_label(torch.zeros(6, 4), mask=mask_of("xx..", "xx..", "xx..", "xx..", "..xx", "xxxx")),
        InfeasibleProblemError,
        r"lack 0\.167 of the total mass",
    ),
    "set of twelve classes too small": (
        lambda: sinkhorn_label(torch.zeros(6, 12), mask=mask_of(*["xx.........."] * 2, *["xxxxxxxxxxxx"] * 4)),
        InfeasibleProblemError,
        r"lack 0\.167 of the total mass",
    ),
    "samples for one of many classes": (
        lambda: sinkhorn_label(torch.zeros(3, 20), mask=confined(20)),
        InfeasibleProblemError,
        r"lack 0\.617 of the total mass",
    ),
    "one of many classes without a sample": (
        lambda: sinkhorn_label(torch.zeros(3, 20), mask=without_last_class(20)),
        InfeasibleProblemError,
        "`mask` must leave every class with mass a weighted sample, got 1 without, first class 19 of problem 0",
    ),
    "too few samples for one of many classes": (
        lambda: sinkhorn_label(torch.zeros(30, 20), mask=rare_last_class(30, 20)),
        InfeasibleProblemError,
        r"lack 0\.0167 of the total mass",
    ),
    # solver
    "solver class": (
        lambda: label(solver=Sinkhorn),
        TypeError,
        r"`solver` must be a settings object such as Auto\(\), got type",
    ),
    "solver None": (lambda: label(solver=None), TypeError, "`solver` must be a settings object .*, got NoneType"),
    "max_iter zero": (lambda: Sinkhorn(max_iter=0), ValueError, "`max_iter` must be at least 1, got 0"),
    "max_iter float": (lambda: Sinkhorn(max_iter=3.0), TypeError, "`max_iter` must be an integer, got float"),
    "max_iter bool": (lambda: Sinkhorn(max_iter=True), TypeError, "`max_iter` must be an integer, got bool"),
    "check_every zero": (lambda: Sinkhorn(check_every=0), ValueError, "`check_every` must be at least 1, got 0"),
    "check_every None": (lambda: Sinkhorn(check_every=None), TypeError, "`check_every` must be an integer, got None"),
    "tol zero": (lambda: Sinkhorn(tol=0.0), ValueError, r"`tol` must lie between 0 and 2, got 0\.0"),
    "tol two": (lambda: Sinkhorn(tol=2), ValueError, "`tol` must lie between 0 and 2, got 2"),
    "tol NaN": (lambda: Sinkhorn(tol=NAN), ValueError, "`tol` must lie between 0 and 2, got nan"),
    "tol text": (lambda: Sinkhorn(tol="1e-4"), TypeError, "`tol` must be a number, got str"),
    "order": (
        lambda: Sinkhorn(order="random"),
        ValueError,
        r"`order` must be one of \('columns_first', 'rows_first'\), got 'random'",
    ),
    "on_failure": (
        lambda: Sinkhorn(on_failure=None),
        ValueError,
        r"`on_failure` must be one of \('warn', 'raise', 'ignore'\), got None",
    ),
    "tol None, Auto": (
        lambda: Auto(tol=None),
        ValueError,
        "`tol` must be a number for Auto, got None. Only Sinkhorn runs a fixed number of iterations",
    ),
    "tol None, Newton": (lambda: Newton(tol=None), ValueError, "`tol` must be a number for Newton, got None"),
    "tol None, Anderson": (lambda: Anderson(tol=None), ValueError, "`tol` must be a number for Anderson, got None"),
    "tol zero, Auto": (lambda: Auto(tol=0), ValueError, "`tol` must lie between 0 and 2, got 0"),
    "max_iter zero, Newton": (lambda: Newton(max_iter=0), ValueError, "`max_iter` must be at least 1, got 0"),
    "on_failure, Anderson": (lambda: Anderson(on_failure="stop"), ValueError, "`on_failure` must be one of .*'stop'"),
    "dense_classes zero": (lambda: Newton(dense_classes=0), ValueError, "`dense_classes` must be at least 1, got 0"),
    "dense_classes float": (
        lambda: Newton(dense_classes=256.0),
        TypeError,
        "`dense_classes` must be an integer, got float",
    ),
    "memory zero": (lambda: Anderson(memory=0), ValueError, "`memory` must be at least 1, got 0"),
    "memory None": (lambda: Anderson(memory=None), TypeError, "`memory` must be an integer, got NoneType"),
    # init
    "init list": (
        lambda: label(init=[0.0, 0.0]),
        TypeError,
        r"`init` must be a LabelResult, a torch\.Tensor of class duals or None, got list\. Pass an earlier result",
    ),
    "init of other classes": (
        lambda: label(init=sinkhorn_label(torch.zeros(4, 3))),
        ValueError,
        r"`init` must be for classes of shape \(2,\), got \(3,\)\. Use a result of the same batch and classes",
    ),
    "init of another batch": (
        lambda: label(init=sinkhorn_label(torch.zeros(1, 4, 2))),
        ValueError,
        r"`init` must be for classes of shape \(2,\), got \(1, 2\)",
    ),
    "init of another batch shape": (
        lambda: sinkhorn_label(torch.zeros(2, 3, 4, 2), init=sinkhorn_label(torch.zeros(3, 2, 4, 2))),
        ValueError,
        r"`init` must be for classes of shape \(2, 3, 2\), got \(3, 2, 2\)",
    ),
    "init on another device": (
        lambda: label(init=label().to("meta")),
        ValueError,
        "`init` must be on the device cpu of `scores`, got meta",
    ),
    "init list, marginal": (lambda: share(HALF, init=[0.0]), TypeError, "`init` must be a LabelResult, a torch"),
    "init list, prior": (lambda: prior(HALF, init=[0.0]), TypeError, "`init` must be a LabelResult, a torch"),
    "missed tolerance, raise": (
        lambda: label(solver=Sinkhorn(max_iter=1, tol=1e-6, on_failure="raise")),
        ConvergenceError,
        "Sinkhorn stopped at max_iter .* Raise `epsilon` or `max_iter`",
    ),
    "missed tolerance, raise, Auto": (
        lambda: sinkhorn_label(MANY, solver=Auto(max_iter=1, tol=1e-6, on_failure="raise")),
        ConvergenceError,
        "Auto stopped at max_iter .* Raise `epsilon` or `max_iter`",
    ),
    "missed tolerance, raise, Newton": (
        lambda: sinkhorn_label(MANY, solver=Newton(max_iter=1, tol=1e-6, on_failure="raise")),
        ConvergenceError,
        "Newton stopped at max_iter .* Raise `epsilon` or `max_iter`",
    ),
    "missed tolerance, raise, Anderson": (
        lambda: sinkhorn_label(MANY, solver=Anderson(max_iter=1, tol=1e-6, on_failure="raise")),
        ConvergenceError,
        "Anderson stopped at max_iter .* Raise `epsilon` or `max_iter`",
    ),
    "missed tolerance, warn": (
        lambda: label(solver=Sinkhorn(max_iter=1, tol=1e-6)),
        ConvergenceWarning,
        "accept the error with on_failure='ignore'",
    ),
    "tiny tolerance": (
        lambda: label(solver=Sinkhorn(tol=1e-12)),
        NumericalWarning,
        r"`tol` must be at least .* for these scores and torch\.float32 labels, got 1\.0e-12",
    ),
    # graphs
    "captured labels": (
        lambda: CapturedLabeler(label(), solver=Sinkhorn(tol=None)),
        TypeError,
        r"`labeler` must be a function such as otlabel\.sinkhorn_label, got LabelResult\. Pass one",
    ),
    "captured with a solver class": (
        lambda: CapturedLabeler(sinkhorn_label, solver=Sinkhorn),
        TypeError,
        r"`solver` must be a settings object such as Sinkhorn\(\), got type",
    ),
    "captured with a tolerance": (
        lambda: CapturedLabeler(sinkhorn_label, solver=Sinkhorn()),
        ValueError,
        r"`solver` must have a fixed number of iterations, got Sinkhorn\(.*\)\. Use Sinkhorn\(max_iter=3, tol=None\)",
    ),
    "captured with another solver": (
        lambda: CapturedLabeler(sinkhorn_label, solver=Auto()),
        ValueError,
        r"`solver` must have a fixed number of iterations, got Auto\(",
    ),
    # predict
    "new scores list": (lambda: label().predict([[1.0]]), TypeError, r"`new_scores` must be a torch\.Tensor, got list"),
    "new scores vector": (lambda: label().predict(HALF), ValueError, r"`new_scores` must have shape \(\*batch, n, k\)"),
    "new scores empty": (lambda: label().predict(SCORES[:0]), ValueError, "`new_scores` must not be empty"),
    "new scores NaN": (lambda: label().predict(with_entry(NAN)), ValueError, "`new_scores` must hold no NaN"),
    "new scores of other classes": (
        lambda: label().predict(torch.ones(4, 3)),
        ValueError,
        r"`new_scores` must have shape \(m, 2\), got \(4, 3\)\. Use the classes and the batch of the labels",
    ),
    "new scores of another batch": (
        lambda: sinkhorn_label(SCORES.expand(3, 4, 2), epsilon=0.5).predict(SCORES),
        ValueError,
        r"`new_scores` must have shape \(3, m, 2\), got \(4, 2\)",
    ),
    "new scores on another device": (
        lambda: label().to("meta").predict(SCORES),
        ValueError,
        "`new_scores` must be on the device meta of `log_v`, got cpu",
    ),
    "missing prior of new samples": (
        lambda: prior(HALF).predict(SCORES),
        ValueError,
        r"`log_prior` must be given exactly if .*, got none for labels with one\. .*`log_prior=torch\.zeros\(k\)`",
    ),
    "unexpected prior of new samples": (
        lambda: label().predict(SCORES, prior=HALF),
        ValueError,
        "`log_prior` must be given exactly if .*, got one for labels without",
    ),
    "two priors of new samples": (
        lambda: prior(HALF).predict(SCORES, prior=HALF, log_prior=HALF),
        ValueError,
        "exactly one of `prior` and `log_prior` must be given, got both",
    ),
    "mask of new samples": (
        lambda: label().predict(SCORES, mask=torch.ones(3, 2, dtype=torch.bool)),
        ValueError,
        r"`mask` must have shape \(4, 2\)",
    ),
    # marginals
    "uniform k zero": (lambda: marginals.uniform(0), ValueError, "`k` must be at least 1, got 0"),
    "uniform k float": (lambda: marginals.uniform(2.0), TypeError, "`k` must be an integer, got float"),
    "power_law k": (lambda: marginals.power_law(0), ValueError, "`k` must be at least 1, got 0"),
    "power_law exponent text": (lambda: marginals.power_law(2, "1"), TypeError, "`exponent` must be a number, got str"),
    "power_law exponent NaN": (lambda: marginals.power_law(2, NAN), ValueError, "`exponent` must be finite, got nan"),
    "counts list": (
        lambda: marginals.from_counts([1, 2]),
        TypeError,
        r"`counts` must be a torch\.Tensor of real numbers, got list",
    ),
    "counts negative": (
        lambda: marginals.from_counts(torch.tensor([3, -1])),
        ValueError,
        "`counts` must be finite and non-negative, got values from -1 to 3",
    ),
    "counts negative but smoothed": (
        lambda: marginals.from_counts(torch.tensor([3, -1]), smoothing=2.0),
        ValueError,
        "`counts` must be finite and non-negative, got values from -1 to 3",
    ),
    "counts NaN": (
        lambda: marginals.from_counts(torch.tensor([3, NAN])),
        ValueError,
        "`counts` must be finite and non-negative, got values from nan",
    ),
    "counts zero": (
        lambda: marginals.from_counts(torch.zeros(2)),
        ValueError,
        "`counts` must not sum to zero, got a sum of 0. .*set `smoothing` above 0",
    ),
    "smoothing text": (
        lambda: marginals.from_counts(HALF, smoothing="1"),
        TypeError,
        "`smoothing` must be a number, got str",
    ),
    "smoothing negative": (
        lambda: marginals.from_counts(HALF, smoothing=-1),
        ValueError,
        "`smoothing` must be finite and at least 0, got -1",
    ),
    "labels list": (
        lambda: marginals.empirical([[1.0]]),
        TypeError,
        r"`labels` must be a torch\.Tensor of real numbers, got list",
    ),
    "labels of class indices": (
        lambda: marginals.empirical(torch.tensor([0, 1])),
        TypeError,
        r"`labels` must be floating, got torch\.int64\. .*one_hot",
    ),
    "labels vector": (
        lambda: marginals.empirical(HALF),
        ValueError,
        r"`labels` must have shape \(\*batch, n, k\), got \(2,\)",
    ),
    "weights of the rows negative": (
        lambda: marginals.empirical(SCORES.abs(), sample_weight=-torch.ones(4)),
        ValueError,
        "`sample_weight` must be finite and non-negative, got values from -1 to -1",
    ),
    "weights of the rows on another device": (
        lambda: marginals.empirical(SCORES.abs(), sample_weight=torch.ones(4, device="meta")),
        ValueError,
        "`sample_weight` must be on the device cpu of `labels`, got meta",
    ),
    "shares in integers": (
        lambda: marginals.uniform(3, dtype=torch.int64),
        TypeError,
        "`dtype` must be a floating type, got torch.int64",
    ),
    "epsilon beyond float": (
        lambda: label(epsilon=10**400),
        ValueError,
        "`epsilon` must be finite, got an integer too large",
    ),
    "rank prior on two devices": (
        lambda: rank_prior(HALF, HALF.to("meta")),
        ValueError,
        "`class_score` must be on the device cpu of `sample_score`, got meta",
    ),
    "labels that are logits": (
        lambda: marginals.empirical(-SCORES),
        ValueError,
        "`labels` must be finite and non-negative, .*Pass probabilities, not logits",
    ),
    "labels negative under a negative weight": (
        lambda: marginals.empirical(-SCORES, sample_weight=-torch.ones(4)),
        ValueError,
        "must be finite and non-negative",
    ),
    "labels zero": (
        lambda: marginals.empirical(torch.zeros(2, 2)),
        ValueError,
        r"`labels` \(times `sample_weight`\) must not sum to zero, got a sum of 0",
    ),
    "weight of labels list": (
        lambda: marginals.empirical(SCORES, sample_weight=[1.0] * 4),
        TypeError,
        r"`sample_weight` must be a torch\.Tensor of real numbers, got list",
    ),
    "weight of labels shape": (
        lambda: marginals.empirical(SCORES, sample_weight=torch.ones(2)),
        ValueError,
        r"`sample_weight` must have shape \(4,\), one weight for each row of `labels`, got \(2,\)",
    ),
    # priors
    "sample_score list": (
        lambda: rank_prior([0.1]),
        TypeError,
        r"`sample_score` must be a floating torch\.Tensor, got list\. Convert it with `\.float\(\)`",
    ),
    "class_score integer": (
        lambda: rank_prior(HALF, torch.tensor([0, 1])),
        TypeError,
        r"`class_score` must be a floating torch\.Tensor, got torch\.int64",
    ),
    "sample_score empty": (
        lambda: rank_prior(HALF[:0]),
        ValueError,
        r"`sample_score` must have a dimension and an entry, got .*\(0,\)",
    ),
    "class_score empty": (
        lambda: rank_prior(HALF, HALF[:0]),
        ValueError,
        "`class_score` must have a dimension and an entry",
    ),
    "sample_score NaN": (
        lambda: rank_prior(torch.tensor([0.1, NAN])),
        ValueError,
        "`sample_score` must be finite, got NaN or infinity",
    ),
    "class_score infinite": (
        lambda: rank_prior(HALF, torch.tensor([0.1, INF])),
        ValueError,
        "`class_score` must be finite, got NaN or infinity",
    ),
    "class_score of another batch": (
        lambda: rank_prior(torch.rand(3, 4), HALF),
        ValueError,
        r"`class_score` must share the leading shape \(3,\) of `sample_score`, got \(\)\. Expand it",
    ),
    "sigma text": (lambda: rank_prior(sigma="1"), TypeError, "`sigma` must be a number, got str"),
    "sigma zero": (lambda: rank_prior(sigma=0), ValueError, "`sigma` must be positive and finite, got 0"),
    "sigma infinite": (lambda: rank_prior(sigma=INF), ValueError, "`sigma` must be positive and finite, got inf"),
    "rank": (
        lambda: rank_prior(rank="argsort"),
        ValueError,
        r"`rank` must be one of \('true', 'released_argsort'\), got 'argsort'",
    ),
    "mask of the rank integer": (
        lambda: rank_prior(mask=torch.tensor([1, 0])),
        TypeError,
        r"`mask` must be a boolean torch\.Tensor, got torch\.int64\. Try `mask\.bool\(\)`",
    ),
    "mask of the rank shape": (
        lambda: rank_prior(mask=torch.ones(3, dtype=torch.bool)),
        ValueError,
        r"`mask` must have the shape \(2,\) of `sample_score`, got \(3,\)",
    ),
    "mask of the released rank": (
        lambda: rank_prior(mask=torch.ones(2, dtype=torch.bool), rank="released_argsort"),
        ValueError,
        "`mask` must be None with rank='released_argsort', got one. Remove the padding",
    ),
    "mask of the rank without a sample": (
        lambda: rank_prior(mask=torch.zeros(2, dtype=torch.bool)),
        ValueError,
        "`mask` must keep a sample, got one without",
    ),
    "temporal n zero": (lambda: temporal_gaussian_prior(0, 2), ValueError, "`n` must be at least 1, got 0"),
    "temporal n float": (lambda: temporal_gaussian_prior(2.0, 2), TypeError, "`n` must be an integer, got float"),
    "temporal k zero": (lambda: temporal_gaussian_prior(2, 0), ValueError, "`k` must be at least 1, got 0"),
    "temporal k float": (lambda: temporal_gaussian_prior(2, 2.0), TypeError, "`k` must be an integer, got float"),
    "temporal sigma": (lambda: temporal_gaussian_prior(2, 2, sigma=-1), ValueError, "`sigma` must be positive"),
    "temporal first_index": (
        lambda: temporal_gaussian_prior(2, 2, first_index=2),
        ValueError,
        "`first_index` must be 0 or 1, got 2",
    ),
    # testing
    "reference gives up": (
        lambda: reference_solve(SCORES, tol=1e-12, max_iter=1),
        ConvergenceError,
        r"`tol` must be reachable within max_iter=1 iterations, got an error of .* > 1\.00e-12\. Raise `epsilon`",
    ),
    "plan vector": (lambda: assert_feasible(HALF), ValueError, r"`plan` must have shape \(\*batch, n, k\), got \(2,\)"),
    "plan NaN": (lambda: assert_feasible(with_entry(NAN)), AssertionError, "`plan` must be finite, got NaN"),
    "plan negative": (lambda: assert_feasible(-SCORES), AssertionError, r"`plan` must be non-negative, got -0\.9"),
    "plan marginal": (lambda: assert_feasible(SCORES), AssertionError, "`plan` must meet its row marginal to .*, got"),
}
# Rooms with many messages keep their cases beside this file.
for _path in sorted(Path(__file__).parent.glob("cases_*.py")):
    _more = importlib.import_module(f"tests.otlabel.{_path.stem}").CASES
    assert not CASES.keys() & _more.keys(), f"{_path.name} has cases of names that are taken"
    CASES |= _more


def cases(*kinds):
    """Names of the cases of these classes."""
    return [name for name, (_, kind, _) in CASES.items() if issubclass(kind, kinds)]


@pytest.mark.parametrize("case", cases(Exception))
def test_message(case):
    call, kind, words = CASES[case]
    with pytest.raises(kind, match=words) as caught:  # warnings are errors in this run
        call()
    assert caught.type is kind


# ---------------------------------------------------------------- is that all of them?


@dataclass(frozen=True)
class Site:
    """A place in the library's source that raises or warns: the class, and a pattern of all its messages."""

    where: str
    kind: str
    pattern: str


def pattern_of(message: ast.expr, tree: ast.AST) -> str | None:
    """The message with anything in place of its fields; None if it is not written here (`require` itself)."""
    if isinstance(message, ast.Name):  # composed a few lines above
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == message.id:
                return pattern_of(node.value, tree)
        return None
    if isinstance(message, ast.Constant):
        return ".*".join(re.escape(part) for part in re.split(r"\{[^}]*\}", message.value))
    if isinstance(message, ast.JoinedStr):
        return "".join(re.escape(part.value) if isinstance(part, ast.Constant) else ".*" for part in message.values)
    return None


def sites_of(call: ast.Call, raised: bool, tree: ast.AST, file: str) -> list[Site]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")

    def site(kind: str, pattern: str | None) -> list[Site]:
        return [] if pattern is None else [Site(f"{file}:{call.lineno}", kind, pattern)]

    if raised:
        return site(name, pattern_of(call.args[0], tree))
    if name == "warn":
        return site(call.args[1].id, pattern_of(call.args[0], tree))
    if name == "require":
        return site("ValueError", pattern_of(call.args[1], tree))
    if name in ("require_number", "require_count"):
        argument, advice = (pattern_of(part, tree) or ".*" for part in call.args[1:3])
        what = f"`{argument}` must be " + "{}.*" + advice
        if name == "require_number":
            return site("TypeError", what.format("a number"))
        return site("TypeError", what.format("an integer")) + site("ValueError", what.format("at least 1"))
    return []


def all_sites() -> list[Site]:
    root = Path(otlabel.__file__).parent
    sites = []
    for path in sorted(root.rglob("*.py")):
        tree = ast.parse(path.read_text())
        raised = {node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)}
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        for call in sorted(calls, key=lambda node: node.lineno):
            sites += sites_of(call, call in raised, tree, str(path.relative_to(root)))
    return sites


SITES = all_sites()


@pytest.fixture(scope="module")
def messages():
    """Class and text of what every case raises."""
    found = []
    for call, _, _ in CASES.values():
        try:
            call()
        except Exception as error:  # noqa: BLE001 - which one it is, is the result
            found.append((type(error).__name__, str(error)))
    return found


@pytest.mark.parametrize("site", SITES, ids=lambda site: f"{site.where} {site.kind}")
def test_every_raise_of_the_library_has_a_case(site, messages):
    pattern = re.compile(site.pattern, re.DOTALL)
    assert any(kind == site.kind and pattern.fullmatch(text) for kind, text in messages), site.pattern


def test_the_search_for_raises_finds_them():
    assert len(SITES) > 50


def test_every_raise_statement_is_understood():
    """A new way of writing one must not slip past the search; those without a message of their own are listed."""
    root = Path(otlabel.__file__).parent
    statements = {
        f"{path.relative_to(root)}:{node.exc.lineno}"
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise)
    }
    unread = statements - {site.where for site in SITES}
    # `require` hands on the message of its caller, and the base class of the solvers has a method without a body.
    assert {place.split(":")[0] for place in unread} <= {"errors.py", "solvers/base.py"}
    assert sum(place.startswith("solvers/base.py") for place in unread) <= 1


@pytest.mark.parametrize("case", cases(ValueError, TypeError))
def test_message_names_the_argument_what_is_required_what_arrived_and_what_to_do(case):
    call, kind, _ = CASES[case]
    with pytest.raises(kind, match=r"(?s)^[^.]*`\w+`.* must .*, got .*\. [A-Z0-9-].*\.$"):
        call()


# ---------------------------------------------------------------- ranges


@pytest.mark.parametrize("count", [1, 7, FAST_RANGE_FROM, 2 * FAST_RANGE_BLOCK + 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64], ids=str)
def test_range_of_values_however_many(count, dtype):
    value = torch.randint(-1000, 1000, (count,), generator=torch.Generator().manual_seed(count)).to(dtype)
    assert value_range(value) == (int(value.min()), int(value.max()))
    strided = value.expand(2, -1).T[:, :1]
    assert value_range(strided) == value_range(value)
    if dtype.is_floating_point:
        for at in (0, count // 2, count - 1):
            spoilt = value.clone()
            spoilt[at] = NAN
            assert all(end != end for end in value_range(spoilt))
            spoilt[at] = -INF
            assert value_range(spoilt)[0] == -INF


def test_range_of_no_values():
    assert value_range(torch.empty(0, 3)) == (0.0, 0.0)
