"""The command `extract`."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import tyro

from examples.case_wtal.commands.common import say
from examples.case_wtal.config import Device


@dataclass(frozen=True)
class Extract:
    """Make I3D features of videos, in the layout that `predict` reads. Needs the optional dependencies `video`.

    Videos that have features already are skipped, so a second call goes on; a broken video stops no other.
    """

    videos: tyro.conf.Positional[tuple[Path, ...]]  # video files, or folders of them
    rgb_weights: Path | None = None  # state dict of I3D on RGB (rgb_imagenet.pt of pytorch-i3d)
    flow_weights: Path | None = None  # state dict of I3D on flow (flow_imagenet.pt of pytorch-i3d)
    out: Path = Path("features")  # receives rgb/<name>.npy and flow/<name>.npy
    batch_size: int = 4  # snippets that the network sees at once: memory and speed only
    device: Device = "auto"  # where to run the network; auto is CUDA if there is one

    def run(self) -> None:
        """Extract, say what became of each video, and complain at the end about those that failed."""
        for package, module in (("PyAV", "av"), ("OpenCV", "cv2")):
            if find_spec(module) is None:
                raise ValueError(
                    f"`extract` must have {package} to read videos, got none installed. Install the extra `video`: "
                    "pip install 'otlabel[examples,video]'."
                )
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        from examples.case_wtal.device import torch_device
        from examples.case_wtal.extraction.extract import extract_videos
        from examples.case_wtal.extraction.flow import ALGORITHM
        from examples.case_wtal.extraction.video import find_videos
        from examples.case_wtal.extraction.weights import fingerprint, load_i3d

        paths = {"rgb": self.rgb_weights, "flow": self.flow_weights}
        given = {stream: path for stream, path in paths.items() if path is not None}
        if not given:
            raise ValueError(
                "`rgb_weights` or `flow_weights` must be given, got neither. Weights are not part of this program: "
                "see the page on own recordings."
            )
        if not self.videos:
            raise ValueError("`videos` must be video files or folders of them, got nothing. Name some.")
        videos = find_videos(self.videos)
        device = torch_device(self.device)
        networks = {stream: load_i3d(path, stream).to(device) for stream, path in given.items()}
        columns = (TextColumn("{task.description:<32}"), BarColumn(bar_width=14), MofNCompleteColumn())
        with Progress(*columns, TextColumn("videos"), TimeElapsedColumn()) as bar:
            task = bar.add_task("", total=len(videos))
            order = list(videos)
            result = extract_videos(
                videos,
                networks,
                self.out,
                weights={stream: fingerprint(path) for stream, path in given.items()},
                batch_size=self.batch_size,
                report=lambda name, snippets: bar.update(
                    task, description=f"{name[:18]}, snippet {snippets}", completed=order.index(name)
                ),
            )
            bar.update(task, description="", completed=len(videos))
        say(
            f"{len(result.written)} videos written to {self.out} ({sum(result.written.values())} snippets of 0.64 s), "
            f"{len(result.skipped)} were there, {len(result.failures)} failed."
        )
        if "flow" in given:
            say(f"Flow: {ALGORITHM}. Published features used TV-L1, so their values differ.")
        if result.failures:
            listed = "".join(f"\n  {name}: {reason}" for name, reason in result.failures.items())
            raise ValueError(
                f"`videos` must all be readable, got {len(result.failures)} of {len(videos)} that are not:{listed}\n"
                "The others are done. Repair these and run the same command again."
            )
