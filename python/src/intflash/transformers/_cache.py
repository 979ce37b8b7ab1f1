# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""A cache of transformers' whose keys and values are INT8 codes in pages."""

from __future__ import annotations

import os
from typing import BinaryIO

import torch
import transformers
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

import intflash
from intflash._pages import Codec


class Handle(Tensor):
    """Stands for the keys or values of a layer, which nobody but its layer can read."""

    layer: _Layer

    @staticmethod
    def __new__(cls, layer: _Layer, like: Tensor, tokens: int) -> Handle:
        """Have the shape that the tensor itself would have."""
        batch, heads, _, dim = like.shape
        handle = Tensor._make_wrapper_subclass(cls, (batch, heads, tokens, dim), dtype=like.dtype)
        handle.layer = layer
        return handle

    @classmethod
    def __torch_dispatch__(
        cls, function: object, types: object, args: object = (), options: object = None
    ) -> None:
        """Refuse."""
        raise intflash.UnsupportedError(
            f"{function}: keys and values of an IntflashCache are codes in pages, which "
            "attn_implementation='int8_attention' alone reads"
        )

    def __repr__(self) -> str:
        """Tell the shape, without reading elements."""
        return f"Handle(shape={tuple(self.shape)})"


class IntflashCache(transformers.Cache):
    """A cache for ``attn_implementation="int8_attention"``, in half of float16's memory or less.

    Tokens are quantized once, when they come. Beams share pages (`reorder_cache` forks), `crop`
    truncates, and sequences can be saved and loaded. Every layer keeps all tokens; sliding windows
    are in masks.

    Args:
        config: the model's.
        tokens: room for so many of all sequences together, whose last pages may be part-filled.
        page_size: 64, 128 or 256 tokens.
        codec: ``"int8"``, ``"int8_wide"`` for models whose scores are large, ``"k8v4"``, whose
            values have four bits, ``"k4v4"``, whose keys do too, ``"k4v2"`` or ``"k2v2"``, whose
            values, or both, have two, or ``"k8v16"``, whose values are in float16.
        window_blocks: as in `intflash.Cache`; by default 4 where the codec must have a window,
            else 0.
        sink_blocks: the same; by default 1 where there is a window.
        window_pages: the same; as long as tokens are being stored, all that come at once are in
            INT8 as well.
    """

    def __init__(
        self,
        config: transformers.PreTrainedConfig,
        tokens: int,
        *,
        page_size: int = 64,
        codec: Codec = "int8",
        window_blocks: int | None = None,
        sink_blocks: int | None = None,
        window_pages: int = 0,
    ) -> None:
        if window_blocks is None:
            window_blocks = 4 if codec in ("k4v4", "k4v2", "k2v2") else 0
        if sink_blocks is None:
            sink_blocks = 1 if window_blocks else 0
        config = config.get_text_config(decoder=True)
        heads = config.num_attention_heads
        self.store = intflash.Cache(
            layers=config.num_hidden_layers,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            pages=-(-tokens // page_size),
            page_size=page_size,
            codec=codec,
            window_blocks=window_blocks,
            sink_blocks=sink_blocks,
            window_pages=window_pages,
        )
        self.sequences: list[intflash.Sequence] = []
        super().__init__(layers=[_Layer(self, i) for i in range(config.num_hidden_layers)])

    def load(self, *sources: str | os.PathLike[str] | BinaryIO | bytes) -> None:
        """Hold sequences that `intflash.Sequence.save` has written, each of as many tokens.

        Args:
            sources: a path, an open file of bytes, or the bytes, for each sequence of the batch.
        """
        self._hold([self.store.load(source) for source in sources])

    def reset(self) -> None:
        """Forget all sequences."""
        self._hold([])

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens of all sequences.

        Args:
            tokens_to_remove: the negative of how many.
        """
        if tokens_to_remove > 0:
            raise ValueError(f"tokens_to_remove is {tokens_to_remove}: it must not be positive")
        for sequence in self.sequences:
            sequence.truncate(len(sequence) + tokens_to_remove)
        self._hold(self.sequences)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put forks of sequences in the places of others, as beams go on.

        Args:
            beam_idx: which sequence comes to each place.
        """
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Fork each sequence.

        Args:
            repeats: how many there will be of each.
        """
        self.batch_select_indices(torch.arange(len(self.sequences)).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some sequences, or several forks of one.

        Args:
            indices: which sequence comes to each place.
        """
        self._hold([self.sequences[i].fork() for i in indices.tolist()])

    def _hold(self, sequences: list[intflash.Sequence]) -> None:
        lengths = {len(sequence) for sequence in sequences} or {0}
        if len(lengths) > 1:
            raise intflash.ArgumentError(
                f"sequences have {sorted(lengths)} tokens: they must agree"
            )
        self.sequences = sequences
        for layer in self.layers:
            layer.tokens = min(lengths)


class _Layer(CacheLayerMixin):
    """A layer's tokens; pages are the whole cache's."""

    is_sliding = False
    is_croppable = True

    def __init__(self, cache: IntflashCache, index: int) -> None:
        super().__init__()
        self.cache = cache
        self.index = index
        self.tokens = 0
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: pages are there."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **options: object
    ) -> tuple[Handle, Handle]:
        """Quantize new tokens into pages, and give what attention finds them by."""
        cache = self.cache
        if not cache.sequences:
            cache.sequences = [cache.store.sequence() for _ in range(key_states.shape[0])]
        cache.store.append(
            cache.sequences,
            _rows(key_states),
            _rows(value_states),
            layer=self.index,
            lengths=[key_states.shape[2]] * key_states.shape[0],
        )
        self.tokens += key_states.shape[2]
        return Handle(self, key_states, self.tokens), Handle(self, value_states, self.tokens)

    def attend(
        self,
        query: Tensor,
        mask: Tensor | None,
        causal: bool,
        window_left: int,
        scale: float | None,
        cap: float,
        sinks: Tensor | None,
    ) -> Tensor:
        """Attend to this layer's pages: (batch, tokens, query_heads, head_dim)."""
        batch, heads, tokens, _ = query.shape
        out = self.cache.store.attend(
            self.cache.sequences,
            _rows(query),
            layer=self.index,
            query_lens=[tokens] * batch,
            causal=causal,
            window=None if window_left < 0 else (window_left, 0),
            scale=scale,
            cap=cap,
            masks=None if mask is None else list(mask.expand(batch, -1, -1, -1)),
            sinks=None if sinks is None else sinks.tolist(),
        )
        return out.view(batch, tokens, heads, -1)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Tell how many keys there will be, and at which position the first is."""
        return self.tokens + query_length, 0

    def get_seq_length(self) -> int:
        """Tell how many tokens there are."""
        return self.tokens

    def get_max_length(self) -> int:
        """Tell that there is no maximum but that of all sequences together."""
        return -1


def _rows(tensor: Tensor) -> Tensor:
    """Put the tokens of each sequence after those of another: (rows, heads, dim)."""
    return tensor.transpose(1, 2).flatten(0, 1)
