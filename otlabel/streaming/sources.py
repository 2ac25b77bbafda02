"""Where rows of scores come from: anything that can be read again and again, block by block, in the same order."""

import math
import mmap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from otlabel.errors import require
from otlabel.kernel import threads

# Entries of a block: 34 MiB in float16. Allocations above 32 MiB go back to the system as soon as they are freed;
# smaller ones glibc would keep, more of them with every pass.
BLOCK_ENTRIES = 17 * 2**20
# Entries that are worked on together: few enough for the cache of each core, many enough to keep a GPU busy.
TILE_ENTRIES = 2**18
CUDA_TILE_ENTRIES = 2**24
# Rows that are read together where a sample is taken: neighbours on the disk.
SAMPLE_RUN = 64


class Blocks(ABC):
    """Rows of a matrix, read block by block as often as needed.

    Attributes:
        k: Number of columns.
        n: Number of rows; None until they were counted.
        name: What messages call the source.
        has_length: Whether the rows were known without counting them.
    """

    def __init__(self, k: int, n: int | None, name: str) -> None:
        self.k, self.n, self.name = k, n, name
        self.has_length = n is not None

    @abstractmethod
    def read(self) -> Iterator[Tensor]:
        """All rows, in blocks of any size."""

    def sample(self, count: int) -> Tensor:
        """About `count` rows, spread over the source where that can be had, else the first ones."""
        blocks, rows = [], 0
        for block in self.read():
            self.check(block, rows)
            blocks.append(block[: count - rows])
            rows += len(blocks[-1])
            if rows >= count:
                break
        self.require_rows(rows)
        return torch.cat(blocks)

    def __iter__(self) -> Iterator[Tensor]:
        """All rows, checked, the next block being read while one is worked on."""
        rows = 0
        for block in _ahead(self.read):
            self.check(block, rows)
            rows += len(block)
            if rows > (self.n or math.inf):
                break
            yield block
        self.count(rows)

    def check(self, block: Tensor, row: int) -> None:
        """Raise unless the block that starts at `row` is one of scores."""
        require(
            block.ndim == 2 and block.shape[1] == self.k > 0 and block.is_floating_point(),
            "`source` must give floating blocks of shape (rows, {}), got {} of {} after row {} of {}. Look at what it "
            "yields.",
            self.k or "k",
            tuple(block.shape),
            block.dtype,
            row,
            self.name,
        )

    def count(self, rows: int) -> None:
        """Raise if a pass saw other rows than those before it."""
        self.require_rows(rows)
        require(
            self.n in (None, rows),
            "`source` must give the same rows in each pass, got {} after {} from {}. A generator is read only once: "
            "pass a list, a loader, or an object whose `__iter__` starts anew.",
            rows,
            self.n,
            self.name,
        )
        self.n = rows

    def require_rows(self, rows: int) -> None:
        """Raise if there are none."""
        require(rows > 0, "`source` must not be empty, got no row from {}. Open it anew.", self.name)

    def check_values(self) -> None:
        """Raise if an entry is NaN or +inf; one more read."""
        row = 0
        for block in self:
            for tile in split(block):
                bad = ~(tile < torch.inf).all(dim=1)
                require(
                    not bool(bad.any()),
                    "`source` must hold no NaN and no +inf, got such an entry in row {} of {}. Find what made it; -inf "
                    "is allowed and forbids a label.",
                    row + int(bad.int().argmax()),
                    self.name,
                )
                row += len(tile)


class Sliced(Blocks):
    """An array on disk or in memory that is read by slices: memmap, HDF5, zarr, safetensors, tensor."""

    def __init__(self, data: Any, shape: tuple[int, ...], rows: int) -> None:
        super().__init__(int(shape[1]), int(shape[0]), _name_of(data))
        self.data, self.rows = data, rows

    def read(self) -> Iterator[Tensor]:
        """Slices from first to last."""
        assert self.n is not None  # noqa: S101 - for the type checker
        for start in range(0, self.n, self.rows):
            yield self._slice(start, min(start + self.rows, self.n))

    def sample(self, count: int) -> Tensor:
        """Short runs of rows, evenly spread."""
        assert self.n is not None  # noqa: S101 - for the type checker
        if count >= self.n:
            found = self._slice(0, self.n)
        else:
            runs = max(1, count // SAMPLE_RUN)
            starts = [run * (self.n - SAMPLE_RUN) // max(1, runs - 1) for run in range(runs)]
            parts = [self._slice(max(0, start), min(start + SAMPLE_RUN, self.n)) for start in starts]
            found = torch.cat(parts)[:count]
        self.check(found, 0)
        return found

    def _slice(self, start: int, stop: int) -> Tensor:
        try:
            rows = self.data[start:stop]
        except Exception as error:  # the libraries behind the formats share no class of errors
            raise OSError(
                f"`source` must be readable, got {type(error).__name__} ({error}) at rows {start} to {stop} of "
                f"{self.name}. Check that the file is whole."
            ) from error
        block = as_tensor(rows)
        _release(self.data)
        require(
            len(block) == stop - start,
            "`source` must hold its {} rows, got {} instead of {} from row {} on of {}. Check that the file is whole.",
            self.n,
            len(block),
            stop - start,
            start,
            self.name,
        )
        return block


class Iterated(Blocks):
    """Anything that yields blocks each time it is iterated over: a list, a `DataLoader`, a class of one's own."""

    def __init__(self, data: Iterable[Any]) -> None:
        self.data = data
        first = next(self.read(), None)
        super().__init__(_columns(first), None, _name_of(data))
        self.require_rows(first is not None)
        assert first is not None  # noqa: S101 - for the type checker
        self.check(first, 0)

    def read(self) -> Iterator[Tensor]:
        """The blocks as they come."""
        for item in self.data:
            # A loader of a data set with targets gives pairs, the scores first.
            yield as_tensor(item[0] if isinstance(item, list | tuple) and len(item) else item)


class Scored(Blocks):
    """Scores of features by a head, so that the matrix of scores never exists."""

    def __init__(self, features: Blocks, head: Callable[[Tensor], Tensor]) -> None:
        self.features, self.head = features, head
        first = self._scores(features.sample(1))
        super().__init__(_columns(first), features.n, f"scores of {features.name}")
        self.has_length = features.has_length
        self.check(first, 0)

    def read(self) -> Iterator[Tensor]:
        """The scores of each block of features, in blocks of their own size."""
        for block in self.features.read():
            for part in torch.split(block, max(1, BLOCK_ENTRIES // self.k)):
                yield self._scores(part)

    def sample(self, count: int) -> Tensor:
        """The scores of a sample of features."""
        found = self._scores(self.features.sample(count))
        self.check(found, 0)
        return found

    @torch.no_grad()
    def _scores(self, features: Tensor) -> Tensor:
        return self.head(features)


def as_blocks(source: Any, rows: int | None = None) -> Blocks:
    """The source as blocks; of `rows` rows where it leaves the choice.

    Args:
        source: Two-dimensional array that can be sliced (tensor, `numpy.memmap`, HDF5 or zarr data set, safetensors
            slice), map-style data set of rows, or re-iterable of blocks.
        rows: Rows to read at once; default 17 * 2**20 entries, 1024 rows of a map-style data set.

    Returns:
        The blocks.

    Raises:
        TypeError: If the source is none of these.
        ValueError: If an array has not two dimensions, a source is empty, or a loader shuffles.

    Example:
        >>> blocks = as_blocks(torch.zeros(10, 3), rows=4)
        >>> [tuple(block.shape) for block in blocks]
        [(4, 3), (4, 3), (2, 3)]
    """
    if isinstance(source, Blocks):
        return source
    shape = source.get_shape() if hasattr(source, "get_shape") else getattr(source, "shape", None)
    if shape is not None and hasattr(source, "__getitem__"):
        require(
            len(shape) == 2 and min(shape) > 0,
            "`source` must have shape (n, k) with n, k > 0, got {}. Open another data set of the file, or reshape it.",
            tuple(shape),
        )
        return Sliced(source, tuple(shape), rows or max(1, BLOCK_ENTRIES // shape[1]))
    require(
        not isinstance(getattr(source, "sampler", None), RandomSampler),
        "`source` must give its rows in the same order in each pass, got a {} that shuffles. Build it with "
        "shuffle=False.",
        type(source).__name__,
    )
    if not isinstance(source, str | Iterator) and not hasattr(source, "keys"):  # files of several arrays have keys
        if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, list | tuple):
            return Iterated(DataLoader(source, batch_size=rows or 1024))
        if isinstance(source, Iterable):
            return Iterated(source)
    raise TypeError(
        f"`source` must be an array with slices, a data set or a re-iterable of blocks, got {type(source).__name__}. "
        "Open files first (numpy.load with mmap_mode='r', h5py, zarr, safetensors) and name the array in them; a "
        "generator is read only once."
    )


def split(block: Tensor) -> tuple[Tensor, ...]:
    """Rows of a block, few enough at a time to stay in the cache."""
    entries = TILE_ENTRIES * threads() if block.is_cpu else CUDA_TILE_ENTRIES
    return torch.split(block, max(1, entries // block.shape[1]))


def as_tensor(value: Any) -> Tensor:
    """A block as a tensor; arrays are copied out of their file."""
    if isinstance(value, Tensor):
        return value.detach()
    kind: Any = getattr(value, "dtype", None)
    if not getattr(kind, "isnative", True):  # the byte order of the machine that wrote it
        value = value.astype(kind.newbyteorder("="))
    try:
        return torch.tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"`source` must give blocks of numbers, got {type(value).__name__} ({error}). Convert them to tensors."
        ) from error


def _columns(block: Tensor | None) -> int:
    return block.shape[1] if block is not None and block.ndim == 2 else 0


def _name_of(data: Any) -> str:
    paths = (getattr(data, "filename", None), getattr(getattr(data, "file", None), "filename", None))
    for path in (*paths, getattr(data, "store_path", None)):
        if path is not None:
            return str(path)
    return f"a {type(data).__name__}"


def _release(data: Any) -> None:
    """Give back the pages of a `numpy.memmap` that were read; until then they count as memory of this process."""
    pages, advice = getattr(data, "_mmap", None), getattr(mmap, "MADV_DONTNEED", None)
    # Of a copy-on-write map the changes would be lost.
    if pages is not None and advice is not None and getattr(data, "mode", "c") != "c":
        pages.madvise(advice)


def _ahead(read: Callable[[], Iterator[Tensor]]) -> Iterator[Tensor]:
    """What `read` yields, read by another thread one block ahead; its errors are raised here."""
    with ThreadPoolExecutor(1, "otlabel-read", torch.set_grad_enabled, (False,)) as reader:
        blocks = read()
        coming = reader.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = reader.submit(next, blocks, None)
            yield block
