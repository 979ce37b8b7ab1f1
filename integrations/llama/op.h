// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// GGML_OP_FLASH_ATTN_EXT in intflash's words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ggml.h"
#include "intflash/intflash.h"

namespace intflash::llama {

// What an op asks for. A key or value of a type that intflash does not read is converted to f32
// first, rows densely packed.
struct Call {
  intflash_attend_desc desc{};
  bool convert_key = false;
  bool convert_value = false;

  std::size_t key_bytes() const;  // of the converted ones; 0 where none are
  std::size_t value_bytes() const;
};

// llama.cpp rotates keys, or values, before it stores them in quantized types where heads have a
// multiple of 64 channels, queries and its result with them, unless it is told not to; but not
// where values are a part of the keys (MLA), or heads differ in size by layer, which an op does not
// show.
enum class Rotation { kNever, kUnlessStored, kAlways };

// Fills call, or says in reason why not. Reads shapes, strides and parameters, no data.
bool describe(const ggml_tensor& op, Rotation rotation, Call& call, std::string& reason);

// Whether an op that can be served is faster here than in ggml's CPU backend; else reason says why
// not.
bool gains(const ggml_tensor& op, std::string& reason);

// Whether row i of a mask has f16's lowest number, which ggml adds to a score and intflash takes to
// hide the key. In f32 it is a number to both: such a mask is converted.
bool has_lowest_number(const ggml_tensor& mask, std::int64_t i);

// What was converted to f32, rows densely packed; a mask where it is not nullptr.
struct Converted {
  void* key;
  void* value;
  void* mask;
};

// The tensors of an op. slopes is written where the op has ALiBi, and is read by the call.
intflash_attend_args arguments(const ggml_tensor& op, const Call& call, const Converted& converted,
                               std::vector<float>& slopes);

// Row i of a tensor in f32, to its place in converted; rows are counted over tokens, then heads,
// then streams.
void convert_row(const ggml_tensor& tensor, std::int64_t i, float* converted);

}  // namespace intflash::llama
