"""Peak extra memory of a call, as torch's allocators see it."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """The most bytes allocated at once during the call, its result included, beyond what was held before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    # The profiler records every allocation and release of the CPU allocator, also those inside an operator.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        kept = call()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()  # negative for a release
        peak = max(peak, held)
    del kept
    return peak
