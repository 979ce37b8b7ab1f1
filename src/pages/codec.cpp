// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "pages/codec.h"

#include <cstdio>
#include <iterator>

#include "context/ports.h"
#include "core/checks.h"

namespace intflash::internal {
namespace {

// By id.
const Codec* const kCodecs[] = {&kInt8Codec, &kInt8WideCodec, &kK8v4Codec, &kK4v4Codec,
                                &kK4v2Codec, &kK2v2Codec,     &kK8v16Codec};
constexpr std::size_t kNumCodecs = std::size(kCodecs);

// "0 (int8), 1 (other)", as much as fits.
const char* list_codecs(char* text, std::size_t size) {
  std::size_t used = 0;
  for (const Codec* codec : kCodecs) {
    if (used >= size) break;
    used += static_cast<std::size_t>(std::snprintf(text + used, size - used, "%s%d (%s)",
                                                   used == 0 ? "" : ", ", codec->id, codec->name));
  }
  return text;
}

}  // namespace

PageLayout page_layout(const Codec& codec, std::int64_t head_dim, std::int64_t head_dim_v,
                       std::int64_t page_size) {
  return {head_dim,
          head_dim_v,
          page_size,
          codec.key_block_bytes(head_dim),
          codec.value_block_bytes(head_dim_v),
          codec.has_digits};
}

intflash_status choose_codec(std::int32_t id, std::int32_t layout_version, const Codec*& codec) {
  if (id < 0 || static_cast<std::size_t>(id) >= kNumCodecs) {
    char list[128];
    return fail(INTFLASH_INVALID_ARGUMENT, "codec = %d: must be one of %s", id,
                list_codecs(list, sizeof list));
  }
  const Codec& found = *kCodecs[id];
  if (layout_version != 0 && layout_version != found.layout_version) {
    return fail(INTFLASH_UNSUPPORTED,
                "page_layout_version = %d: pages of codec %s have version %d, or 0 for the newest",
                layout_version, found.name, found.layout_version);
  }
  codec = &found;
  return INTFLASH_OK;
}

intflash_status check_codec(const Codec& codec, const PortEntry& port) {
  if (!codec.is_expanded || port.kernels->rows->expand[codec.id] != nullptr) return INTFLASH_OK;
  return fail(INTFLASH_UNSUPPORTED, "codec = %d (%s): port %s does not expand its blocks", codec.id,
              codec.name, port.name);
}

const char* codec_name(std::uint32_t id) { return id < kNumCodecs ? kCodecs[id]->name : "unknown"; }

}  // namespace intflash::internal
