"""An array that lies in a file as it would in memory: what .npy, .npz and .safetensors share."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, product
from typing import Protocol

import numpy as np

from fastxent.files.base import Box, ml_bfloat16
from fastxent.files.source import Buffers, Source


class Bytes(Protocol):
    """An array's bytes, by position."""

    def read_into(self, parts: Iterable[tuple[int, memoryview]]) -> None:
        """Fill each part's memory from its position; positions rise."""

    def view(self, position: int, n_bytes: int) -> np.ndarray | None:
        """The bytes without a copy, where there is a way; None: read them."""


class Stretch:
    """The bytes of a file from one of them on."""

    def __init__(self, source: Source, first: int) -> None:
        self._source, self._first = source, first

    def read_into(self, parts: Iterable[tuple[int, memoryview]]) -> None:
        """Fill each part's memory from its position."""
        self._source.read_into((self._first + at, memory) for at, memory in parts)

    def view(self, position: int, n_bytes: int) -> np.ndarray | None:
        """The bytes without a copy, where there is a way."""
        return self._source.view(self._first + position, n_bytes)


class StoredArray:
    """An array of numbers in a file, read box by box.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
        bfloat16 for the anonymous type of 2 bytes, V2, that np.save makes of ml_dtypes' bfloat16.
    grain : tuple of int
        Boxes may begin anywhere.
    """

    def __init__(self, data: Bytes, shape: tuple[int, ...], fortran: bool, stored: np.dtype) -> None:
        anonymous = stored.kind == "V" and stored.names is None and stored.itemsize == 2
        self.shape, self.dtype = shape, ml_bfloat16() if anonymous else stored
        self.grain = (1,) * len(shape)
        self._fortran, self._stored, self._data, self._buffers = fortran, stored, data, Buffers()

    def read(self, box: Box) -> np.ndarray:
        """The entries of a box."""
        shape = tuple(stop - start for start, stop in box)
        order = slice(None, None, -1 if self._fortran else 1)  # Fortran's order is C's for the transpose
        places = pieces(self.shape[order], box[order], self._stored.itemsize)
        some = list(islice(places, 2))
        data = self._data.view(*some[0]) if len(some) == 1 else None
        if data is None:
            data = self._buffers.take(math.prod(shape) * self._stored.itemsize)
            self._data.read_into(_parts(chain(some, places), data.data))
        array = data.view(self._stored).reshape(shape[order])
        return (array.T if self._fortran else array).view(self.dtype)


def pieces(shape: Sequence[int], box: Box, itemsize: int) -> Iterator[tuple[int, int]]:
    """(position, length) in bytes of the parts of a box that lie together, in an array in C order.

    Examples
    --------
    >>> list(pieces((4, 10), ((1, 3), (0, 10)), 1))
    [(10, 20)]
    >>> list(pieces((4, 10), ((1, 3), (2, 5)), 1))
    [(12, 3), (22, 3)]
    """
    strides = [itemsize * math.prod(shape[k + 1 :]) for k in range(len(shape))]
    cut = max((k for k, (start, stop) in enumerate(box) if (start, stop) != (0, shape[k])), default=0)
    start, stop = box[cut] if box else (0, 1)
    stride = strides[cut] if box else itemsize
    for outer in product(*(range(*ends) for ends in box[:cut])):
        position = sum(i * s for i, s in zip(outer, strides)) + start * stride
        if stop > start and stride:
            yield position, (stop - start) * stride


def _parts(places: Iterable[tuple[int, int]], memory: memoryview) -> Iterator[tuple[int, memoryview]]:
    at = 0
    for position, length in places:
        yield position, memory[at : at + length]
        at += length
