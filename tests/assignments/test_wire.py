from __future__ import annotations

import json
import math
import random

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from course_lib.assignments import wire
from course_lib.assignments.wire import WireError, decode, encode

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.complex_numbers()
    | st.just(...)
    | st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 5))
)
keys = st.none() | st.booleans() | st.integers() | st.text() | st.tuples(st.integers(), st.text())
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(keys, inner)
        | st.sets(keys)
        | st.frozensets(keys)
    ),
    max_leaves=20,
)
dtypes = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes()
    | hnp.floating_dtypes(sizes=(16, 32, 64))
    | hnp.complex_number_dtypes(sizes=(64, 128))
    | hnp.unicode_string_dtypes(max_len=5)
    | hnp.datetime64_dtypes()
)


def same(one: object, other: object) -> bool:
    """Equal in value and in type, all the way down; NaN equals NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (set, frozenset)):
        return one == other
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return repr(one) == repr(other)


@settings(deadline=None)
@given(values)
def test_plain_values_come_back_as_they_were(value):
    assert same(decode(encode(value)), value)


@settings(deadline=None)
@given(dtypes.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0))))
def test_arrays_come_back_bit_by_bit(array):
    back = decode(encode(array))
    assert type(back) is np.ndarray and back.dtype == array.dtype and back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    back[...] = back  # its memory is its own


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int8, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 4)])
def test_tensors_come_back(dtype, shape):
    tensor = torch.randn(shape).to(dtype)
    back = decode(encode(tensor))
    assert back.dtype == dtype and back.shape == tensor.shape and torch.equal(back, tensor)
    assert torch.equal(decode(encode(tensor.T if tensor.ndim == 2 else tensor)), tensor)


def test_tensors_of_all_strides_come_back():
    for tensor in (torch.ones(()).expand(1), torch.ones(()).expand(2, 3), torch.arange(6)[::2], torch.randn(2, 3).T):
        assert torch.equal(decode(encode(tensor)), tensor)
    turned = torch.tensor([1 + 2j]).conj()
    assert torch.equal(decode(encode(turned)), turned.resolve_conj())


@pytest.mark.parametrize(
    "value",
    [np.float32(1.5), np.int64(3), np.bool_(True), np.str_("x"), np.dtype("f4"), torch.float16, torch.device("cpu")]
    + [torch.Size([2, 3]), slice(1, None, 2), 2**300, -0.0, float("inf"), "\ud800 lone"],
)
def test_small_things_come_back(value):
    back = decode(encode(value))
    assert type(back) is type(value) and back == value


FRAMES = [
    pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [True, False]}, index=["p", "q"]),
    pd.DataFrame({"kind": pd.Categorical(["u", "v"]), "day": pd.to_datetime(["2020-01-01", "2021-05-05"])}),
    pd.DataFrame({"m": pd.Series([1, None], dtype="Int64"), "o": [(1, 2), "x"]}),
    pd.DataFrame(),
    pd.DataFrame(np.eye(2), columns=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["k", None])),
    pd.DataFrame([[1, 2]], columns=["twice", "twice"]),
]


@pytest.mark.parametrize("frame", FRAMES)
def test_frames_come_back(frame):
    pd.testing.assert_frame_equal(decode(encode(frame)), frame, check_categorical=False)


def test_series_and_indices_come_back():
    series = pd.Series([1.0, np.nan], index=pd.Index([3, 4], name="row"), name="z")
    pd.testing.assert_series_equal(decode(encode(series)), series)
    pd.testing.assert_index_equal(decode(encode(series.index)), series.index)


def test_generators_go_on_where_they_were():
    ours, theirs = np.random.default_rng(3), torch.Generator().manual_seed(4)
    ours.random(5)
    there, torch_there = decode(encode([ours, theirs]))
    assert there.random(3).tolist() == ours.random(3).tolist()
    assert torch.equal(torch.rand(3, generator=torch_there), torch.rand(3, generator=theirs))


class Plain:
    pass


class Liar(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


class MyList(list):
    pass


class MyText(str):
    pass


@pytest.mark.parametrize(
    "value",
    [
        MyList([1]),
        MyText("x"),
        type("D", (dict,), {})(),
        type("F", (float,), {})(1.0),
        Plain(),
        Plain,
        len,
        lambda: 1,
        Liar(3),
        json,
        np.array([Plain()], object),
        [1, {"a": Plain()}],
        iter([]),
    ]
    + [np.zeros(2, dtype=[("a", "f4")]), torch.ones(2, device="meta"), torch.ones(2, 2).to_sparse(), random.Random(0)],
)
def test_objects_do_not_cross(value):
    with pytest.raises(WireError, match="cannot cross"):
        encode(value)


def test_an_object_becomes_a_handle_if_asked():
    kept = []
    message = encode([1, Liar(3)], lambda value: kept.append(value) or {"id": len(kept) - 1})
    assert type(kept[0]) is Liar
    assert decode(message, lambda fields: ("handle", fields["id"])) == [1, ("handle", 0)]
    with pytest.raises(WireError):
        decode(message)


def test_subclasses_of_arrays_and_tensors_arrive_plain():
    class Mine(np.ndarray):
        def __eq__(self, other):
            return True

    assert type(decode(encode(np.ones(2).view(Mine)))) is np.ndarray
    assert type(decode(encode(torch.nn.Parameter(torch.ones(2))))) is torch.Tensor


MESSAGES = [encode(value) for value in ([1, "a", {"k": (1.5, b"xyz")}], np.arange(5.0), torch.ones(2, 3), FRAMES[0])]


@pytest.mark.parametrize("message", MESSAGES)
def test_every_truncated_message_is_refused(message):
    for size in range(len(message)):
        with pytest.raises(WireError):
            decode(message[:size])
    with pytest.raises(WireError):
        decode(message + b"x")


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(MESSAGES), st.data())
def test_a_damaged_message_gives_a_plain_value_or_is_refused(message, data):
    damaged = bytearray(message)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(damaged))
    except WireError:
        pass


def message(tree: object, *blobs: bytes) -> bytes:
    header = json.dumps({"v": tree, "b": [len(blob) for blob in blobs]}).encode()
    return len(header).to_bytes(4, "big") + header + b"".join(blobs)


@pytest.mark.parametrize(
    "tree",
    [
        {"t": "array", "d": "|O", "s": [1], "b": 0},
        {"t": "array", "d": "<f8", "s": [2], "b": 0},
        {"t": "array", "d": "<f8", "s": [-1], "b": 0},
        {"t": "array", "d": "<f8", "s": [1], "b": 7},
        {"t": "array", "d": "<f8", "s": [1], "b": -1},
        {"t": "array", "d": "os.system", "s": [1], "b": 0},
        {"t": "tensor", "d": "load", "s": [2], "b": 0},
        {"t": "tensor", "d": "hub", "s": [2], "b": 0},
        {"t": "torch", "v": "torch.load"},
        {"t": "torch", "v": "torch.nonsense"},
        {"t": "generator", "v": {"t": "dict", "v": [["bit_generator", "os"]]}},
        {"t": "object"},
        {"t": ["array"]},
        {"v": 1},
        {"t": "dict", "v": [[[1], 2]]},
        {"t": "set", "v": [[1]]},
        {"t": "tuple"},
    ],
)
def test_made_up_messages_are_refused(tree):
    with pytest.raises(WireError):
        decode(message(tree, bytes(8)))


def test_deep_and_large_messages_are_refused(monkeypatch):
    deep = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(WireError, match="cannot cross"):
        encode(deep)
    header = b'{"v":' + b"[" * 10_000 + b"]" * 10_000 + b',"b":[]}'
    with pytest.raises(WireError, match="deep"):
        decode(len(header).to_bytes(4, "big") + header)
    with pytest.raises(WireError, match="deep"):
        decode(message(json.loads("[" * 300 + "]" * 300)))
    monkeypatch.setattr(wire, "LARGEST", 1000)
    with pytest.raises(WireError, match="too large"):
        encode(bytes(2000))
    with pytest.raises(WireError, match="length"):
        decode(message("x" * 2000))
    monkeypatch.setattr(wire, "LARGEST_HEADER", 100)
    with pytest.raises(WireError, match="too large"):
        encode("x" * 200)
    with pytest.raises(WireError, match="too long"):
        decode(message("x" * 200))
