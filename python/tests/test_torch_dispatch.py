# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Which calls of sdpa go past PyTorch's dispatcher, and that no result tells which did."""

from __future__ import annotations

import pytest
from packages import package

torch = package("torch")

from torch._subclasses import FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from intflash.torch import _sdpa, last_reason, sdpa  # noqa: E402

OPERATOR = torch.ops.intflash.sdpa.default


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def inputs() -> list[torch.Tensor]:
    return [normal(2, 4, tokens, 64, seed=tokens) for tokens in (70, 90, 91)][:2] + [
        normal(2, 4, 90, 64, seed=1)
    ]


@pytest.fixture
def short_way_alone(monkeypatch) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("the long way")

    monkeypatch.setattr(_sdpa, "why_not", fail)


def views(tensors: list) -> list:
    return [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in tensors]


KEEP = normal(70, 90, seed=3) > -1
SHORT = {
    "plain": (lambda t: t, {}),
    "causal": (lambda t: t, {"is_causal": True}),
    "scale": (lambda t: t, {"scale": 0.05}),
    "views": (views, {}),
    "halves": (lambda t: [tensor.half() for tensor in t], {}),
    "bfloat16": (lambda t: [tensor.bfloat16() for tensor in t], {"is_causal": True}),
    "one": (lambda t: [tensor[0] for tensor in t], {}),
    "grouped": (lambda t: [t[0], t[1][:, :2], t[2][:, :2]], {"enable_gqa": True}),
    "booleans": (lambda t: t, {"attn_mask": KEEP, "is_causal": True}),
    "numbers": (lambda t: t, {"attn_mask": normal(2, 1, 70, 90, seed=4)}),
    "nothing": (lambda t: [t[0][:, :, :0], *t[1:]], {}),
    "repeated": (lambda t: [t[0][:1].expand(2, -1, -1, -1), *t[1:]], {}),
}


@pytest.mark.parametrize("name", SHORT)
def test_short_calls_have_the_bits_and_strides_of_the_operator(inputs, short_way_alone, name):
    change, options = SHORT[name]
    tensors = change(inputs)
    out = sdpa(*tensors, **options)
    assert last_reason() is None
    mask, causal, scale = (options.get(o) for o in ("attn_mask", "is_causal", "scale"))
    wanted = OPERATOR(*tensors, mask, bool(causal), scale)
    assert torch.equal(out, wanted)
    assert (out.stride(), out.dtype) == (wanted.stride(), wanted.dtype)


LONG = {
    "narrow values": (lambda t: [*t[:2], t[2][..., :48]], {}),
    "spread": (lambda t: [tensor.repeat_interleave(2, dim=3)[..., ::2] for tensor in t], {}),
    "negated": (lambda t: [t[0], t[1], torch._neg_view(t[2])], {}),
    "broadcast heads": (lambda t: [t[0], t[1][:, :1], t[2]], {}),
    "a subclass": (lambda t: [torch.nn.Parameter(t[0], requires_grad=False), *t[1:]], {}),
    "a mask's last of one": (lambda t: t, {"attn_mask": KEEP[:, :1]}),
    "a mask by columns": (lambda t: t, {"attn_mask": KEEP.T.contiguous().T}),
    "least scale": (lambda t: t, {"scale": 2.0**-127}),
    "float64": (lambda t: [tensor.double() for tensor in t], {}),
    "mixed": (lambda t: [t[0], t[1].half(), t[2]], {}),
    "a head of 63": (lambda t: [tensor[..., :63] for tensor in t], {}),
    "a mask of one dimension": (lambda t: t, {"attn_mask": KEEP[0]}),
    "heads without enable_gqa": (lambda t: [t[0], t[1][:, :2], t[2][:, :2]], {}),
    "no heads": (lambda t: [tensor[:, :0] for tensor in t], {}),
    "zeros that are not there": (
        lambda t: [t[0], torch._efficientzerotensor(2, 4, 90, 64), t[2]],
        {},
    ),
    "gradients": (lambda t: [t[0].clone().requires_grad_(), *t[1:]], {}),
    "NaN": (lambda t: [t[0], t[1] * torch.nan, t[2]], {}),
}


@pytest.mark.parametrize("name", LONG)
def test_other_calls_are_looked_at_closely(inputs, short_way_alone, name):
    change, options = LONG[name]
    with pytest.raises(AssertionError, match="the long way"):
        sdpa(*change(inputs), **options)


class Dispatched(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        self.seen.append(function)
        return function(*args, **(kwargs or {}))


class Called(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list = []

    def __torch_function__(self, function, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        self.seen.append(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Dispatched, Called])
def test_modes_see_the_operator(inputs, mode):
    with mode() as watching:
        out = sdpa(*inputs)
    assert OPERATOR in watching.seen
    assert torch.equal(out, sdpa(*inputs))


def test_profilers_traces_and_fake_tensors_see_the_operator(inputs):
    with torch.autograd.profiler.profile() as profile:
        sdpa(*inputs)
    assert "intflash::sdpa" in [event.name for event in profile.function_events]
    graph = make_fx(lambda *tensors: sdpa(*tensors))(*inputs)
    assert OPERATOR in [node.target for node in graph.graph.nodes]
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(tensor) for tensor in inputs]
        out = sdpa(*fakes)
    assert type(out) is type(fakes[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_torchscripts_tracer_sees_the_operator(inputs):
    traced = torch.jit.trace(lambda *tensors: sdpa(*tensors), tuple(inputs), check_trace=False)
    assert "intflash::sdpa" in str(traced.graph)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_sees_the_operator(inputs):
    mapped = torch.vmap(lambda *tensors: sdpa(*tensors))(*inputs)
    assert torch.equal(mapped, sdpa(*inputs))
