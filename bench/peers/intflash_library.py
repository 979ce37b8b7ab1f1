# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls intflash's C interface through ctypes. The structs repeat its headers."""

import ctypes
from ctypes import POINTER, c_char, c_char_p, c_float, c_int, c_int32, c_int64
from ctypes import c_size_t, c_uint32, c_void_p

import numpy as np

F32 = 1
MASK_NONE, MASK_CAUSAL = 0, 1
ALIGNMENT = 64
PAGE_SIZE = 64
CODEC_K4V4 = 3


class ContextOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("num_threads", c_int32),
        ("isa", c_char_p),
        ("parallel_for", c_void_p),
        ("parallel_for_user", c_void_p),
        ("allocate", c_void_p),
        ("deallocate", c_void_p),
        ("allocator_user", c_void_p),
        ("l2_bytes", c_int64),
        ("threads", c_int),
        ("device", c_char_p),
    ]


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("stride_batch", c_int64),
        ("stride_head", c_int64),
        ("stride_token", c_int64),
        ("scale", c_void_p),
        ("scale_stride_batch", c_int64),
        ("scale_stride_head", c_int64),
        ("scale_block", c_int64),
    ]


class AttendDesc(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("mode", c_int),
        ("batch", c_int64),
        ("num_query_heads", c_int64),
        ("num_kv_heads", c_int64),
        ("query_len", c_int64),
        ("kv_len", c_int64),
        ("head_dim", c_int64),
        ("head_dim_v", c_int64),
        ("query_dtype", c_int),
        ("key_dtype", c_int),
        ("value_dtype", c_int),
        ("out_dtype", c_int),
        ("mask", c_int),
        ("window_left", c_int64),
        ("window_right", c_int64),
        ("softmax_scale", c_float),
        ("score_cap", c_float),
        ("center", c_int),
        ("rotation", c_int32),
        ("prefix_len", c_int64),
    ]


class AdditiveMask(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("dtype", c_int),
        ("stride_batch", c_int64),
        ("stride_head", c_int64),
        ("stride_query", c_int64),
        ("head_scale", c_void_p),
    ]


class BitMask(ctypes.Structure):
    _fields_ = [("words", c_void_p), ("num_keys", c_int64)]


class AttendArgs(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("query", Tensor),
        ("key", Tensor),
        ("value", Tensor),
        ("out", Tensor),
        ("lse", c_void_p),
        ("key_center", c_void_p),
        ("value_center", c_void_p),
        ("sinks", c_void_p),
        ("additive_mask", AdditiveMask),
        ("alibi_slopes", c_void_p),
        ("bit_mask", BitMask),
        ("should_cancel", c_void_p),
        ("cancel_user", c_void_p),
    ]


class CacheOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("num_kv_heads", c_int64),
        ("head_dim", c_int64),
        ("head_dim_v", c_int64),
        ("page_size", c_int64),
        ("num_pages", c_int64),
        ("arena", c_void_p),
        ("arena_bytes", c_size_t),
        ("key_center", c_void_p),
        ("value_center", c_void_p),
        ("rotation", c_int32),
        ("huge_pages", c_int),
        ("numa", c_int),
        ("num_layers", c_int64),
        ("layer_arenas", c_void_p),
        ("codec", c_int),
        ("page_layout_version", c_int32),
        ("window_blocks", c_int64),
        ("sink_blocks", c_int64),
    ]


class PageTable(ctypes.Structure):
    _fields_ = [("page_indptr", c_void_p), ("page_ids", c_void_p)]


class Rope(ctypes.Structure):
    _fields_ = [
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("num_positions", c_int64),
        ("rope_dim", c_int64),
        ("pairing", c_int),
    ]


class AppendArgs(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("num_requests", c_int64),
        ("token_indptr", c_void_p),
        ("kv_lens", c_void_p),
        ("first_key_positions", c_void_p),
        ("pages", PageTable),
        ("key_dtype", c_int),
        ("value_dtype", c_int),
        ("key", Tensor),
        ("value", Tensor),
        ("rope", Rope),
        ("layer", c_int64),
        ("slots", c_void_p),
        ("positions", c_void_p),
    ]


class Request(ctypes.Structure):
    _fields_ = [
        ("query_len", c_int64),
        ("kv_len", c_int64),
        ("first_key_position", c_int64),
        ("mask", c_int),
        ("window_left", c_int64),
        ("window_right", c_int64),
        ("softmax_scale", c_float),
        ("prefix_len", c_int64),
        ("key_begin", c_int64),
        ("key_end", c_int64),
    ]


class BatchDesc(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("request_size", c_uint32),
        ("num_requests", c_int64),
        ("requests", POINTER(Request)),
        ("num_query_heads", c_int64),
        ("query_dtype", c_int),
        ("out_dtype", c_int),
        ("mode", c_int),
        ("score_cap", c_float),
        ("shared_prefix_size", c_uint32),
        ("shared_prefixes", c_void_p),
        ("num_shared_prefixes", c_int64),
    ]


class BatchArgs(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("query", Tensor),
        ("out", Tensor),
        ("lse", c_void_p),
        ("pages", PageTable),
        ("rope", Rope),
        ("should_cancel", c_void_p),
        ("cancel_user", c_void_p),
        ("sinks", c_void_p),
        ("alibi_slopes", c_void_p),
        ("additive_mask_size", c_uint32),
        ("bit_mask_size", c_uint32),
        ("additive_masks", POINTER(AdditiveMask)),
        ("bit_masks", POINTER(BitMask)),
        ("layer", c_int64),
        ("sequences", c_void_p),
        ("states", c_void_p),
        ("state_size", c_uint32),
    ]


class PlanInfo(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("mode", c_char_p),
        ("port", c_char_p),
        ("kernel", c_char * 64),
        ("num_threads", c_int32),
        ("workspace_bytes", c_size_t),
        ("codec", c_char_p),
    ]


def sized(struct):
    """A zeroed struct that says how large its caller believes it to be."""
    value = struct()
    value.struct_size = ctypes.sizeof(struct)
    return value


def tensor(array):
    """array [batch, heads, tokens, dim] in C order; it must outlive the tensor."""
    strides = [stride // array.itemsize for stride in array.strides]
    return Tensor(array.ctypes.data, strides[0], strides[1], strides[2])


class Library:
    def __init__(self, path):
        self.c = ctypes.CDLL(path)
        self.c.intflash_last_error.restype = c_char_p
        self.c.intflash_version.restype = c_char_p
        self.c.intflash_plan_workspace_bytes.restype = c_size_t
        self.c.intflash_plan_workspace_bytes.argtypes = [c_void_p]
        self.c.intflash_context_create.argtypes = [POINTER(ContextOptions), POINTER(c_void_p)]
        self.c.intflash_plan_attend.argtypes = [c_void_p, POINTER(AttendDesc), POINTER(c_void_p)]
        self.c.intflash_plan_get_info.argtypes = [c_void_p, POINTER(PlanInfo)]
        self.c.intflash_run.argtypes = [c_void_p, POINTER(AttendArgs), c_void_p, c_size_t]
        self.c.intflash_context_port.restype = c_char_p
        self.c.intflash_context_port.argtypes = [c_void_p]
        self.c.intflash_cache_create.argtypes = [c_void_p, POINTER(CacheOptions), POINTER(c_void_p)]
        self.c.intflash_cache_destroy.argtypes = [c_void_p]
        self.c.intflash_sequence_create.argtypes = [c_void_p, POINTER(c_int32)]
        self.c.intflash_sequence_truncate.argtypes = [c_void_p, c_int32, c_int64]
        self.c.intflash_sequences_append.argtypes = [c_void_p, c_void_p, POINTER(AppendArgs)]
        self.c.intflash_plan_batch.argtypes = [
            c_void_p,
            c_void_p,
            POINTER(BatchDesc),
            POINTER(c_void_p),
        ]
        self.c.intflash_run_batch.argtypes = [
            c_void_p,
            c_void_p,
            POINTER(BatchArgs),
            c_void_p,
            c_size_t,
        ]

    def version(self):
        return self.c.intflash_version().decode()

    def require_ok(self, status):
        if status != 0:
            raise RuntimeError(self.c.intflash_last_error().decode())

    def context(self, threads, isa=None):
        """isa: name of a port, or None for the best that this CPU has."""
        options = sized(ContextOptions)
        options.num_threads = threads
        options.isa = isa
        context = c_void_p()
        self.require_ok(self.c.intflash_context_create(options, context))
        return context


class Workspace:
    def __init__(self, num_bytes):
        self.memory = np.zeros(num_bytes + ALIGNMENT, np.uint8)
        self.address = -(-self.memory.ctypes.data // ALIGNMENT) * ALIGNMENT
        self.num_bytes = num_bytes


class Attention:
    """One planned call: out = attention(query, key, value), all float32 [1, heads, tokens, dim]."""

    def __init__(self, library, isa, threads, query, key, value, causal):
        self.library = library
        self.arrays = (query, key, value)
        self.out = np.zeros_like(query)

        self.context = library.context(threads, isa.encode())

        desc = sized(AttendDesc)
        desc.batch, desc.num_query_heads, desc.query_len, desc.head_dim = query.shape
        _, desc.num_kv_heads, desc.kv_len, _ = key.shape
        desc.query_dtype = desc.key_dtype = desc.value_dtype = desc.out_dtype = F32
        desc.mask = MASK_CAUSAL if causal else MASK_NONE
        self.plan = c_void_p()
        library.require_ok(library.c.intflash_plan_attend(self.context, desc, self.plan))

        info = sized(PlanInfo)
        library.require_ok(library.c.intflash_plan_get_info(self.plan, info))
        self.kernel = info.kernel.decode()

        self.args = sized(AttendArgs)
        self.args.query, self.args.key, self.args.value = map(tensor, self.arrays)
        self.args.out = tensor(self.out)
        self.workspace = Workspace(library.c.intflash_plan_workspace_bytes(self.plan))

    def run(self):
        workspace = self.workspace
        self.library.require_ok(
            self.library.c.intflash_run(
                self.plan, self.args, workspace.address, workspace.num_bytes
            )
        )

    def result(self):
        return self.out


class Decoding:
    """One token of query over the last of key and value and those before it, in any of several
    caches that hold them: query [1, heads, 1, dim], key and value [1, kv_heads, tokens, dim].

    codec is "int8", or "k4v4" behind a window of 256 tokens and the first 64."""

    def __init__(self, library, codec, threads, query, key, value, num_caches):
        self.library, self.codec = library, codec
        self.context = library.context(threads)
        port = library.c.intflash_context_port(self.context).decode()
        self.name, self.version = f"intflash {codec} ({port})", library.version()
        self.bits = 4 if codec == "k4v4" else 8
        self.query, self.key, self.value = query, key, value
        self.kv_len = key.shape[2]
        self.out = np.zeros_like(query)
        self.sequence = c_int32(0)  # of each cache the first
        self.caches = [self._new_cache() for _ in range(num_caches)]
        self._plan()

    def close(self):
        for cache in self.caches:
            self.library.c.intflash_cache_destroy(cache)

    def run(self, index):
        """Stores the last token, and attends."""
        cache = self.caches[index]
        self.library.require_ok(
            self.library.c.intflash_sequence_truncate(cache, self.sequence, self.kv_len - 1)
        )
        self._append(cache, self.kv_len - 1)
        workspace = self.workspace
        self.library.require_ok(
            self.library.c.intflash_run_batch(
                self.plan, cache, self.args, workspace.address, workspace.num_bytes
            )
        )

    def result(self):
        return self.out

    def _new_cache(self):
        options = sized(CacheOptions)
        _, options.num_kv_heads, _, options.head_dim = self.key.shape
        options.page_size = PAGE_SIZE
        options.num_pages = -(-self.kv_len // PAGE_SIZE)
        if self.codec == "k4v4":
            options.codec, options.window_blocks, options.sink_blocks = CODEC_K4V4, 4, 1
        cache = c_void_p()
        self.library.require_ok(self.library.c.intflash_cache_create(self.context, options, cache))
        created = c_int32()
        self.library.require_ok(self.library.c.intflash_sequence_create(cache, created))
        assert created.value == self.sequence.value
        self._append(cache, 0)
        return cache

    def _append(self, cache, begin):
        """Tokens from begin on."""
        token_indptr = (c_int64 * 2)(0, self.kv_len - begin)
        args = sized(AppendArgs)
        args.num_requests = 1
        args.token_indptr = ctypes.addressof(token_indptr)
        args.key_dtype = args.value_dtype = F32
        args.key = tensor(self.key[:, :, begin:])
        args.value = tensor(self.value[:, :, begin:])
        self.library.require_ok(
            self.library.c.intflash_sequences_append(cache, ctypes.byref(self.sequence), args)
        )

    def _plan(self):
        desc = sized(BatchDesc)
        desc.request_size = ctypes.sizeof(Request)
        desc.num_requests = 1
        desc.requests = ctypes.pointer(Request(query_len=1, kv_len=self.kv_len, mask=MASK_CAUSAL))
        desc.num_query_heads = self.query.shape[1]
        desc.query_dtype = desc.out_dtype = F32
        self.plan = c_void_p()
        self.library.require_ok(
            self.library.c.intflash_plan_batch(self.context, self.caches[0], desc, self.plan)
        )
        self.args = sized(BatchArgs)
        self.args.query, self.args.out = tensor(self.query), tensor(self.out)
        self.args.sequences = ctypes.addressof(self.sequence)
        self.workspace = Workspace(self.library.c.intflash_plan_workspace_bytes(self.plan))
