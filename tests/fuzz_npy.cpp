// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer over .npy files: any bytes are an array of as many elements as its shape says, or
// refused with a printable message that names the file.
#include <cstdlib>
#include <span>
#include <string>

#include "failure.h"
#include "npy.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  using namespace intflash;
  try {
    const NpyArray array =
        parse_npy(std::as_bytes(std::span(bytes, size)), "x.npy", NpyTypes::kFloatsAndBytes);
    std::size_t elements = 1;
    for (const std::int64_t length : array.shape) {
      if (__builtin_mul_overflow(elements, static_cast<std::size_t>(length), &elements))
        elements = 0;
    }
    const std::size_t element_bytes = array.dtype == INTFLASH_BOOL  ? 1
                                      : array.dtype == INTFLASH_F16 ? 2
                                                                    : 4;
    if (array.data.size() != elements * element_bytes) std::abort();
  } catch (const Failure& failure) {
    const std::string message = failure.what();
    if (!message.starts_with("x.npy: ")) std::abort();
    for (const char c : message) {
      if (c < ' ' || c > '~') std::abort();
    }
  }
  return 0;
}
