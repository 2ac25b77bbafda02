"""New memory for large tensors: what is asked of Linux, and that nothing else changes."""

import sys
from pathlib import Path

import pytest
import torch

from otlabel import Sinkhorn, pages, sinkhorn_label
from otlabel.pages import LARGE_BYTES, empty
from tests.otlabel.helpers import rand

CPU = torch.device("cpu")
ENTRIES = LARGE_BYTES // 4


def flags(value: torch.Tensor) -> list[str]:
    """Flags of the mapping that the middle of a tensor lies in."""
    address, inside = value.data_ptr() + value.numel() * value.element_size() // 2, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()
        if "-" in head[0] and not head[0].endswith(":"):
            low, high = (int(end, 16) for end in head[0].split("-"))
            inside = low <= address < high
        elif inside and head[0] == "VmFlags:":
            return head[1:]
    raise AssertionError("no mapping holds the tensor")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked for large pages")
def test_large_memory_is_asked_to_come_in_large_pages():
    # More than the allocator ever keeps, so that the mapping is new, and the one without is not that of another.
    shape = torch.Size([40, ENTRIES])
    assert "hg" in flags(empty(shape, torch.float32, CPU))
    assert "hg" not in flags(torch.empty(shape, dtype=torch.float32))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked for large pages")
def test_labels_of_a_large_problem_come_in_large_pages():
    scores = rand(12 * 2**10, 2**10, dtype=torch.float32)
    result = sinkhorn_label(scores, solver=Sinkhorn(max_iter=1, tol=None))
    assert "hg" in flags(result.labels)


@pytest.mark.parametrize(("entries", "asked"), [(ENTRIES - 1, 0), (ENTRIES, 1), (2 * ENTRIES, 1)])
def test_only_whole_pages_inside_the_tensor_are_asked_for(entries, asked, monkeypatch):
    calls: list[tuple[int, int, int]] = []
    monkeypatch.setattr(pages, "_advise", lambda: lambda *call: calls.append(call))
    value = empty(torch.Size([entries]), torch.float32, CPU)
    assert (value.shape, value.dtype, value.device) == ((entries,), torch.float32, CPU)
    assert len(calls) == asked
    for start, size, advice in calls:
        assert advice == pages.MADV_HUGEPAGE
        assert start % pages.mmap.PAGESIZE == size % pages.mmap.PAGESIZE == 0
        end = value.data_ptr() + 4 * entries
        assert value.data_ptr() <= start < value.data_ptr() + pages.mmap.PAGESIZE
        assert end - pages.mmap.PAGESIZE < start + size <= end


def test_other_systems_are_not_asked(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert pages._advise.__wrapped__() is None
    monkeypatch.setattr(pages, "_advise", lambda: None)
    assert empty(torch.Size([ENTRIES]), torch.float32, CPU).fill_(1.0).sum() == ENTRIES


def test_nothing_is_asked_for_memory_elsewhere(monkeypatch):
    monkeypatch.setattr(pages, "_advise", lambda: pytest.fail("asked"))
    assert empty(torch.Size([ENTRIES]), torch.float64, torch.device("meta")).is_meta
