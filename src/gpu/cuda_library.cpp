// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda_library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "intflash/intflash.h"

namespace intflash::internal {
namespace {

#define INTFLASH_TEXT_OF(x) #x
#define INTFLASH_TEXT(x) INTFLASH_TEXT_OF(x)
constexpr char kLibraryName[] = "libintflash_cuda.so." INTFLASH_TEXT(INTFLASH_ABI_VERSION);

// A program that runs with another's rights loads nothing that its caller names.
const char* named_path() {
  const bool is_trusted = ::getuid() == ::geteuid() && ::getgid() == ::getegid();
  return is_trusted ? std::getenv("INTFLASH_CUDA_LIBRARY") : nullptr;
}

constexpr std::size_t kPathBytes = 4096;

// Whether the CUDA library lies in the folder of this one, or of the program that this is a part
// of.
bool find_beside(char (&path)[kPathBytes]) {
  Dl_info info;
  if (::dladdr(reinterpret_cast<const void*>(&cuda_library), &info) == 0) return false;
  const char* const slash = std::strrchr(info.dli_fname, '/');
  if (slash == nullptr) return false;
  const int written =
      std::snprintf(path, sizeof path, "%.*s%s", static_cast<int>(slash + 1 - info.dli_fname),
                    info.dli_fname, kLibraryName);
  return written > 0 && static_cast<std::size_t>(written) < sizeof path &&
         ::access(path, F_OK) == 0;
}

CudaLibrary find_library() {
  if (const char* const path = named_path()) return open_cuda_library(path);
  char path[kPathBytes];
  return open_cuda_library(find_beside(path) ? path : kLibraryName);
}

}  // namespace

CudaLibrary library_of(const char* path, const CudaTable* table) {
  CudaLibrary library{};
  if (table->version == kCudaTableVersion) {
    library.table = table;
  } else {
    std::snprintf(library.reason, sizeof library.reason,
                  "%s: its table has version %u, this library reads %u", path, table->version,
                  kCudaTableVersion);
  }
  return library;
}

CudaLibrary open_cuda_library(const char* path) {
  CudaLibrary library{};
  void* const handle = ::dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    std::snprintf(library.reason, sizeof library.reason, "%s", ::dlerror());
    return library;
  }
  const auto table = reinterpret_cast<CudaTableFn>(::dlsym(handle, kCudaTableSymbol));
  if (table != nullptr) return library_of(path, table());
  std::snprintf(library.reason, sizeof library.reason, "%s: is no libintflash_cuda", path);
  return library;
}

const CudaLibrary& cuda_library() {
  static const CudaLibrary library = find_library();
  return library;
}

}  // namespace intflash::internal
