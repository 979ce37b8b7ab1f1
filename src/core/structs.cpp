// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "core/structs.h"

#include "core/checks.h"

namespace intflash::internal {

intflash_status check_struct(const char* name, const char* type, const void* given,
                             std::size_t alignment, std::size_t known_size) {
  if (given == nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT,
                "%s = NULL: must point to a struct with struct_size = sizeof(%s) = %zu", name, type,
                known_size);
  }
  const intflash_status status = check_alignment(name, "", given, alignment);
  if (status != INTFLASH_OK) return status;
  const std::uint32_t size = *static_cast<const std::uint32_t*>(given);
  if (size > 0 && size <= known_size && size % alignment == 0) return INTFLASH_OK;
  return fail(INTFLASH_INVALID_ARGUMENT,
              "%s.struct_size = %u: must be sizeof(%s), which is at most %zu to this library", name,
              size, type, known_size);
}

intflash_status check_elements(const char* name, const char* type, const void* elements,
                               std::int64_t count, std::uint32_t size, std::size_t alignment,
                               std::size_t known_size) {
  if (count == 0) return INTFLASH_OK;
  if (elements == nullptr) {
    return fail(INTFLASH_INVALID_ARGUMENT, "%s = NULL: must point to %lld of them", name,
                static_cast<i64>(count));
  }
  const intflash_status status = check_alignment(name, "", elements, alignment);
  if (status != INTFLASH_OK) return status;
  if (size > 0 && size <= known_size && size % alignment == 0) return INTFLASH_OK;
  return fail(INTFLASH_INVALID_ARGUMENT,
              "%s: elements of %u bytes: must be sizeof(%s), which is at most %zu to this library",
              name, size, type, known_size);
}

}  // namespace intflash::internal
