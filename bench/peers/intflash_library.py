# Copyright 2026 The intflash Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls intflash's C interface through ctypes. The structs repeat include/intflash/intflash.h."""

import ctypes
from ctypes import POINTER, c_char, c_char_p, c_float, c_int, c_int32, c_int64
from ctypes import c_size_t, c_uint32, c_void_p

import numpy as np

F32 = 1
MASK_NONE, MASK_CAUSAL = 0, 1
ALIGNMENT = 64


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
        ("l1_bytes", c_int64),
        ("l2_bytes", c_int64),
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
        ("rotate", c_int32),
    ]


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
    ]


class PlanInfo(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("mode", c_char_p),
        ("port", c_char_p),
        ("kernel", c_char * 64),
        ("num_threads", c_int32),
        ("workspace_bytes", c_size_t),
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

    def version(self):
        return self.c.intflash_version().decode()

    def require_ok(self, status):
        if status != 0:
            raise RuntimeError(self.c.intflash_last_error().decode())


class Attention:
    """One planned call: out = attention(query, key, value), all float32 [1, heads, tokens, dim]."""

    def __init__(self, library, isa, threads, query, key, value, causal):
        self.library = library
        self.arrays = (query, key, value)
        self.out = np.zeros_like(query)

        options = sized(ContextOptions)
        options.num_threads = threads
        options.isa = isa.encode()
        self.context = c_void_p()
        library.require_ok(library.c.intflash_context_create(options, self.context))

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
        self.workspace_bytes = library.c.intflash_plan_workspace_bytes(self.plan)
        self.memory = np.zeros(self.workspace_bytes + ALIGNMENT, np.uint8)
        self.workspace = -(-self.memory.ctypes.data // ALIGNMENT) * ALIGNMENT

    def run(self):
        self.library.require_ok(
            self.library.c.intflash_run(self.plan, self.args, self.workspace, self.workspace_bytes)
        )

    def result(self):
        return self.out
