// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer over saved sequences of one or two layers: any bytes are loaded, or refused with a
// message that leaves the cache empty; what is loaded saves to the same bytes, and is attended
// without NaN, also behind tokens that follow, by its number and by its pages alike.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cache/sequence_file.h"
#include "core/int8_window.h"
#include "intflash/cache.h"
#include "pages/codec.h"

namespace {

using namespace intflash::internal;

constexpr std::int64_t kHeads = 2;
constexpr std::int64_t kDim = 8;
constexpr std::int64_t kPages = 4;

[[noreturn]] void stop(const char* what) {
  std::fprintf(stderr, "%s: %s\n", what, intflash_last_error());
  std::abort();
}
void require(bool good, const char* what) {
  if (!good) stop(what);
}

using File = std::vector<char>;

// What caches are of.
struct Kind {
  const Codec& codec;
  Int8Window window;
};
const Kind kKinds[] = {{kInt8Codec, {}},     {kK8v4Codec, {}},     {kK8v4Codec, {1, 1}},
                       {kK4v4Codec, {1, 0}}, {kK4v2Codec, {1, 1}}, {kK2v2Codec, {1, 0}},
                       {kK8v16Codec, {}}};

// Gives every whole record its checksum, so that what lies behind it is reached.
void seal(const Kind& kind, std::int64_t num_layers, File& file) {
  std::size_t at = 0;
  const auto record = [&](std::size_t size) {
    if (file.size() < at + size + 8) return false;
    const std::uint64_t checksum =
        record_checksum(file.data() + at, size, static_cast<std::int64_t>(at));
    std::memcpy(file.data() + at + size, &checksum, sizeof checksum);
    at += size + 8;
    return true;
  };
  if (!record(sizeof(FileHeader))) return;
  FileHeader header;
  std::memcpy(&header, file.data(), sizeof header);
  if ((header.parts & kWindow) != 0) record(sizeof(FileWindow));
  for (const std::uint32_t center : {kKeyCenter, kValueCenter}) {
    const std::int64_t heads = (header.parts & center) != 0 ? num_layers * kHeads : 0;
    for (std::int64_t h = 0; h < heads; ++h) record(kDim * 4);
  }
  const KeyRange coded =
      kind.window.is_none() ? KeyRange{0, INT64_MAX} : kind.window.coded_keys(header.kv_len);
  const std::int64_t first = std::clamp<std::int64_t>(header.first_key_position, 0, INT32_MAX);
  for (std::int64_t block = 0;; ++block) {
    const std::int64_t position = first + block / (num_layers * kHeads) * kBlockTokens;
    const bool is_coded = position >= coded.begin && position < coded.end;
    const PageLayout page =
        page_layout(is_coded ? kind.codec : kInt8Codec, kDim, kDim, kBlockTokens);
    if (!record(static_cast<std::size_t>(page.bytes()))) return;
  }
}

struct Owner {
  Owner(const Kind& kind, std::int64_t layers)
      : num_layers(layers),
        has_window(!kind.window.is_none()),
        mode(kind.codec.has_f16_values ? INTFLASH_MODE_INT8_QK : INTFLASH_MODE_INT8) {
    intflash_context_options context_options{};
    context_options.struct_size = sizeof context_options;
    context_options.num_threads = 1;
    if (intflash_context_create(&context_options, &context) != INTFLASH_OK) stop("context");
    intflash_cache_options options{};
    options.struct_size = sizeof options;
    options.num_kv_heads = kHeads;
    options.head_dim = kDim;
    options.num_pages = kPages;
    options.num_layers = num_layers;
    options.codec = kind.codec.id;
    options.window_blocks = kind.window.num_blocks;
    options.sink_blocks = kind.window.sink_blocks;
    options.rotation = INTFLASH_ROTATION_NONE;  // so that codes can be appended
    if (intflash_cache_create(context, &options, &cache) != INTFLASH_OK) stop("cache");
  }
  ~Owner() {
    intflash_cache_destroy(cache);
    intflash_context_destroy(context);
  }
  Owner(const Owner&) = delete;
  Owner& operator=(const Owner&) = delete;

  const std::int64_t num_layers;
  const bool has_window;  // pages are then the sequences' alone
  const intflash_mode mode;
  intflash_context* context = nullptr;
  intflash_cache* cache = nullptr;
};

struct Reader {
  const File& file;
  std::size_t used = 0;
  static std::size_t read(void* user, void* bytes, std::size_t num_bytes) {
    Reader& reader = *static_cast<Reader*>(user);
    const std::size_t left = reader.file.size() - reader.used;
    const std::size_t count = num_bytes < left ? num_bytes : left;
    if (count > 0) std::memcpy(bytes, reader.file.data() + reader.used, count);
    reader.used += count;
    return count;
  }
};

std::size_t append_to_file(void* file, const void* bytes, std::size_t num_bytes) {
  const char* first = static_cast<const char*>(bytes);
  static_cast<File*>(file)->insert(static_cast<File*>(file)->end(), first, first + num_bytes);
  return num_bytes;
}

void require_empty(const Owner& owner) {
  intflash_cache_info info{};
  info.struct_size = sizeof info;
  require(intflash_cache_get_info(owner.cache, &info) == INTFLASH_OK, "info");
  require(info.free_pages == kPages && info.num_sequences == 0, "pages are lost");
  require(info.free_window_pages == info.num_window_pages, "pages of the window are lost");
}

// Codes and scales of so many rows, which attend and append take as they are.
constexpr std::int64_t kRows = 3;
struct Codes {
  Codes() {
    for (std::size_t i = 0; i < std::size(codes); ++i)
      codes[i] = static_cast<std::int8_t>(static_cast<int>(i * 37 % 255) - 127);
  }
  intflash_tensor tensor() {
    intflash_tensor rows{};
    rows.data = codes;
    rows.stride_head = kDim;
    rows.stride_token = kHeads * kDim;
    rows.scale = scales;
    rows.scale_block = 1;
    return rows;
  }

  std::int8_t codes[kRows * kHeads * kDim];
  float scales[kRows] = {0.01f, 0.5f, 1e-9f};
};

// More tokens in all layers, or in none.
void append(const Owner& owner, std::int32_t sequence) {
  Codes codes;
  const std::int64_t token_indptr[] = {0, kRows};
  intflash_append_args args{};
  args.struct_size = sizeof args;
  args.num_requests = 1;
  args.token_indptr = token_indptr;
  args.key_dtype = args.value_dtype = INTFLASH_INT8;
  args.key = args.value = codes.tensor();
  for (; args.layer < owner.num_layers; ++args.layer) {
    const intflash_status status = intflash_sequences_append(owner.cache, &sequence, &args);
    require(status != INTFLASH_UNSUPPORTED, "codes are refused");
    if (args.layer == 0 && status != INTFLASH_OK) return;
    require(status == INTFLASH_OK, "append to a later layer");
  }
}

// One query over all that a layer holds; finite wherever it is not refused.
void attend(const Owner& owner, std::int32_t sequence, std::int64_t layer) {
  intflash_request request{};
  request.query_len = 1;
  require(intflash_sequence_get_range(owner.cache, sequence, &request.first_key_position,
                                      &request.kv_len) == INTFLASH_OK,
          "range");
  intflash_batch_desc desc{};
  desc.struct_size = sizeof desc;
  desc.request_size = sizeof(intflash_request);
  desc.num_requests = 1;
  desc.requests = &request;
  desc.num_query_heads = kHeads;
  desc.mode = owner.mode;
  desc.query_dtype = INTFLASH_INT8;
  desc.out_dtype = INTFLASH_F32;
  Codes codes;
  float out[kHeads * kDim];
  float by_number[kHeads * kDim];
  const std::int32_t* page_ids = nullptr;
  std::int64_t page_indptr[2] = {};
  require(
      intflash_sequence_get_pages(owner.cache, sequence, &page_ids, &page_indptr[1]) == INTFLASH_OK,
      "pages");
  const std::int32_t none = 0;
  intflash_batch_args args{};
  args.struct_size = sizeof args;
  args.query = codes.tensor();
  args.out.data = out;
  args.out.stride_head = kDim;
  args.out.stride_token = kHeads * kDim;
  args.layer = layer;
  args.pages = {page_indptr, page_ids == nullptr ? &none : page_ids};
  intflash_plan* plan = nullptr;
  require(intflash_plan_batch(owner.context, owner.cache, &desc, &plan) == INTFLASH_OK, "plan");
  const std::size_t bytes = (intflash_plan_workspace_bytes(plan) + 63) / 64 * 64;
  void* workspace = std::aligned_alloc(64, bytes);
  if (owner.has_window) {
    args.pages = {};
    args.sequences = &sequence;
  }
  const intflash_status status = intflash_run_batch(plan, owner.cache, &args, workspace, bytes);
  require(status == INTFLASH_OK || status == INTFLASH_SCORE_OVERFLOW, "run");
  for (std::int64_t i = 0; status == INTFLASH_OK && i < kHeads * kDim; ++i)
    require(!std::isnan(out[i]), "NaN in out");
  args.pages = {};
  args.sequences = &sequence;
  args.out.data = by_number;
  require(intflash_run_batch(plan, owner.cache, &args, workspace, bytes) == status,
          "another status by number");
  require(status != INTFLASH_OK || std::equal(out, out + kHeads * kDim, by_number),
          "other bits by number");
  std::free(workspace);
  intflash_plan_destroy(plan);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  // The last byte says whether the checksums are made to fit, how many layers there are, and of
  // what kind.
  File file(data, data + size - 1);
  const std::int64_t num_layers = 1 + data[size - 1] / 2 % 2;
  const Kind& kind = kKinds[data[size - 1] / 4 % std::size(kKinds)];
  if (data[size - 1] % 2 == 1) seal(kind, num_layers, file);
  Owner owner(kind, num_layers);
  Reader reader{file};
  std::int32_t sequence = -1;
  const intflash_status status =
      intflash_sequence_load(owner.cache, Reader::read, &reader, &sequence);
  if (status != INTFLASH_OK) {
    require(status == INTFLASH_BAD_FILE || status == INTFLASH_POOL_EXHAUSTED, "status");
    require_empty(owner);
    return 0;
  }
  FileHeader header;
  std::memcpy(&header, file.data(), sizeof header);
  File saved;
  require(intflash_sequence_save(owner.cache, sequence, append_to_file, &saved) == INTFLASH_OK,
          "save");
  // Centres of zero are none in this cache, and are not written.
  if ((header.parts & (kKeyCenter | kValueCenter)) == 0)
    require(saved == File(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(reader.used)),
            "not the same bytes");
  for (std::int64_t layer = 0; layer < num_layers; ++layer) attend(owner, sequence, layer);
  append(owner, sequence);
  for (std::int64_t layer = 0; layer < num_layers; ++layer) attend(owner, sequence, layer);
  require(intflash_sequence_free(owner.cache, sequence) == INTFLASH_OK, "free");
  require_empty(owner);
  return 0;
}
