// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "context/ports.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/checks.h"
#include "machine/cpu_features.h"

namespace intflash::internal {

#define INTFLASH_PORT(name) extern const KernelTable kernels_##name;
#include "built_ports.inc"
#undef INTFLASH_PORT

namespace {

struct BuiltPort {
  const char* name;
  const KernelTable* kernels;
};
constexpr BuiltPort kBuiltPorts[] = {
#define INTFLASH_PORT(name) {#name, &kernels_##name},
#include "built_ports.inc"
#undef INTFLASH_PORT
};

struct KnownPort {
  const char* name;
  std::uint32_t required;  // CpuFeature bits
};
constexpr KnownPort kKnownPorts[] = {
#if defined(__x86_64__)
    {"amx_int8", kAmxInt8 | kAvx512Vbmi | kAvx512Vnni | kAvx2},
    {"avx512_vnni", kAvx512Vnni | kAvx2},
    {"avx_vnni", kAvxVnni | kAvx2},
    {"avx2", kAvx2},
#elif defined(__aarch64__)
    {"neon_i8mm", kNeonI8mm | kNeonDotprod},
    {"neon_dotprod", kNeonDotprod},
    {"neon", 0},
#endif
    {"scalar", 0},
};
constexpr std::size_t kNumPorts = std::size(kKnownPorts);

PortEntry make_entry(const KnownPort& known) {
  for (const BuiltPort& built : kBuiltPorts) {
    if (std::strcmp(built.name, known.name) != 0) continue;
    const char* missing = missing_feature(known.required);
    return {known.name, built.kernels, missing == nullptr, missing == nullptr ? "" : missing,
            known.required};
  }
  return {known.name, nullptr, false, "not in this build: the compiler lacked its flags"};
}

// "amx_int8 (CPU lacks AMX-INT8), avx2, scalar", as much as fits.
const char* list_ports(std::span<const PortEntry> among, char* text, std::size_t size) {
  std::size_t used = 0;
  for (const PortEntry& port : among) {
    const int written =
        std::snprintf(text + used, size - used, "%s%s%s%s%s", used == 0 ? "" : ", ", port.name,
                      port.supported ? "" : " (", port.reason, port.supported ? "" : ")");
    if (written < 0 || used + static_cast<std::size_t>(written) >= size) break;
    used += static_cast<std::size_t>(written);
  }
  return text;
}

}  // namespace

std::span<const PortEntry> ports() {
  static const std::array<PortEntry, kNumPorts> entries = [] {
    std::array<PortEntry, kNumPorts> list{};
    for (std::size_t i = 0; i < kNumPorts; ++i) list[i] = make_entry(kKnownPorts[i]);
    return list;
  }();
  return entries;
}

const KernelTable* find_kernels(const char* name) {
  for (const PortEntry& port : ports()) {
    if (port.supported && std::strcmp(port.name, name) == 0)
      return request_permission(port.required) == nullptr ? port.kernels : nullptr;
  }
  return nullptr;
}

intflash_status choose_port(const char* name, const PortEntry*& port) {
  return choose_port(name, ports(), request_permission, port);
}

const char* reason_passed_over(const PortEntry& port) {
  if (!port.supported) return port.reason;
  const char* refusal = earlier_refusal(port.required);
  return refusal == nullptr ? "passed over by request" : refusal;
}

intflash_status choose_port(const char* name, std::span<const PortEntry> among,
                            RequestPermission request, const PortEntry*& port) {
  const char* source = "isa";
  if (name == nullptr) {
    name = std::getenv("INTFLASH_ISA");
    source = "INTFLASH_ISA";
  }
  const bool any = name == nullptr || *name == '\0';
  char list[512];
  for (const PortEntry& entry : among) {
    if (!any && std::strcmp(entry.name, name) != 0) continue;
    const char* refusal = entry.supported ? request(entry.required) : entry.reason;
    if (refusal == nullptr) {
      port = &entry;
      return INTFLASH_OK;
    }
    if (!any) {
      return fail(INTFLASH_ISA_UNAVAILABLE, "%s = \"%s\" is not available: %s; ports: %s", source,
                  name, refusal, list_ports(among, list, sizeof list));
    }
  }
  return fail(INTFLASH_UNKNOWN_ISA, "%s = \"%s\" names no port; ports: %s", source, any ? "" : name,
              list_ports(among, list, sizeof list));
}

}  // namespace intflash::internal
