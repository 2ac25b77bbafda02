"""Pictures of recordings and of runs, as matplotlib figures."""

from examples.case_wtal.plots.clusters import ClusterSummary, draw_clusters, summarise_clusters
from examples.case_wtal.plots.embedding import cluster_foreground_of, draw_embedding, prototypes
from examples.case_wtal.plots.recording import draw_recording, plot_recording
from examples.case_wtal.plots.style import COLOURS, DPI, PIXELS
from examples.case_wtal.plots.training import draw_training, read_metrics

__all__ = [
    "COLOURS",
    "DPI",
    "PIXELS",
    "ClusterSummary",
    "cluster_foreground_of",
    "draw_clusters",
    "draw_embedding",
    "draw_recording",
    "draw_training",
    "plot_recording",
    "prototypes",
    "read_metrics",
    "summarise_clusters",
]
