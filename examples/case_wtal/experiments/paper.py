"""The ablations of the paper as specifications; numbers as published (mAP in percent).

Source: "Revisiting Foreground and Background Separation in Weakly-supervised Temporal Action Localization" (ICCV 2023,
arXiv 2312.14138), section 5.3 and appendices C and F.2. Numbers that the text gives in words only are left out.
"""

from examples.case_wtal.experiments.specs import (
    Claim,
    Row,
    TableSpec,
    both,
    class_branch_alone,
    components,
    label,
    loss,
    model,
    same,
)

CLUSTERS = (2, 4, 8, 16, 32, 64)
"""K in figure 4."""

BASE = components("baseline")
HARD = label(assignment="prediction", form="hard")


def thumos14(average: float) -> dict[str, float]:
    """A number of the paper on THUMOS14."""
    return {"THUMOS14": average}


def three(thumos: float, activitynet12: float, activitynet13: float) -> dict[str, float]:
    """Numbers of the paper in tables 4 and 10."""
    return {"THUMOS14": thumos, "ActivityNet 1.2": activitynet12, "ActivityNet 1.3": activitynet13}


COMPONENTS = TableSpec(
    "4",
    "Tables 4 and 10: components",
    (
        Row("base", BASE, "attention", three(42.1, 25.6, 24.7)),
        Row("+SCC", components("scc"), "attention", three(43.2, 26.5, 25.4)),
        Row("+SCC+CCC", same, "attention", three(43.9, 27.0, 25.7)),
        Row("+test", same, "fused", three(46.2, 27.9, 26.8)),
    ),
    "base",
    (
        Claim("snippet clustering improves the baseline", "+SCC", "base"),
        Claim("cluster classification adds to snippet clustering", "+SCC+CCC", "+SCC"),
        Claim("clustering-assisted testing adds to training with both", "+test", "+SCC+CCC"),
        Claim("all together improve the baseline", "+test", "base"),
    ),
)

LABELLING = TableSpec(
    "5",
    "Table 5: where the snippets' cluster labels come from",
    (
        Row("prediction, soft", label(assignment="prediction"), published=thumos14(41.2)),
        Row("prediction, hard", HARD, published=thumos14(40.8)),
        Row("transport, soft", same, published=thumos14(46.2)),
        Row("transport, hard", label(form="hard"), published=thumos14(44.7)),
    ),
    "transport, soft",
    (
        Claim("soft labels are better by transport", "transport, soft", "prediction, soft"),
        Claim("hard labels are better by transport", "transport, hard", "prediction, hard"),
        Claim("soft transport is better than hard", "transport, soft", "transport, hard"),
        Claim(
            "hard predictions crowd into few clusters (entropy in the paper: 0.01 of ln 16 = 2.77)",
            "prediction, hard",
            "transport, soft",
            "proportion_entropy",
            "lower",
        ),
    ),
    columns=("auc", "proportion_entropy"),
)

PRIORS = TableSpec(
    "6",
    "Table 6: the prior in snippet clustering, the proportions in cluster classification",
    (
        Row("full", same, published=thumos14(46.2)),
        Row("no prior in SCC", label(prior="none"), published=thumos14(43.9)),
        Row("equal proportions in CCC", label(cluster_marginal="uniform"), published=thumos14(44.1)),
    ),
    "full",
    (
        Claim("the prior helps", "full", "no prior in SCC"),
        Claim("estimated proportions are better than equal ones", "full", "equal proportions in CCC"),
    ),
)

TESTING = TableSpec(
    "7",
    "Table 7: whose foreground probability counts at test time",
    (
        Row("attention", same, "attention", thumos14(43.9)),  # the same as +SCC+CCC of table 4
        Row("clusters", same, "clusters"),
        Row("fused", same, "fused", thumos14(46.2)),
    ),
    "attention",
    (
        Claim("fused is better than the attention", "fused", "attention"),
        Claim("fused is better than the clusters", "fused", "clusters"),
    ),
)

BASELINE_PARTS = TableSpec(
    "11",
    "Table 11: parts of the baseline",
    (
        Row("class branch alone", class_branch_alone, "attention", thumos14(32.0)),
        Row("+ attention branch, cross-entropy", loss(components="baseline", gce_q=0.0), "attention", thumos14(41.7)),
        Row("+ generalised cross-entropy", BASE, "attention", thumos14(42.1)),
    ),
    "class branch alone",
    (
        Claim("the attention branch helps", "+ attention branch, cross-entropy", "class branch alone"),
        Claim(
            "a loss that bears label noise helps", "+ generalised cross-entropy", "+ attention branch, cross-entropy"
        ),
    ),
)

CO_LABELS = TableSpec(
    "12",
    "Table 12: pseudo-labels shared by the streams",
    (
        Row("base, own labels", loss(components="baseline", co_labels="none"), "attention", thumos14(38.3)),
        Row("base, shared labels", BASE, "attention", thumos14(42.1)),
        Row("CASE, shared by the baseline alone", loss(co_labels="baseline"), published=thumos14(45.6)),
        Row("CASE, all shared", same, published=thumos14(46.2)),
    ),
    "base, shared labels",
    (
        Claim("the baseline gains by sharing", "base, shared labels", "base, own labels"),
        Claim(
            "CASE gains a little by sharing its own labels too",
            "CASE, all shared",
            "CASE, shared by the baseline alone",
        ),
        Claim(
            "CASE that does not share improves the baseline",
            "CASE, shared by the baseline alone",
            "base, shared labels",
        ),
    ),
)

FIGURE_4 = TableSpec(
    "figure-4",
    "Figure 4: number of clusters, and entropy of the labels over training",
    (
        Row("base", BASE, "attention", thumos14(42.1)),
        *(Row(f"K = {k}", model(clusters=k), published=thumos14(46.2) if k == 16 else {}) for k in CLUSTERS),
        Row("K = 16, no prior", both(model(clusters=16), label(prior="none")), published=thumos14(43.9)),
    ),
    "base",
    (
        Claim("two clusters are worse than the baseline", "K = 2", "base", relation="lower"),
        Claim(
            "32 clusters are about as good as 16 (tested: within a point)",
            "K = 32",
            "K = 16",
            relation="close",
            margin=1.0,
        ),
        Claim(
            "64 clusters are about as good as 16 (tested: within a point)",
            "K = 64",
            "K = 16",
            relation="close",
            margin=1.0,
        ),
        Claim("the prior makes the snippets' labels sharper", "K = 16", "K = 16, no prior", "label_entropy", "lower"),
    ),
    columns=("auc", "label_entropy", "class_entropy"),
    curves=("K = 16", "K = 16, no prior"),
)

RANK = TableSpec(
    "c3",
    "Appendix C.3: what the prior compares",
    (
        Row("rank of the attention", same, published=thumos14(46.2)),
        Row("the attention itself", label(prior="attention")),
        Row("no prior", label(prior="none"), published=thumos14(43.9)),
    ),
    "rank of the attention",
    (Claim("the rank is better than the attention itself", "rank of the attention", "the attention itself"),),
)


TABLES: dict[str, TableSpec] = {
    spec.name: spec for spec in (COMPONENTS, LABELLING, PRIORS, TESTING, BASELINE_PARTS, CO_LABELS, FIGURE_4, RANK)
}
"""Name -> table or figure that one recipe is enough for."""
