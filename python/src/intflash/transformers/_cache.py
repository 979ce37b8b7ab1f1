# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""A cache of transformers' whose keys and values are INT8 codes in pages."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch
import transformers
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

import intflash
from intflash._calibration import CENTERS, HeadGroup
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


@dataclass
class _Store:
    """Adjacent kv heads of some layers, whose tokens are kept alike."""

    cache: intflash.Cache
    kv_heads: slice
    layers: dict[int, int]  # of the model, and which one of the cache each is
    sequences: list[intflash.Sequence] = field(default_factory=list)


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
        calibration: what `intflash.load_calibration` gives of all layers, in place of codec and
            window. Such a cache has several stores, and is not saved or loaded.
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
        calibration: Mapping[int, Sequence[HeadGroup]] | None = None,
    ) -> None:
        config = config.get_text_config(decoder=True)
        layers = config.num_hidden_layers
        kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        if calibration is None:
            if window_blocks is None:
                window_blocks = 4 if codec in ("k4v4", "k4v2", "k2v2") else 0
            if sink_blocks is None:
                sink_blocks = 1 if window_blocks else 0
            options = {
                "codec": codec,
                "window_blocks": window_blocks,
                "sink_blocks": sink_blocks,
                "window_pages": window_pages,
            }
            calibration = dict.fromkeys(range(layers), [HeadGroup(range(kv_heads), options)])
        elif (codec, window_blocks, sink_blocks, window_pages) != ("int8", None, None, 0):
            raise intflash.ArgumentError("calibration says codec and window")
        shape = {
            "head_dim": getattr(config, "head_dim", None)
            or config.hidden_size // config.num_attention_heads,
            "pages": -(-tokens // page_size),
            "page_size": page_size,
        }
        self._group_size = config.num_attention_heads // kv_heads
        self._stores = _stores(calibration, layers, kv_heads, shape)
        super().__init__(layers=[_Layer(self, i) for i in range(layers)])

    @property
    def store(self) -> intflash.Cache:
        """The pages of all layers."""
        return self._only_store().cache

    @property
    def sequences(self) -> list[intflash.Sequence]:
        """One for each element of the batch."""
        return self._only_store().sequences

    def _only_store(self) -> _Store:
        if len(self._stores) > 1:
            raise intflash.UnsupportedError("a cache with a calibration has several stores")
        return self._stores[0]

    def load(self, *sources: str | os.PathLike[str] | BinaryIO | bytes) -> None:
        """Hold sequences that `intflash.Sequence.save` has written, each of as many tokens.

        Args:
            sources: a path, an open file of bytes, or the bytes, for each sequence of the batch.
        """
        store = self._only_store()
        self._hold([[store.cache.load(source) for source in sources]])

    def reset(self) -> None:
        """Forget all sequences."""
        self._hold([[] for _ in self._stores])

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens of all sequences.

        Args:
            tokens_to_remove: the negative of how many.
        """
        if tokens_to_remove > 0:
            raise ValueError(f"tokens_to_remove is {tokens_to_remove}: it must not be positive")
        # Of forks, so that all stores or none forget them: a window may refuse.
        cropped = [[sequence.fork() for sequence in store.sequences] for store in self._stores]
        for sequences in cropped:
            for sequence in sequences:
                sequence.truncate(len(sequence) + tokens_to_remove)
        self._hold(cropped)

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
        count = len(self._stores[0].sequences)
        self.batch_select_indices(torch.arange(count).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some sequences, or several forks of one.

        Args:
            indices: which sequence comes to each place.
        """
        places = indices.tolist()
        self._hold([[store.sequences[i].fork() for i in places] for store in self._stores])

    def _hold(self, sequences: list[list[intflash.Sequence]]) -> None:
        lengths = {len(sequence) for held in sequences for sequence in held} or {0}
        if len(lengths) > 1:
            raise intflash.ArgumentError(
                f"sequences have {sorted(lengths)} tokens: they must agree"
            )
        for store, held in zip(self._stores, sequences, strict=True):
            store.sequences = held
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
        batch, _, tokens, _ = key_states.shape
        for store in self._stores():
            if not store.sequences:
                store.sequences = [store.cache.sequence() for _ in range(batch)]
            store.cache.append(
                store.sequences,
                _rows(key_states[:, store.kv_heads]),
                _rows(value_states[:, store.kv_heads]),
                layer=store.layers[self.index],
                lengths=[tokens] * batch,
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
        parts = []
        for store in self._stores():
            size = self.cache._group_size
            own = slice(store.kv_heads.start * size, store.kv_heads.stop * size)
            masks = None
            if mask is not None:
                of_heads = mask if mask.shape[1] == 1 else mask[:, own]
                masks = list(of_heads.expand(batch, -1, -1, -1))
            out = store.cache.attend(
                store.sequences,
                _rows(query[:, own]),
                layer=store.layers[self.index],
                query_lens=[tokens] * batch,
                causal=causal,
                window=None if window_left < 0 else (window_left, 0),
                scale=scale,
                cap=cap,
                masks=masks,
                sinks=None if sinks is None else sinks[own].tolist(),
            )
            parts.append(out)
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return out.view(batch, tokens, heads, -1)

    def _stores(self) -> list[_Store]:
        stores = [store for store in self.cache._stores if self.index in store.layers]
        return sorted(stores, key=lambda store: store.kv_heads.start)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Tell how many keys there will be, and at which position the first is."""
        return self.tokens + query_length, 0

    def get_seq_length(self) -> int:
        """Tell how many tokens there are."""
        return self.tokens

    def get_max_length(self) -> int:
        """Tell that there is no maximum but that of all sequences together."""
        return -1


def _stores(
    calibration: Mapping[int, Sequence[HeadGroup]],
    layers: int,
    kv_heads: int,
    shape: dict[str, int],
) -> list[_Store]:
    """Make a cache for all layers' groups of heads that are alike."""
    alike: dict[Any, list[tuple[int, HeadGroup]]] = {}
    for layer in range(layers):
        groups = calibration.get(layer, [])
        if [head for group in groups for head in group.kv_heads] != list(range(kv_heads)):
            raise intflash.ArgumentError(f"calibration has not the {kv_heads} kv heads of {layer}")
        for group in groups:
            options = [
                (name, None if name in CENTERS else value)
                for name, value in sorted(group.options.items())
            ]
            key = (group.kv_heads, *options)
            alike.setdefault(key, []).append((layer, group))
    stores = []
    for members in alike.values():
        first = members[0][1]
        options = dict(first.options)
        for name in CENTERS:
            if name in options:
                centers = [torch.tensor(group.options[name].tolist()) for _, group in members]
                options[name] = torch.cat(centers)
        cache = intflash.Cache(
            layers=len(members), kv_heads=len(first.kv_heads), **shape, **options
        )
        heads = slice(first.kv_heads.start, first.kv_heads.stop)
        stores.append(_Store(cache, heads, {layer: i for i, (layer, _) in enumerate(members)}))
    return stores


def _rows(tensor: Tensor) -> Tensor:
    """Put the tokens of each sequence after those of another: (rows, heads, dim)."""
    return tensor.transpose(1, 2).flatten(0, 1)
