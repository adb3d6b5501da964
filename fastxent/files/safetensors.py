"""Safetensors: a header of JSON, then the tensors' bytes.

The header is read here, with every check that the format asks for: the format's own library maps the file, so that a
file which shrinks would kill the process, and it reads no remote one.
"""

import json
import math
from typing import Any

import numpy as np

from fastxent.files.base import ArrayFile, ml_bfloat16
from fastxent.files.source import open_source
from fastxent.files.stored import StoredArray, Stretch

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BOOL": "?",
    "I8": "i1",
    "U8": "u1",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
}
_LONGEST_HEADER = 100_000_000  # the format's own limit


class Safetensors(ArrayFile):
    """A .safetensors file: tensors by name."""

    at_once = can_map = True

    def __init__(self, path: str) -> None:
        self.source = open_source(path)
        try:
            self._data, tensors = self._header()
            self._tensors = {name: _checked(name, facts) for name, facts in tensors.items()}
            at = 0
            for name, (_, _, begin, end) in sorted(self._tensors.items(), key=lambda item: item[1][2:]):
                if begin != at:
                    raise ValueError(f"tensor {name!r} begins at byte {begin} of the data, the one before ends at {at}")
                at = end
            if at != self.source.size - self._data:
                raise ValueError(f"it promises {at} bytes of data, {self.source.size - self._data} are there")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not a .safetensors, truncated or damaged ({str(error)[:160]})") from None
        self.names = list(tensors)

    def member(self, name: str) -> StoredArray:
        """One tensor."""
        code, shape, begin, _ = self._tensors[name]
        if code != "BF16" and code not in _DTYPES:
            raise ValueError(f"{self.path}[{name}]: dtype {code} is not supported")
        dtype = ml_bfloat16() if code == "BF16" else np.dtype(_DTYPES[code])
        return StoredArray(Stretch(self.source, self._data + begin), shape, False, dtype)

    def _header(self) -> tuple[int, dict[str, Any]]:
        """(position of the data, name -> facts)."""
        length = bytearray(8)
        if self.source.size < 8:
            raise ValueError("shorter than 8 bytes")
        self.source.read_into([(0, memoryview(length))])
        n = int.from_bytes(length, "little")
        if n > min(_LONGEST_HEADER, self.source.size - 8):
            raise ValueError(f"a header of {n} bytes in a file of {self.source.size}")
        text = bytearray(n)
        self.source.read_into([(8, memoryview(text))])
        header = json.loads(text.decode(), object_pairs_hook=_without_twins)
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        header.pop("__metadata__", None)
        return 8 + n, header


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return dict(pairs)


def _checked(name: str, facts: Any) -> tuple[str, tuple[int, ...], int, int]:
    """(dtype, shape, first byte, one past the last) of a tensor whose numbers agree with each other."""
    try:
        code, shape, (begin, end) = facts["dtype"], tuple(facts["shape"]), facts["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"tensor {name!r} lacks a dtype, a shape or two offsets") from None
    if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
        raise ValueError(f"tensor {name!r}: shape {list(shape)}, offsets {begin} to {end}; need whole numbers")
    itemsize = 2 if code == "BF16" else np.dtype(_DTYPES[code]).itemsize if code in _DTYPES else None
    if end < begin or (itemsize is not None and end - begin != itemsize * math.prod(shape)):
        raise ValueError(f"tensor {name!r}: {end - begin} bytes for {code} of shape {list(shape)}")
    return code, shape, begin, end
