# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""A model's own queries, keys and values, and the codecs that they ask for."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

import intflash
from intflash.__main__ import COMMAND
from intflash._calibration import HeadGroup

from ._attention import attention
from ._mask import mask

_NAME = "int8_attention_captured"


def calibrate(
    model: PreTrainedModel,
    input_ids: Tensor,
    budget: float,
    out: str | os.PathLike[str],
    *,
    by_head: bool = False,
    report: str | os.PathLike[str] | None = None,
) -> dict[int, list[HeadGroup]]:
    """Choose the codecs of an `IntflashCache` by what a text makes of a model's heads.

    Runs the model over the text by ``"int8_attention"``, and ``intflash calibrate --budget`` over
    the queries, keys and values of all its layers.

    Args:
        model: that attends causally; its attn_implementation is as it was, afterwards.
        input_ids: ``(1, tokens)``: 640 or more, and as many as will be served are best.
        budget: bytes per token and kv head, in the mean of layers.
        out: the file that is written, as `intflash.load_calibration` reads it.
        by_head: whether kv heads, and not layers, have codecs of their own.
        report: where to draw bits and errors, as SVG.

    Returns:
        What `IntflashCache` takes as calibration.

    Raises:
        ArgumentError: more than one text, and what the command says of tokens too few, or of a
            budget that nothing meets.
        UnsupportedError: layers that scale scores differently, or have soft caps, sinks or windows,
            which the command does not measure.
    """
    if input_ids.shape[0] != 1:
        raise intflash.ArgumentError(f"input_ids are of {input_ids.shape[0]} texts: 1 is wanted")
    with tempfile.TemporaryDirectory() as folder:
        scale = _capture(model, input_ids, Path(folder))
        layers = model.config.get_text_config(decoder=True).num_hidden_layers
        command = [COMMAND, "calibrate", "--budget", str(budget), "--layers", f"0-{layers - 1}"]
        for option, name in (("--query", "q"), ("--key", "k"), ("--value", "v")):
            command += [option, f"{folder}/{{}}_{name}.npy"]
        command += ["--causal", "--out", os.fspath(out)]
        if scale is not None:
            command += ["--softmax-scale", str(scale)]
        if by_head:
            command += ["--by-head"]
        if report is not None:
            command += ["--report", os.fspath(report)]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode != 0:
            raise intflash.ArgumentError(run.stderr.strip())
    return intflash.load_calibration(out)


def _capture(model: PreTrainedModel, input_ids: Tensor, folder: Path) -> float | None:
    """Write the arrays of layer i as i_q.npy and so on; tell how scores are scaled."""
    scales = set()

    def captured(
        module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: object, **options
    ) -> tuple[Tensor, None]:
        for name, rows in (("q", query), ("k", key), ("v", value)):
            _write(folder / f"{module.layer_idx}_{name}.npy", rows[0])
        scales.add(options.get("scaling"))
        for name in ("softcap", "s_aux", "sliding_window"):
            if options.get(name) is not None:
                raise intflash.UnsupportedError(f"calibrate: {name} is given: it is not measured")
        return attention(module, query, key, value, *args, **options)

    AttentionInterface.register(_NAME, captured)
    AttentionMaskInterface.register(_NAME, mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    try:
        with torch.no_grad():
            model(input_ids, use_cache=False)
    finally:
        model.set_attn_implementation(before)
    if len(scales) != 1:
        raise intflash.UnsupportedError(f"layers scale scores by {sorted(map(str, scales))}")
    return scales.pop()


def _write(path: Path, rows: Tensor) -> None:
    rows = rows.detach().float().contiguous()
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {tuple(rows.shape)}, }}"
    header = header.ljust(-(len(header) + 11) % 64 + len(header)) + "\n"
    elements = ctypes.string_at(rows.data_ptr(), 4 * rows.numel())
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    path.write_bytes(start + header.encode() + elements)
