// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Structs of the C interface as an older header has them, which ends them sooner: what the caller
// does not know is 0, and not written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "intflash/intflash.h"

namespace intflash::internal {

// That given points to a struct whose struct_size is at most known_size. name: of the argument;
// type: of the struct.
intflash_status check_struct(const char* name, const char* type, const void* given,
                             std::size_t alignment, std::size_t known_size);

template <class T>
intflash_status check_struct(const char* name, const char* type, const T* given) {
  return check_struct(name, type, given, alignof(T), sizeof(T));
}

// Copies a caller's struct.
template <class T>
intflash_status read_struct(const char* name, const char* type, const T* given, T& copy) {
  const intflash_status status = check_struct(name, type, given);
  if (status != INTFLASH_OK) return status;
  copy = T{};
  std::memcpy(&copy, given, given->struct_size);
  copy.struct_size = sizeof copy;
  return INTFLASH_OK;
}

// Fills a caller's struct, which was checked, as far as its struct_size says.
template <class T>
void write_struct(T filled, T* target) {
  filled.struct_size = target->struct_size;
  std::memcpy(target, &filled, filled.struct_size);
}

// That an array of count elements of size bytes each can be read by element_of.
intflash_status check_elements(const char* name, const char* type, const void* elements,
                               std::int64_t count, std::uint32_t size, std::size_t alignment,
                               std::size_t known_size);
template <class T>
intflash_status check_elements(const char* name, const char* type, const T* elements,
                               std::int64_t count, std::uint32_t size) {
  return check_elements(name, type, elements, count, size, alignof(T), sizeof(T));
}

template <class T>
T element_of(const T* elements, std::uint32_t size, std::int64_t index) {
  if (size == sizeof(T)) return elements[index];
  T element{};
  std::memcpy(&element, reinterpret_cast<const char*>(elements) + index * size, size);
  return element;
}

}  // namespace intflash::internal
