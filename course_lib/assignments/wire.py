"""The closed set of values that cross between a student's process and the grader: no pickle, no eval.

A message is a length, a JSON header and blobs: `{"v": tree, "b": [bytes of each blob]}`. Plain JSON stands for None,
bool, int, float, str and list; everything else is `{"t": tag, ...}`. Only *exact* types cross as values: an `int`
subclass or a student's object becomes a handle, a number that its owner can look up, and nothing else.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable

import numpy as np

DEEPEST = 40  # containers in containers
LARGEST = 256 * 2**20  # bytes of one message
LARGEST_HEADER = 32 * 2**20  # bytes of its JSON, which needs many times as much memory when it is read
_DTYPES = "biufcSUmM"  # NumPy kinds that are plain bytes: no objects, no structures
_BITS = {  # generators: their states are numbers
    name: getattr(np.random, name) for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
}


class WireError(ValueError):
    """A message that cannot be read, or a value that has no place in one."""


Keep = Callable[[object], dict]  # what to write for a value that does not cross; raises WireError to refuse it
Find = Callable[[dict], object]  # what that stands for on the other side


def encode(value: object, keep: Keep | None = None, tensor: Callable | None = None) -> bytes:
    """A value as bytes.

    Args:
        value: what is sent.
        keep: called with each object that cannot cross; returns the fields of a handle.
        tensor: called with each torch tensor; returns more fields for it (gradients).

    Raises:
        WireError: an object cannot cross and there is no `keep`, it is nested too deep or is too large.
    """
    writer = _Writer(keep or _refuse, tensor or (lambda found: {}))
    tree = writer.write(value, 0)
    try:
        header = json.dumps({"v": tree, "b": [len(blob) for blob in writer.blobs]}).encode()
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits
        raise WireError(f"a value cannot be written ({error}).") from None
    message = b"".join([len(header).to_bytes(4, "big"), header, *writer.blobs])
    if len(message) > LARGEST or len(header) > LARGEST_HEADER:
        raise WireError(f"a value of {len(message) / 2**20:.0f} MiB is too large to be handed over.")
    return message


def decode(message: bytes, find: Find | None = None, tensor: Callable | None = None) -> object:
    """The value of a message.

    Args:
        message: bytes that may come from anybody.
        find: called with the fields of each handle.
        tensor: called with each torch tensor and its extra fields; returns the tensor to use.

    Raises:
        WireError: the bytes are no such message, or hold a handle and there is no `find`.
    """
    try:
        size = int.from_bytes(message[:4], "big")
        if size > LARGEST_HEADER:
            raise WireError("its header is too long.")
        header = json.loads(message[4 : 4 + size])
        sizes = header["b"]
        blobs, start = [], 4 + size
        for length in sizes:
            if type(length) is not int or length < 0:
                raise WireError("a length is no length.")
            blobs.append(memoryview(message)[start : start + length])
            start += length
        if len(message) > LARGEST or start != len(message):
            raise WireError("its length is wrong.")
        return _Reader(blobs, find or _refuse, tensor or (lambda found, fields: found)).read(header["v"], 0)
    except WireError:
        raise
    except RecursionError:
        raise WireError("it is nested too deep.") from None
    except Exception as error:  # JSON, NumPy, torch and pandas raise their own types for damaged bytes
        raise WireError(f"it cannot be read ({type(error).__name__}: {str(error)[:200]}).") from None


def _refuse(value: object) -> dict:
    raise WireError(f"an object of type {type(value).__name__} cannot cross between the processes.")


class _Writer:
    """Turns a value into a tree of JSON and a list of blobs."""

    def __init__(self, keep: Keep, tensor: Callable):
        self.keep, self.tensor, self.blobs = keep, tensor, []

    def write(self, value: object, depth: int) -> object:
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if depth > DEEPEST:
            return self._handle(value)
        below = depth + 1
        if kind is list:
            return [self.write(item, below) for item in value]
        if kind in (tuple, set, frozenset):
            return {"t": kind.__name__, "v": [self.write(item, below) for item in value]}
        if kind is dict:
            return {"t": "dict", "v": [[self.write(k, below), self.write(v, below)] for k, v in value.items()]}
        fields = self._simple(value, below) or self._array(value) or self._torch(value, below)
        fields = fields or self._pandas(value, below)
        return fields or self._handle(value)

    def _handle(self, value: object) -> dict:
        return {"t": "handle", **self.keep(value)}

    def _blob(self, content: bytes) -> int:
        self.blobs.append(content)
        return len(self.blobs) - 1

    def _simple(self, value: object, depth: int) -> dict | None:
        kind = type(value)
        if kind in (bytes, bytearray):
            return {"t": "bytes", "b": self._blob(bytes(value))}
        if kind is complex:
            return {"t": "complex", "v": [value.real, value.imag]}
        if kind in (slice, range):
            return {
                "t": kind.__name__,
                "v": [self.write(part, depth) for part in (value.start, value.stop, value.step)],
            }
        if value is Ellipsis:
            return {"t": "ellipsis"}
        if isinstance(value, np.random.Generator) and type(value.bit_generator).__name__ in _BITS:
            return {"t": "generator", "v": self.write(value.bit_generator.state, depth)}
        return None

    def _array(self, value: object) -> dict | None:
        if isinstance(value, np.dtype) and value.kind in _DTYPES:
            return {"t": "dtype", "v": value.str}
        if isinstance(value, np.ma.MaskedArray) or not isinstance(value, (np.ndarray, np.generic)):
            return None
        array = np.asarray(value)  # a subclass becomes a plain array
        if array.dtype.kind not in _DTYPES:
            return None
        fields = {"d": array.dtype.str, "s": list(array.shape), "b": self._blob(array.tobytes())}
        return {"t": "array" if isinstance(value, np.ndarray) else "scalar"} | fields

    def _torch(self, value: object, depth: int) -> dict | None:
        torch = sys.modules.get("torch")
        if torch is None:
            return None
        if isinstance(value, torch.Size):
            return {"t": "size", "v": list(value)}
        if isinstance(value, (torch.dtype, torch.device)):
            return {"t": "torch", "v": str(value)}
        if isinstance(value, torch.Generator):
            return {"t": "torch_generator", "v": self.write(value.get_state(), depth)}
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.is_quantized:
            return None
        if value.device.type == "meta":
            return None
        plain = value.detach().as_subclass(torch.Tensor).cpu()
        flat = torch.empty(plain.numel(), dtype=plain.dtype).copy_(
            plain.reshape(-1)
        )  # own memory, whatever its strides
        content = flat.view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        fields = {"d": str(plain.dtype).removeprefix("torch."), "s": list(plain.shape), "b": self._blob(content)}
        return {"t": "tensor"} | fields | self.tensor(value)

    def _pandas(self, value: object, depth: int) -> dict | None:
        pandas = sys.modules.get("pandas")
        if pandas is None:
            return None
        if type(value) is pandas.DataFrame:
            columns = [self._column(value.iloc[:, i], depth) for i in range(value.shape[1])]
            names = self._index(value.columns, depth)
            return {"t": "frame", "c": columns, "n": names, "i": self._index(value.index, depth)}
        if type(value) is pandas.Series:
            return {"t": "series", "c": self._column(value, depth), "n": self.write(value.name, depth)} | {
                "i": self._index(value.index, depth)
            }
        return self._index(value, depth) if isinstance(value, pandas.Index) else None

    def _column(self, series: object, depth: int) -> dict:
        """A column: its bytes, or its values one by one with the name of their type."""
        if isinstance(series.dtype, np.dtype) and series.dtype.kind in _DTYPES:
            return {"v": self.write(series.to_numpy(), depth), "d": None}
        name = str(series.dtype)
        plain = name if name in ("str", "string", "object", "boolean", "Int64", "Float64", "category") else "object"
        values = [None if item is _missing() else item for item in series.tolist()]
        return {"v": self.write(values, depth), "d": plain}

    def _index(self, index: object, depth: int) -> dict:
        pandas = sys.modules["pandas"]
        if isinstance(index, pandas.RangeIndex):
            values, kind = self.write(range(index.start, index.stop, index.step), depth), "range"
        elif isinstance(index, pandas.MultiIndex):
            values, kind = self.write(index.tolist(), depth), "multi"
        else:
            column = self._column(index.to_series(), depth)
            values, kind = column["v"], column["d"]
        return {"t": "index", "v": values, "d": kind, "n": self.write(list(index.names), depth)}


class _Reader:
    """Turns a tree and its blobs into a value again."""

    def __init__(self, blobs: list, find: Find, tensor: Callable):
        self.blobs, self.find, self.tensor = blobs, find, tensor

    def read(self, tree: object, depth: int) -> object:
        if depth > 3 * DEEPEST:
            raise WireError("it is nested too deep.")
        if tree is None or type(tree) in (bool, int, float, str):
            return tree
        if type(tree) is list:
            return [self.read(item, depth + 1) for item in tree]
        tag = tree["t"]
        if tag == "handle":
            return self.find(tree)
        reader = _READERS.get(tag)
        if reader is None:
            raise WireError(f"there is no kind of value called {str(tag)[:40]!r}.")
        return reader(self, tree, depth + 1)

    def items(self, tree: dict, depth: int) -> list:
        if type(tree["v"]) is not list:
            raise WireError("a container without its items.")
        return [self.read(item, depth) for item in tree["v"]]

    def pairs(self, tree: dict, depth: int) -> dict:
        return {self.read(key, depth): self.read(value, depth) for key, value in tree["v"]}

    def array(self, tree: dict, depth: int) -> np.ndarray:
        dtype = np.dtype(str(tree["d"]))
        if dtype.kind not in _DTYPES:
            raise WireError("an array of objects.")
        shape = _shape(tree)
        blob = self.blobs[_index(tree["b"])]
        if math.prod(shape) * dtype.itemsize != len(blob):
            raise WireError("an array whose bytes do not fit its shape.")
        return np.frombuffer(bytearray(blob), dtype).reshape(shape) if len(blob) else np.empty(shape, dtype)

    def scalar(self, tree: dict, depth: int) -> np.generic:
        return self.array(tree, depth)[()]

    def torch_tensor(self, tree: dict, depth: int) -> object:
        import torch

        dtype = getattr(torch, str(tree["d"]), None)
        if not isinstance(dtype, torch.dtype):
            raise WireError("a tensor of an unknown type.")
        shape, blob = _shape(tree), self.blobs[_index(tree["b"])]
        if math.prod(shape) * dtype.itemsize != len(blob):
            raise WireError("a tensor whose bytes do not fit its shape.")
        flat = torch.frombuffer(bytearray(blob), dtype=torch.uint8).view(dtype) if len(blob) else None
        plain = torch.empty(shape, dtype=dtype) if flat is None else flat.reshape(shape)
        return self.tensor(plain, tree)

    def torch_name(self, tree: dict, depth: int) -> object:
        import torch

        name = str(tree["v"])
        if name.startswith("torch."):
            dtype = getattr(torch, name.removeprefix("torch."), None)
            if isinstance(dtype, torch.dtype):
                return dtype
            raise WireError("an unknown type of tensors.")
        return torch.device(name)

    def size(self, tree: dict, depth: int) -> object:
        import torch

        return torch.Size(self.items(tree, depth))

    def generator(self, tree: dict, depth: int) -> np.random.Generator:
        state = self.read(tree["v"], depth)
        bits = _BITS[state["bit_generator"]](0)
        bits.state = state
        return np.random.Generator(bits)

    def torch_generator(self, tree: dict, depth: int) -> object:
        import torch

        made = torch.Generator()
        made.set_state(self.read(tree["v"], depth))
        return made

    def column(self, tree: dict, depth: int) -> object:
        values = self.read(tree["v"], depth)
        if tree["d"] is None:
            return values
        import pandas

        return (
            pandas.array(values, dtype=str(tree["d"]))
            if tree["d"] != "object"
            else np.array([*values, None], object)[:-1]
        )

    def index(self, tree: dict, depth: int) -> object:
        import pandas

        names = self.read(tree["n"], depth)
        if tree["d"] == "range":
            return pandas.RangeIndex(self.read(tree["v"], depth), name=names[0])
        if tree["d"] == "multi":
            return pandas.MultiIndex.from_tuples(self.read(tree["v"], depth), names=names)
        return pandas.Index(self.column(tree, depth), name=names[0])

    def series(self, tree: dict, depth: int) -> object:
        import pandas

        return pandas.Series(
            self.column(tree["c"], depth), index=self.index(tree["i"], depth), name=self.read(tree["n"], depth)
        )

    def frame(self, tree: dict, depth: int) -> object:
        import pandas

        index = self.index(tree["i"], depth)
        columns = {i: pandas.Series(self.column(each, depth), index=index) for i, each in enumerate(tree["c"])}
        made = pandas.DataFrame(columns, index=index)
        made.columns = self.index(tree["n"], depth)
        return made


_READERS: dict[str, Callable] = {
    "tuple": lambda reader, tree, depth: tuple(reader.items(tree, depth)),
    "set": lambda reader, tree, depth: set(reader.items(tree, depth)),
    "frozenset": lambda reader, tree, depth: frozenset(reader.items(tree, depth)),
    "dict": _Reader.pairs,
    "bytes": lambda reader, tree, depth: bytes(reader.blobs[_index(tree["b"])]),
    "complex": lambda reader, tree, depth: complex(*map(float, tree["v"])),
    "slice": lambda reader, tree, depth: slice(*reader.items(tree, depth)),
    "range": lambda reader, tree, depth: range(*reader.items(tree, depth)),
    "ellipsis": lambda reader, tree, depth: ...,
    "dtype": lambda reader, tree, depth: np.dtype(str(tree["v"])),
    "array": _Reader.array,
    "scalar": _Reader.scalar,
    "tensor": _Reader.torch_tensor,
    "torch": _Reader.torch_name,
    "size": _Reader.size,
    "generator": _Reader.generator,
    "torch_generator": _Reader.torch_generator,
    "index": _Reader.index,
    "series": _Reader.series,
    "frame": _Reader.frame,
}


def _shape(tree: dict) -> list[int]:
    shape = tree["s"]
    if type(shape) is not list or not all(type(size) is int and size >= 0 for size in shape):
        raise WireError("a shape is no shape.")
    return shape


def _index(value: object) -> int:
    if type(value) is not int or value < 0:
        raise WireError("a blob that is not there.")
    return value


def _missing() -> object:
    import pandas

    return pandas.NA
