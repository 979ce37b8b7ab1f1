// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "test_ports.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "machine/cpu_features.h"

namespace intflash::internal {

#if defined(INTFLASH_TEST_EMULATED_PORTS)
extern const KernelTable kernels_amx_int8_emulated;
extern const KernelTable kernels_avx512_vnni_emulated;
extern const KernelTable kernels_avx_vnni_emulated;

void (*see_fetched_line)(const void* line) = nullptr;
#endif

namespace {

bool is_set(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && std::strcmp(value, "1") == 0;
}

#if defined(INTFLASH_TEST_EMULATED_PORTS)
struct Emulated {
  const char* native;
  PortEntry port;
};
const Emulated kEmulated[] = {
    {"amx_int8", {"amx_int8_emulated", &kernels_amx_int8_emulated, true, ""}},
    {"avx512_vnni", {"avx512_vnni_emulated", &kernels_avx512_vnni_emulated, true, ""}},
    {"avx_vnni", {"avx_vnni_emulated", &kernels_avx_vnni_emulated, true, ""}}};

bool runs_emulated_ports() {
  return missing_feature(kAvx2) == nullptr && !is_set("INTFLASH_TEST_NATIVE");
}
#endif

std::vector<PortEntry> find_ports_under_test() {
  std::vector<PortEntry> found;
  for (const PortEntry& port : ports()) {
    if (find_kernels(port.name) != nullptr && std::strcmp(port.name, "scalar") != 0)
      found.push_back(port);
  }
#if defined(INTFLASH_TEST_EMULATED_PORTS)
  for (const Emulated& e : kEmulated) {
    if (runs_emulated_ports() && find_kernels(e.native) == nullptr) found.push_back(e.port);
  }
#endif
  return found;
}

}  // namespace

const PortEntry& scalar_port() { return ports().back(); }

#if defined(INTFLASH_TEST_EMULATED_PORTS)
const PortEntry* emulated_port(const char* native) {
  for (const Emulated& e : kEmulated) {
    if (runs_emulated_ports() && std::strcmp(e.native, native) == 0) return &e.port;
  }
  return nullptr;
}
#endif

const std::vector<PortEntry>& ports_under_test() {
  static const std::vector<PortEntry> found = find_ports_under_test();
  return found;
}

const std::vector<PortEntry>& all_test_ports() {
  static const std::vector<PortEntry> all = [] {
    std::vector<PortEntry> list = {scalar_port()};
    for (const PortEntry& port : ports_under_test()) list.push_back(port);
    return list;
  }();
  return all;
}

bool quick_tests() { return is_set("INTFLASH_TEST_QUICK"); }

std::int64_t quick_length(std::int64_t length, std::int64_t most) {
  return quick_tests() ? std::min(length, most) : length;
}

}  // namespace intflash::internal
