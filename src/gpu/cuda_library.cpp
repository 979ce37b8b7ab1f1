// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda_library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "intflash/intflash.h"

namespace intflash::internal {
namespace {

std::string library_name() { return "libintflash_cuda.so." + std::to_string(INTFLASH_ABI_VERSION); }

// A program that runs with another's rights loads nothing that its caller names.
const char* named_path() {
  const bool is_trusted = ::getuid() == ::geteuid() && ::getgid() == ::getegid();
  return is_trusted ? std::getenv("INTFLASH_CUDA_LIBRARY") : nullptr;
}

// The folder that this library, or the program that it is a part of, lies in; "" where unknown.
std::string own_folder() {
  Dl_info info;
  if (::dladdr(reinterpret_cast<const void*>(&cuda_library), &info) == 0) return "";
  const char* const slash = std::strrchr(info.dli_fname, '/');
  return slash == nullptr ? "" : std::string(info.dli_fname, slash + 1);
}

CudaLibrary find_library() {
  if (const char* const path = named_path()) return open_cuda_library(path);
  const std::string folder = own_folder();
  const std::string beside = folder + library_name();
  const bool is_beside = !folder.empty() && ::access(beside.c_str(), F_OK) == 0;
  return open_cuda_library(is_beside ? beside.c_str() : library_name().c_str());
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
