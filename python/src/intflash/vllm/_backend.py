# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""vLLM's attention backend: what a step attends, and how a layer does.

A block of vLLM's is a page of ours, byte for byte, so that what vLLM does with blocks (prefix
caching, copies, moves) needs nothing from here. All layers of a group are one `intflash.Pages`; a
step's tables and lengths are read once, and layers that attend alike share a plan.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import vllm
from vllm.config import VllmConfig, get_current_vllm_config_or_none
from vllm.v1.attention.backend import (
    AttentionImpl,
    AttentionLayer,
    AttentionMetadata,
    AttentionMetadataBuilder,
    AttentionType,
    CommonAttentionMetadata,
)
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
from vllm.v1.kv_cache_interface import AttentionSpec, SlidingWindowSpec

import intflash

_VERSION = "0.32."  # of vLLM, whose interface to attention is another with each
if not vllm.__version__.startswith(_VERSION):
    raise intflash.UnsupportedError(
        f"vLLM is {vllm.__version__}: intflash {intflash.__version__} is written for {_VERSION}x"
    )
_SCALE_BYTES = 12  # of a token and kv head, beside its codes


class Backend(CPUAttentionBackend):
    """In place of vLLM's own backend for CPUs, under its name."""

    forward_includes_kv_cache_update = True
    supported_kv_cache_dtypes = ["auto", "int8_per_token_head"]  # noqa: RUF012

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: Any = None) -> list[int]:
        """Tokens of a page."""
        return [64, 128, 256]

    @classmethod
    def get_supported_head_sizes(cls) -> list[int]:
        """Multiples of 8, which `Attention` sees to."""
        return []

    @classmethod
    def customize_spec(cls, spec: AttentionSpec) -> AttentionSpec:
        """Make a block as large as a page."""
        if spec.state_content_bytes is not None:
            return spec
        content = spec.head_size + spec.head_size_v + _SCALE_BYTES
        return replace(spec, dtype=torch.int8, state_content_bytes=content)

    @classmethod
    def supports_sink(cls) -> bool:
        """They join in float32."""
        return True

    @classmethod
    def supports_batch_invariance(cls) -> bool:
        """Say so: a request's bits do not depend on the others."""
        return True

    @classmethod
    def supports_attn_type(cls, attn_type: str) -> bool:
        """Of decoders alone."""
        return attn_type == AttentionType.DECODER

    @staticmethod
    def get_impl_cls() -> type[Attention]:
        """Give the class of a layer's attention."""
        return Attention

    @staticmethod
    def get_builder_cls() -> type[StepBuilder]:
        """Give the class that reads steps."""
        return StepBuilder


@dataclass
class Step(AttentionMetadata):
    """What the requests of a step attend, for all layers of a group."""

    group: StepBuilder
    slots: torch.Tensor  # of each new token
    query_lens: list[int]
    kv_lens: list[int]
    first_positions: list[int]
    tables: list[list[int]]
    causal: bool
    batches: dict[tuple, intflash.Batch] = field(default_factory=dict)

    def batch(self, window: int | None, scale: float, cap: float | None) -> intflash.Batch:
        """Give the plan of layers with these options."""
        options = (window, scale, cap)
        if options not in self.batches:
            self.batches[options] = intflash.Batch(
                self.group.pages,
                self.tables,
                self.query_lens,
                self.kv_lens,
                first_positions=self.first_positions,
                causal=self.causal,
                window=None if window is None else (window - 1, 0 if self.causal else window - 1),
                scale=scale,
                cap=cap,
            )
        return self.batches[options]


class StepBuilder(AttentionMetadataBuilder[Step]):
    """Reads steps of a group: layers with the same tables and shape."""

    def __init__(
        self,
        kv_cache_spec: AttentionSpec,
        layer_names: list[str],
        vllm_config: VllmConfig,
        device: torch.device,
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self.layer_indices = {name: index for index, name in enumerate(layer_names)}

    @cached_property
    def memory(self) -> list[torch.Tensor]:
        """Each layer's blocks, which vLLM gives them after it has made the builder."""
        layers = self.vllm_config.compilation_config.static_forward_context
        return [layers[name].kv_cache for name in self.layer_names]

    @cached_property
    def pages(self) -> intflash.Pages:
        """The same as pages, made in the first step, when PyTorch's threads are there."""
        blocks, heads, block_size, _ = self.memory[0].shape
        if not all(layer.is_contiguous() for layer in self.memory):
            raise intflash.UnsupportedError(
                f"blocks of {block_size} tokens have bytes between them, as where layers differ in "
                "the size of their heads"
            )
        _start_threads()
        return intflash.Pages(
            self.memory,
            kv_heads=heads,
            head_dim=self.kv_cache_spec.head_size,
            head_dim_v=self.kv_cache_spec.head_size_v,
            pages=blocks,
            page_size=block_size,
        )

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> Step:
        """Read a step."""
        common = common_attn_metadata
        if isinstance(common.causal, torch.Tensor) or common.mm_req_doc_ranges is not None:
            raise intflash.UnsupportedError("requests of one step with masks of several kinds")
        count, block_size = common.num_reqs, self.memory[0].shape[2]
        starts = common.query_start_loc_cpu[: count + 1].tolist()
        query_lens = [end - begin for begin, end in zip(starts, starts[1:], strict=False)]
        kv_lens = common.seq_lens[:count].tolist()
        first_blocks = [
            self._first_block(kv_len - query_len, block_size)
            for query_len, kv_len in zip(query_lens, kv_lens, strict=True)
        ]
        tables = [
            common.block_table_tensor[i, first : -(-kv_len // block_size)].tolist()
            for i, (first, kv_len) in enumerate(zip(first_blocks, kv_lens, strict=True))
        ]
        return Step(
            group=self,
            slots=common.slot_mapping[: common.num_actual_tokens].to(torch.int64),
            query_lens=query_lens,
            kv_lens=kv_lens,
            first_positions=[first * block_size for first in first_blocks],
            tables=tables,
            causal=bool(common.causal),
        )

    def _first_block(self, position: int, block_size: int) -> int:
        """Where the query at a position begins to see: vLLM takes blocks before that away."""
        if not isinstance(self.kv_cache_spec, SlidingWindowSpec):
            return 0
        return max(0, position - self.kv_cache_spec.sliding_window + 1) // block_size


class Attention(AttentionImpl[Step]):
    """Attention of one layer."""

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        alibi_slopes: list[float] | None = None,
        sliding_window: int | None = None,
        kv_cache_dtype: str = "auto",
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
        sinks: torch.Tensor | None = None,
    ) -> None:
        self.num_heads = num_heads
        self.head_size = head_size
        self.scale = float(scale)
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.kv_cache_dtype = kv_cache_dtype
        self.sliding_window = sliding_window
        self.cap = logits_soft_cap or None
        self.alibi_slopes = alibi_slopes
        self.sinks = sinks
        self.sink_logits: list[float] | None = None
        for is_refused, reason in (
            (
                kv_cache_dtype not in Backend.supported_kv_cache_dtypes,
                f"kv_cache_dtype is {kv_cache_dtype}: pages are int8_per_token_head",
            ),
            (
                attn_type != AttentionType.DECODER,
                f"attention of type {attn_type}: decoders alone are served",
            ),
            (
                head_size % 8 != 0 or head_size > 1024,
                f"head_size is {head_size}: a multiple of 8 up to 1024 is wanted",
            ),
            (
                kv_sharing_target_layer_name is not None,
                f"keys and values are those of layer {kv_sharing_target_layer_name}: each layer "
                "has its own here",
            ),
            (
                self.total_cp_world_size > 1,
                "context parallelism: vLLM has slots and merging of one rank alone on CPUs",
            ),
            (
                _has_prefix_masks(),
                "the model's images see each other in both directions: masks are causal here",
            ),
        ):
            if is_refused:
                raise intflash.UnsupportedError(f"{reason}; {_way_back()}")

    def process_weights_after_loading(self, act_dtype: torch.dtype) -> None:
        """Read the sinks, which are weights."""
        if self.sinks is not None:
            self.sink_logits = self.sinks.detach().float().tolist()

    def forward(
        self,
        layer: AttentionLayer,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: Step | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Store the new tokens of a layer, and attend.

        Args:
            layer: whose attention this is.
            query: ``(tokens, num_heads, head_size)``, of which the step's come first.
            key: ``(tokens, num_kv_heads, head_size)``.
            value: ``(tokens, num_kv_heads, head_size_v)``.
            kv_cache: the layer's blocks, which the group has already.
            attn_metadata: the step; None while vLLM warms up.
            output: ``(tokens, num_heads, head_size_v)``, to write to.
            output_scale: not served.
            output_block_scale: not served.

        Raises:
            UnsupportedError: an output that is to be quantized.
            NonfiniteInputError: NaN or infinity in what the model gave.
        """
        if output_scale is not None or output_block_scale is not None:
            raise intflash.UnsupportedError("outputs are not quantized here")
        if attn_metadata is None:
            return output
        step, rows = attn_metadata, slice(len(attn_metadata.slots))
        index = step.group.layer_indices[layer.layer_name]
        step.group.pages.append(key[rows], value[rows], step.slots, layer=index)
        step.batch(self.sliding_window, self.scale, self.cap).run(
            query[rows],
            layer=index,
            sinks=self.sink_logits,
            alibi=self.alibi_slopes,
            out=output[rows].view(len(step.slots), self.num_heads, -1),
        )
        return output


def _start_threads() -> None:
    """Start the threads that attend where PyTorch's are.

    vLLM binds each of PyTorch's to a CPU, this one as well, and a new thread may run where the one
    that starts it may: all of ours would share one CPU.
    """
    own = os.sched_getaffinity(0)
    cpus = set().union(*(os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")))
    if cpus == own:
        return
    os.sched_setaffinity(0, cpus)
    try:
        heads = torch.zeros(8 * torch.get_num_threads(), 64, 64)
        intflash.attend(heads, heads, heads)
    finally:
        os.sched_setaffinity(0, own)


def _has_prefix_masks() -> bool:
    config = get_current_vllm_config_or_none()
    model = None if config is None else config.model_config
    return model is not None and model.is_mm_prefix_lm


def _way_back() -> str:
    """How vLLM's own attention is had again."""
    if os.environ.get("INTFLASH_VLLM") == "1":
        return "unset INTFLASH_VLLM for vLLM's own attention"
    return "leave --kv-cache-dtype out for vLLM's own attention"
