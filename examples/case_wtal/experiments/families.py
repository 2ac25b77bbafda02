"""Tables over all baselines and over all recipes."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from examples.case_wtal import recipes as recipes_module
from examples.case_wtal.baselines import BASELINES, adapt
from examples.case_wtal.config import CaseConfig
from examples.case_wtal.experiments.paper import BASE, COMPONENTS, TABLES, thumos14
from examples.case_wtal.experiments.specs import Claim, Row, TableSpec, both, label

BASELINE_NAMES = {"own": "own baseline", "basnet": "BaS-Net", "acmnet": "ACM-Net", "co2net": "CO2-Net"}

ADD_ON_PUBLISHED = {"own": (42.1, 46.2), "co2net": (44.6, 46.6)}
"""Baseline -> average mAP on THUMOS14 without and with CASE (table 2)."""

ALIASES = {"10": "4"}
"""The paper's table 10 is table 4 on two more data sets."""


def all_tables() -> dict[str, TableSpec]:
    """Name -> table or figure, in the order of the paper; ours are last."""
    recipes = recipes_module.RECIPES
    ours = (add_on(BASELINES), recipes_table(recipes), labels_table(recipes))
    return TABLES | {spec.name: spec for spec in ours}


def find_tables(names: Iterable[str]) -> list[TableSpec]:
    """Tables by name, each once; "all" is every one.

    Raises:
        ValueError: There is no table of that name.
    """
    tables, chosen = all_tables(), list(names)
    unknown = [name for name in chosen if ALIASES.get(name, name) not in {*tables, "all"}]
    if unknown or not chosen:
        raise ValueError(
            f"`table` must be among {', '.join([*tables, *ALIASES])}, all, got {unknown[0] if unknown else 'none'}. "
            "Choose one or more of them."
        )
    if "all" in chosen:
        return list(tables.values())
    return [tables[name] for name in dict.fromkeys(ALIASES.get(name, name) for name in chosen)]


def add_on(baselines: Iterable[str]) -> TableSpec:
    """CASE added to each baseline (table 2)."""
    rows, claims = [], []
    for name in baselines:
        title, change = BASELINE_NAMES.get(name, name), partial(adapt, baseline=name)
        known = name in ADD_ON_PUBLISHED
        before, after = map(thumos14, ADD_ON_PUBLISHED[name]) if known else ({}, {})
        rows += [
            Row(title, both(change, BASE), "attention", before, title),
            Row(f"{title} + CASE", change, "fused", after, title),
        ]
        claims.append(Claim(f"CASE improves the {title}", f"{title} + CASE", title, by="paper" if known else "us"))
    return TableSpec("addon", "Table 2: CASE added to baselines", tuple(rows), rows[0].name, tuple(claims))


def recipes_table(recipes: Mapping[str, Callable[..., CaseConfig]]) -> TableSpec:
    """Components, for each recipe; its baselines differ by what happens at test time alone."""
    rows = [
        Row(f"{recipe} {row.name}", both(start_from(make), row.change), row.foreground, {}, f"{recipe} base")
        for recipe, make in recipes.items()
        for row in COMPONENTS.rows
    ]
    claims = [
        Claim(f"with {recipe}, CASE improves the baseline", f"{recipe} +test", f"{recipe} base", by="us")
        for recipe in recipes
    ]
    names = sorted(recipes, key=lambda name: name != "otlabel")  # ours should be the best; the others as they come
    claims += [
        Claim(f"{name} is better than {other} ({row})", f"{name} {row}", f"{other} {row}", by="us")
        for row in ("base", "+test")
        for i, name in enumerate(names)
        for other in names[i + 1 :]
    ]
    return TableSpec("recipes", "Recipes: components of each", tuple(rows), rows[0].name, tuple(claims))


def labels_table(recipes: Mapping[str, Callable[..., CaseConfig]]) -> TableSpec:
    """How well each foreground map tells foreground from background, and how sharp and balanced the labels are."""
    rows, claims = [], []
    for recipe, make in recipes.items():
        start, base = start_from(make), f"{recipe}, attention of base"
        rows += [
            Row(base, both(start, BASE), "attention", reference=base),
            Row(f"{recipe}, attention", start, "attention", reference=base),
            Row(f"{recipe}, clusters", start, "clusters", reference=base),
            Row(f"{recipe}, fused", start, "fused", reference=base),
        ]
        claims.append(
            Claim(
                f"with {recipe}, clusters rank snippets better than the attention of the baseline",
                f"{recipe}, clusters",
                base,
                "auc",
                by="us",
            )
        )
    if "paper" in recipes:
        bare = both(start_from(recipes["paper"]), label(prior="none"))
        rows.append(Row("paper without prior, clusters", bare, "clusters", reference="paper, attention of base"))
        claims.append(
            Claim(
                "the prior makes the snippets' labels sharper",
                "paper, clusters",
                "paper without prior, clusters",
                "label_entropy",
                "lower",
            )
        )
    return TableSpec(
        "labels",
        "Foreground maps and labels of each recipe",
        tuple(rows),
        rows[0].name,
        tuple(claims),
        "auc",
        ("auc", "label_entropy", "class_entropy", "proportion_entropy"),
    )


def start_from(make: Callable[..., CaseConfig]) -> Callable[[CaseConfig], CaseConfig]:
    """Settings of another recipe for the same data."""
    return lambda config: make(config.dataset, config.root)
