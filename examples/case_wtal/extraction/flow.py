"""Dense optical flow between two frames.

The algorithm is DIS with OpenCV's preset "medium" (Kroeger et al., ECCV 2016, arXiv 1603.03590). The published features
were made with TV-L1, which OpenCV keeps outside its main modules, so flow features differ from published ones: extract
training and test recordings with the same program.
"""

import numpy as np

LIMIT = 20.0
"""Displacements are cut to [-20, 20] pixels, as Carreira and Zisserman do."""

ALGORITHM = "DIS (OpenCV, preset medium)"


def to_grey(frame: np.ndarray) -> np.ndarray:
    """RGB (H, W, 3) -> luma (H, W), uint8."""
    import cv2

    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def dense_flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where each pixel goes.

    Args:
        before: Luma, uint8, shape (H, W).
        after: The next frame.

    Returns:
        Pixels to the right and pixels downwards, float32, shape (H, W, 2).
    """
    import cv2

    if min(before.shape) < 16:  # DIS compares patches on a pyramid, which needs some pixels
        raise ValueError(f"`before` must have at least 16 pixels a side, got {before.shape}. Use larger frames.")
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = method.calc(before, after, None)  # type: ignore[call-overload]  # None is allowed: no flow to start from
    return np.asarray(flow, dtype=np.float32)


def scale_flow(flow: np.ndarray) -> np.ndarray:
    """Pixels -> [-1, 1], float32: what the network sees."""
    return np.clip(flow, -LIMIT, LIMIT).astype(np.float32) / np.float32(LIMIT)


def scale_rgb(frames: np.ndarray) -> np.ndarray:
    """0..255 -> [-1, 1], float32: what the network sees."""
    return frames.astype(np.float32) / np.float32(127.5) - 1
