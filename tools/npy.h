// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Reads NumPy's .npy files of versions 1 to 3, of float16, float32 and float64 in either order of
// bytes and of axes, and where they are asked for bool and uint8; writes float32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "intflash/intflash.h"

namespace intflash {

enum class NpyTypes { kFloats, kFloatsAndBytes };

struct NpyArray {
  intflash_dtype dtype = INTFLASH_F32;  // INTFLASH_F16, INTFLASH_F32, or INTFLASH_BOOL for bytes
  std::vector<std::int64_t> shape;      // C order, the last index contiguous; empty = a scalar
  std::vector<std::byte> data;          // the elements, little-endian

  std::int64_t num_elements() const;  // the product of shape
};

// From a file, a pipe, or stdin as "-". float64 is rounded to float32, which must hold it. Throws
// Failure, whose message begins with path, for whatever is not such a file.
NpyArray read_npy(const std::string& path, NpyTypes types = NpyTypes::kFloats);

// The same from bytes in memory; name stands for the path in messages.
NpyArray parse_npy(std::span<const std::byte> bytes, const std::string& name,
                   NpyTypes types = NpyTypes::kFloats);

struct NpyOutput {
  std::string path;
  std::vector<std::int64_t> shape;
  const float* data;  // as many elements as shape says
};

// Writes every output as float32, version 1. No file appears or changes under its name before all
// of them are on disk.
void write_npy_files(std::span<const NpyOutput> outputs);

}  // namespace intflash
