"""Every way to balance labels that is measured, in the order of the tables; otlabel's default comes first."""

from benchmarks.contenders.base import Ask, Contender
from benchmarks.contenders.geometric import GeomLoss
from benchmarks.contenders.loops import NaiveLog, Swav
from benchmarks.contenders.mdot import Mdot, MdotDefault
from benchmarks.contenders.ott_jax import OttJax
from benchmarks.contenders.ours import Otlabel
from benchmarks.contenders.pot import PotBatch, PotNumpy, PotTorch
from benchmarks.contenders.reg_ot import RegOt

__all__ = ["ALL", "DEFAULT", "Ask", "Contender"]

DEFAULT = Otlabel("otlabel")

ALL: tuple[Contender, ...] = (
    DEFAULT,
    Otlabel("otlabel Newton"),
    Otlabel("otlabel Anderson"),
    Otlabel("otlabel Sinkhorn"),
    Swav("SwAV loop", folded=False),
    Swav("SwAV loop, folded", folded=True),
    NaiveLog(),
    PotNumpy("sinkhorn"),
    PotNumpy("sinkhorn_log"),
    PotNumpy("sinkhorn_stabilized"),
    PotTorch("sinkhorn"),
    PotTorch("sinkhorn_log"),
    PotTorch("sinkhorn_stabilized"),
    PotBatch("sinkhorn"),
    PotBatch("log_sinkhorn"),
    OttJax("OTT"),
    OttJax("OTT momentum 1.3"),
    OttJax("OTT Anderson 5"),
    GeomLoss(),
    Mdot(),
    MdotDefault(),
    RegOt("SSNS"),
    RegOt("SPLR"),
)
