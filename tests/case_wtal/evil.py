"""A data set whose names try to leave their place in a page, and the report of a run on it."""

from dataclasses import replace

from examples.case_wtal.html_report import write_report
from examples.case_wtal.run import train
from tests.case_wtal.tiny import tiny_config, tiny_data

EVIL = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'> $a$ & \u2028 \"'"


def evil_data():
    """The made-up data set with such names for a class, a recording and its note."""
    data = tiny_data()
    rename = {"jump": EVIL, "throw": "throw", "turn": "$turn$ <b>"}

    def renamed(recording):
        return replace(
            recording,
            name=recording.name.replace("test/1", EVIL),
            segments=tuple(replace(s, label=rename[s.label]) for s in recording.segments),
            labels=tuple(rename[name] for name in recording.labels),
        )

    return replace(
        data,
        classes=tuple(rename.values()),
        train=tuple(map(renamed, data.train)),
        test=tuple(map(renamed, data.test)),
        note=EVIL,
    )


def evil_report(folder):
    """Train on it for a moment; path of the report, and the data."""
    data = evil_data()
    train(tiny_config(epochs=3), data, folder / "run", progress=False)
    return write_report(folder / "run", data, method="pca"), data
