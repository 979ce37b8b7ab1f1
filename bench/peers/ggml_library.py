# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Attention over llama.cpp's quantized KV cache, by ggml's operator on its CPU backend."""

import ctypes
import pathlib
from ctypes import c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p

import numpy as np

TYPE_F32 = 0
QUANTIZED_TYPES = {"q4_0": 2, "q8_0": 8}
CONTEXT_BYTES = 1 << 20  # of tensors without their data, and a graph


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


# Of each function that is called: what it returns, and what it takes.
BASE = {
    "ggml_version": (c_char_p, []),
    "ggml_init": (c_void_p, [InitParams]),
    "ggml_free": (None, [c_void_p]),
    "ggml_new_tensor_4d": (c_void_p, [c_void_p, c_int] + [c_int64] * 4),
    "ggml_permute": (c_void_p, [c_void_p, c_void_p] + [c_int] * 4),
    "ggml_flash_attn_ext": (c_void_p, [c_void_p] * 5 + [c_float] * 3),
    "ggml_new_graph": (c_void_p, [c_void_p]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_row_size": (c_size_t, [c_int, c_int64]),
    "ggml_quantize_chunk": (c_size_t, [c_int, c_void_p, c_void_p] + [c_int64] * 3 + [c_void_p]),
    "ggml_backend_alloc_ctx_tensors": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_buffer_free": (None, [c_void_p]),
    "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_tensor_get": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_graph_compute": (c_int, [c_void_p, c_void_p]),
}
CPU = {
    "ggml_backend_cpu_init": (c_void_p, []),
    "ggml_backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
}


class Ggml:
    """The functions, by their names without the prefix."""

    def __init__(self, folder):
        for file, functions in (("libggml-base.so", BASE), ("libggml-cpu.so", CPU)):
            library = ctypes.CDLL(str(pathlib.Path(folder) / file), mode=ctypes.RTLD_GLOBAL)
            for name, (returned, taken) in functions.items():
                function = getattr(library, name)
                function.restype, function.argtypes = returned, taken
                setattr(self, name.removeprefix("ggml_"), function)


class Decoding:
    """Rows of a cache lie as llama.cpp has them: the heads of a token side by side. It stores no
    token, which others do."""

    def __init__(self, ggml, type_name, threads, query, key, value, num_caches):
        self.ggml, self.type = ggml, QUANTIZED_TYPES[type_name]
        self.name, self.version = f"llama.cpp {type_name}", f"ggml {ggml.version().decode()}"
        self.bits = 4 if type_name == "q4_0" else 8
        self.out = np.zeros_like(query)
        self.backend = ggml.backend_cpu_init()
        ggml.backend_cpu_set_n_threads(self.backend, threads)
        self.context = ggml.init(InitParams(num_caches * CONTEXT_BYTES, None, True))
        built = [self._build(query.shape, key.shape) for _ in range(num_caches)]
        self.buffer = ggml.backend_alloc_ctx_tensors(self.context, self.backend)
        rows = [np.ascontiguousarray(query), *(self._quantized(x) for x in (key, value))]
        for _, inputs, _ in built:
            for tensor, data in zip(inputs, rows):
                ggml.backend_tensor_set(tensor, data.ctypes.data, 0, data.nbytes)
        self.graphs = [(graph, out) for graph, _, out in built]

    def close(self):
        self.ggml.backend_buffer_free(self.buffer)
        self.ggml.free(self.context)

    def run(self, index):
        graph, self.last = self.graphs[index]
        if self.ggml.backend_graph_compute(self.backend, graph) != 0:
            raise RuntimeError("ggml could not compute its graph")

    def result(self):
        self.ggml.backend_tensor_get(self.last, self.out.ctypes.data, 0, self.out.nbytes)
        return self.out

    def _build(self, query_shape, key_shape):
        _, heads, query_len, dim = query_shape
        _, kv_heads, kv_len, _ = key_shape
        context = self.context
        query = self.ggml.new_tensor_4d(context, TYPE_F32, dim, query_len, heads, 1)
        key, value = (
            self.ggml.new_tensor_4d(context, self.type, dim, kv_heads, kv_len, 1) for _ in range(2)
        )
        tokens_second = [self.ggml.permute(context, x, 0, 2, 1, 3) for x in (key, value)]
        out = self.ggml.flash_attn_ext(context, query, *tokens_second, None, dim**-0.5, 0, 0)
        graph = self.ggml.new_graph(context)
        self.ggml.build_forward_expand(graph, out)
        return graph, (query, key, value), out

    def _quantized(self, array):
        rows = np.ascontiguousarray(array[0].transpose(1, 0, 2)).reshape(-1, array.shape[3])
        row_bytes = self.ggml.row_size(self.type, rows.shape[1])
        blocks = np.zeros((rows.shape[0], row_bytes), np.uint8)
        self.ggml.quantize_chunk(
            self.type, rows.ctypes.data, blocks.ctypes.data, 0, *rows.shape, None
        )
        return blocks
