"""All settings of a run, as one tree of frozen dataclasses. Recipes (`recipes.py`) return it filled in."""

from dataclasses import dataclass, field
from typing import Literal

from examples.case_wtal.proposals import ProposalConfig

Component = Literal["baseline", "scc", "scc_ccc"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class ModelConfig:
    """Network of each stream; streams share no weights."""

    baseline: str = "own"  # own, basnet, acmnet or co2net: what CASE is added to
    hidden: int = 512  # width of both branches (paper, appendix B)
    joint: int = 2048  # width of the layers that see all streams at once; "own" has none
    kernel_size: int = 1  # snippets seen by the first layer of each branch; 1 judges every snippet alone, as the paper
    clusters: int = 16  # K; results are flat from 16 on (paper, figure 4)
    temperature: float = 10.0  # factor on cosines before each softmax, clusters and prototypes alike


@dataclass(frozen=True)
class LabelConfig:
    """How pseudo-labels are made; every departure of the released program from the paper is a setting here."""

    assignment: Literal["transport", "prediction"] = "transport"  # where labels come from (table 5)
    form: Literal["soft", "hard"] = "soft"  # hard keeps the largest of each row (table 5)
    epsilon: float = 0.05  # entropic strength on cosines
    max_iter: int = 1000  # Sinkhorn iterations at most; the released program stops after 3
    tol: float | None = 1e-3  # L1 error of the cluster sizes; None runs max_iter iterations whatever the error
    smoothing: int = 1  # snippets over which the cosines are averaged in time before labelling; 1 is the paper
    prior: Literal["rank", "attention", "none"] = "rank"  # what a snippet is compared by (paper, appendix C.3)
    rank: Literal["true", "released_argsort"] = "true"  # the released program takes an argsort for the rank
    sigma: float = 0.1  # width of the prior; 10 (released) does nothing on distances in [0, 1]
    order_preserving: bool = False  # divide the distance as Su and Hua do; then sigma is near 1
    prior_weight: float = 1.0  # strength of the KL to the prior, in units of epsilon
    cluster_marginal: Literal["empirical", "uniform"] = "empirical"  # eq. 13, or equipartition (table 6)
    initial_foreground: Literal["half", "one_over_k"] = "half"  # cluster foreground before the first iteration
    memory: Literal["last_batch", "ema"] = "last_batch"  # which cluster labels the prior and the test see
    class_epsilon: float = 1.0  # entropic strength of the snippet-level class labels, on log-probabilities
    ema_decay: float = 0.9  # share of the old cluster labels kept at each iteration with memory="ema"


@dataclass(frozen=True)
class LossConfig:
    """Weights and shapes of the four losses (eq. 14)."""

    components: Component = "scc_ccc"  # what is trained beside the baseline
    snippet_weight: float = 1.0  # lambda_S
    cluster_weight: float = 0.3  # lambda_C
    class_weight: float = 0.0  # weight of snippet-level class labels (ours, with "scc_ccc" only); 0 is CASE
    attention: bool = True  # train and use the attention branch; without it the class branch is alone (table 11)
    co_labels: Literal["all", "baseline", "none"] = "all"  # which pseudo-labels the streams share (table 12)
    gce_q: float = 0.7  # generalised cross-entropy of the attention: 0 is cross-entropy, 1 mean absolute error
    topk_ratio: int = 8  # r: a class's video score is the mean of its best T / r snippets
    warm_start_epochs: int = 0  # epochs with top-k by class activation alone; calibrated top-k collapses on some seeds


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation."""

    epochs: int = 300
    batch_size: int = 16
    learning_rate: float = 1e-4
    weight_decay: float = 5e-4
    snippets: int | None = 750  # snippets sampled from each recording; None takes all, padded to the longest of a batch
    checkpoint: Literal["last", "best_on_test"] = "last"  # the released program keeps the best on the test set
    device: Device = "auto"  # where to train; auto is CUDA if there is one
    stages: int = 1  # trainings in a row, with class labels (ours): each later one takes them from the one before
    seed: int = 0


@dataclass(frozen=True)
class InferenceConfig:
    """Test time."""

    foreground: Literal["attention", "clusters", "fused"] = "fused"  # whose foreground probability counts (table 7)
    # How class activation and foreground become one map; see RecordingScores.class_map.
    fusion: Literal["mean", "geometric", "class_activation"] = "mean"
    smoothing: int = 1  # snippets over which the class map is averaged in time; 1 is the paper
    protocol: str = "thumos14"  # name in evaluation.PROTOCOLS


@dataclass(frozen=True)
class CaseConfig:
    """A whole run."""

    recipe: str = "paper"  # paper, released or otlabel: where the settings start
    # watch, ninapro, inertial, thumos14, thumos14-212, activitynet12, activitynet13, or folder for your own
    dataset: str = "watch"
    root: str | None = None  # folder of the data set, for those that are not embedded
    model: ModelConfig = field(default_factory=ModelConfig)
    label: LabelConfig = field(default_factory=LabelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    proposal: ProposalConfig = field(default_factory=ProposalConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
