"""New memory for large tensors, in large pages."""

import ctypes
import mmap
import sys
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

# Of smaller pieces of memory the allocator keeps most, and hands them out again.
LARGE_BYTES = 2**24
MADV_HUGEPAGE = 14


def empty(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised tensor; where it is large, Linux is asked for large pages.

    To fetch 200,000 x 100 floats page by page of 4 KiB takes longer than to fill them. NumPy asks the same.
    """
    value = torch.empty(shape, dtype=dtype, device=device)
    size = value.numel() * value.element_size()
    if size < LARGE_BYTES or not value.is_cpu or torch.compiler.is_compiling():
        return value
    if (advise := _advise()) is not None:
        start = -(-value.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        advise(start, (value.data_ptr() + size - start) // mmap.PAGESIZE * mmap.PAGESIZE, MADV_HUGEPAGE)
    return value


@cache
def _advise() -> Callable[[int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    advise = ctypes.CDLL(None).madvise
    advise.argtypes, advise.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
    return advise
