"""A recipe's settings, adapted to a baseline."""

from dataclasses import replace

from examples.case_wtal.config import CaseConfig


def adapt(config: CaseConfig, baseline: str) -> CaseConfig:
    """Settings with which `baseline` is trained, alone or with CASE.

    Only the map that is thresholded differs. BaS-Net thresholds its class activation, which is relative to the best
    snippet of a recording, at 0 to 0.225. ACM-Net thresholds class activation and attention, CO2-Net the attention, and
    both score by the class activation, so both maps count: by their geometric mean, in which the class activation has
    the same share whether the attention or a fused foreground is beside it. In CASE's mean its share would shrink when
    clusters are added, and base and base + CASE would differ in that too. Data, seed, budget and the rest stay.

    Args:
        config: What a recipe returns.
        baseline: Name in `BASELINES`.
    """
    config = replace(config, model=replace(config.model, baseline=baseline))
    if baseline in {"acmnet", "co2net"}:
        config = replace(config, inference=replace(config.inference, fusion="geometric"))
    if baseline == "basnet":
        config = replace(
            config,
            inference=replace(config.inference, fusion="class_activation"),
            proposal=replace(config.proposal, thresholds=tuple(i / 40 for i in range(10))),
        )
    return config
