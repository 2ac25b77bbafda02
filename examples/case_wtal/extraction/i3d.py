"""I3D: Inception-v1 with its kernels inflated in time (Carreira and Zisserman, CVPR 2017, arXiv 1705.07750).

The classifier is left out: features are what its average pooling hands on. Modules carry the names of the weight files
that circulate for torch (see `weights`), so these load as they are.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FRAMES = 16
WIDTH = 1024
CHANNELS = {"rgb": 3, "flow": 2}
"""Stream -> channels of its network: red, green, blue; displacement to the right, displacement downwards."""

Size = tuple[int, int, int]

MIXED: dict[str, tuple[int, int, int, int, int, int]] = {
    # 1x1x1 | 1x1x1 then 3x3x3 | 1x1x1 then 3x3x3 | pooled, then 1x1x1 (Inception-v1's 5x5 is 3x3x3 here)
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
"""Output channels of the convolutions in each Inception module."""


class I3D(nn.Module):
    """Clips to features.

    Args:
        channels: 3 for RGB, 2 for flow.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(channels, 64, (7, 7, 7), (2, 2, 2))
        self.Conv3d_2b_1x1 = Unit(64, 64, (1, 1, 1))
        self.Conv3d_2c_3x3 = Unit(64, 192, (3, 3, 3))
        width = 192
        for name, widths in MIXED.items():
            self.add_module(f"Mixed_{name}", Mixed(width, widths))
            width = widths[0] + widths[2] + widths[4] + widths[5]

    def forward(self, clips: Tensor) -> Tensor:
        """Mean of the last feature map over time and space.

        Args:
            clips: Values in [-1, 1], shape (B, channels, frames, height, width).

        Returns:
            Shape (B, 1024).
        """
        maps = max_pool(self.Conv3d_1a_7x7(clips), (1, 3, 3), (1, 2, 2))
        maps = max_pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(maps)), (1, 3, 3), (1, 2, 2))
        for name in MIXED:
            if name == "4b":
                maps = max_pool(maps, (3, 3, 3), (2, 2, 2))
            elif name == "5b":
                maps = max_pool(maps, (2, 2, 2), (2, 2, 2))
            maps = self.get_submodule(f"Mixed_{name}")(maps)
        return maps.mean(dim=(2, 3, 4))


class Unit(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, before: int, after: int, kernel: Size, stride: Size = (1, 1, 1)) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(before, after, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(after, eps=1e-3)
        self.kernel, self.stride = kernel, stride

    def forward(self, maps: Tensor) -> Tensor:
        """(B, before, T, H, W) -> (B, after, T / stride, ...), rounded up."""
        return torch.relu(self.bn(self.conv3d(pad_same(maps, self.kernel, self.stride))))


class Mixed(nn.Module):
    """Inception module: four branches over the same map, their channels side by side."""

    def __init__(self, before: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, three = (1, 1, 1), (3, 3, 3)
        self.b0 = Unit(before, widths[0], one)
        self.b1a, self.b1b = Unit(before, widths[1], one), Unit(widths[1], widths[2], three)
        self.b2a, self.b2b = Unit(before, widths[3], one), Unit(widths[3], widths[4], three)
        self.b3b = Unit(before, widths[5], one)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, before, T, H, W) -> (B, sum of the branches, T, H, W)."""
        pooled = max_pool(maps, (3, 3, 3), (1, 1, 1))
        branches = (self.b0(maps), self.b1b(self.b1a(maps)), self.b2b(self.b2a(maps)), self.b3b(pooled))
        return torch.cat(branches, dim=1)


def max_pool(maps: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Maximum over windows, `pad_same` before; the zeros do not matter to maps that come out of a ReLU."""
    return F.max_pool3d(pad_same(maps, kernel, stride), kernel, stride)


def pad_same(maps: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Zeros around the map so that there are ceil(size / stride) windows, an odd one out behind.

    The published weights were trained with this padding. It depends on the size, and a constant `padding` would shift
    the windows by one.
    """
    pads: list[int] = []
    for size, k, s in zip(reversed(maps.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(maps, pads) if any(pads) else maps
