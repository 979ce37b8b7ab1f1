// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "cache.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "contexts.h"
#include "errors.h"
#include "inputs.h"
#include "parameters.h"
#include "rope.h"
#include "rows.h"
#include "run.h"
#include "stream.h"

namespace intflash::python {
namespace {

constexpr std::size_t kAlignment = 64;

// [num_layers]: where each layer's pages lie, all in equally many bytes.
std::vector<Memory> memory_of(nb::handle arrays) {
  std::vector<Memory> memory;
  if (arrays.is_none()) return memory;
  for (const nb::handle array : arrays) {
    if (!nb::try_cast(array, memory.emplace_back(), false)) {
      raise(INTFLASH_INVALID_ARGUMENT,
            "memory is " + text_of(nb::repr(array.type())) +
                ": an array without gaps is wanted, on the CPU, that can be written to");
    }
    if (memory.back().nbytes() != memory.front().nbytes()) {
      raise(INTFLASH_BAD_SHAPE, "memory has " + std::to_string(memory.back().nbytes()) +
                                    " bytes for layer " + std::to_string(memory.size() - 1) +
                                    ", and " + std::to_string(memory.front().nbytes()) +
                                    " for layer 0");
    }
  }
  return memory;
}

void want_rows(const char* name, const Rows& rows, std::int64_t count, std::int64_t heads,
               std::int64_t dim) {
  const std::int64_t given[] = {rows.count, rows.heads, rows.dim}, wanted[] = {count, heads, dim};
  if (std::equal(given, given + 3, wanted)) return;
  raise(INTFLASH_BAD_SHAPE, std::string(name) + " is " + shape_text(given, 3) +
                                " in rows, heads and dimension: " + shape_text(wanted, 3) +
                                " is wanted");
}

// ---- Sequences ----

std::int32_t create(Cache& self) {
  const Cache::Changing use(self);
  std::int32_t sequence = -1;
  check(intflash_sequence_create(use.get(), &sequence));
  return sequence;
}

void free_sequence(Cache& self, std::int32_t sequence) {
  const Cache::Changing use(self);
  check(intflash_sequence_free(use.get(), sequence));
}

std::int32_t fork(Cache& self, std::int32_t sequence) {
  const Cache::Changing use(self);
  std::int32_t fork = -1;
  check(intflash_sequence_fork(use.get(), sequence, &fork));
  return fork;
}

void truncate(Cache& self, std::int32_t sequence, nb::handle kv_len) {
  const Cache::Changing use(self);
  check(intflash_sequence_truncate(use.get(), sequence, integer("kv_len", kv_len, 0)));
}

void drop_before(Cache& self, std::int32_t sequence, nb::handle position) {
  const Cache::Changing use(self);
  check(intflash_sequence_drop_before(use.get(), sequence, integer("position", position, 0)));
}

nb::tuple get_range(Cache& self, std::int32_t sequence) {
  const Cache::Reading use(self);
  std::int64_t first = 0, kv_len = 0;
  check(intflash_sequence_get_range(use.get(), sequence, &first, &kv_len));
  return nb::make_tuple(first, kv_len);
}

std::vector<std::int32_t> get_pages(Cache& self, std::int32_t sequence) {
  const Cache::Reading use(self);
  const std::int32_t* pages = nullptr;
  std::int64_t count = 0;
  check(intflash_sequence_get_pages(use.get(), sequence, &pages, &count));
  return {pages, pages + count};
}

// ---- Tokens in and out ----

void append(Cache& self, const std::vector<std::int32_t>& sequences, nb::handle key,
            nb::handle value, nb::handle lengths, nb::handle layer, nb::handle rope) {
  Array key_array("key", key), value_array("value", value);
  const auto num_sequences = static_cast<std::int64_t>(sequences.size());
  const Rows key_rows = rows_of(key_array, num_sequences);
  const Rows value_rows = rows_of(value_array, num_sequences);
  const std::vector<std::int64_t> indptr = row_indptr("key", key_rows, num_sequences, lengths);
  want_rows("key", key_rows, key_rows.count, self.num_kv_heads(), self.head_dim());
  want_rows("value", value_rows, key_rows.count, self.num_kv_heads(), self.head_dim_v());
  intflash_append_args args{};
  args.struct_size = sizeof args;
  args.num_requests = num_sequences;
  args.token_indptr = indptr.data();
  args.key_dtype = key_array.dtype();
  args.value_dtype = value_array.dtype();
  args.key = key_rows.tensor;
  args.value = value_rows.tensor;
  args.layer = integer("layer", layer, 0);
  const Rope tables(rope);
  args.rope = tables.get();
  const Cache::Changing use(self);
  Run run;
  run([&] { return intflash_sequences_append(use.get(), sequences.data(), &args); });
}

using Numbers = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// One for each token of key.
Numbers numbers_of(const char* name, nb::handle source, std::int64_t count) {
  Numbers numbers;
  if (!nb::try_cast(source, numbers, false) || static_cast<std::int64_t>(numbers.size()) != count) {
    raise(INTFLASH_BAD_SHAPE, std::string(name) + ": an array of " + std::to_string(count) +
                                  " numbers in int64 is wanted, one for each token of key");
  }
  return numbers;
}

// Where each token goes, by slots of the caller's.
void store(Cache& self, nb::handle key, nb::handle value, nb::handle slots, nb::handle layer,
           nb::handle rope, nb::handle positions) {
  Array key_array("key", key), value_array("value", value);
  key_array.want_rank(3, 3);
  const Rows key_rows = rows_of(key_array, 1), value_rows = rows_of(value_array, 1);
  want_rows("key", key_rows, key_rows.count, self.num_kv_heads(), self.head_dim());
  want_rows("value", value_rows, key_rows.count, self.num_kv_heads(), self.head_dim_v());
  const Numbers numbers = numbers_of("slots", slots, key_rows.count);
  if (rope.is_none() != positions.is_none())
    raise(INTFLASH_INVALID_ARGUMENT, "rope and positions: both are wanted, or neither");
  const Rope tables(rope);
  const Numbers places =
      positions.is_none() ? Numbers() : numbers_of("positions", positions, key_rows.count);
  const std::int64_t indptr[] = {0, key_rows.count};
  intflash_append_args args{};
  args.struct_size = sizeof args;
  args.num_requests = 1;
  args.token_indptr = indptr;
  args.key_dtype = key_array.dtype();
  args.value_dtype = value_array.dtype();
  args.key = key_rows.tensor;
  args.value = value_rows.tensor;
  args.layer = integer("layer", layer, 0);
  args.slots = numbers.data();
  args.rope = tables.get();
  args.positions = positions.is_none() ? nullptr : places.data();
  const Cache::Changing use(self);
  Run run;
  run([&] { return intflash_cache_append(use.get(), &args); });
}

// Into arrays of the caller's, (layers, kv heads, tokens, dim) in float32; None = not wanted.
void export_tokens(Cache& self, std::int32_t sequence, nb::handle begin, nb::handle end,
                   nb::handle key, nb::handle value) {
  const std::int64_t first = integer("begin", begin, 0), last = integer("end", end, 0);
  const std::int64_t layers = self.info().num_layers;
  std::optional<Array> arrays[2];
  intflash_tensor tensors[2];
  const intflash_tensor* wanted[2] = {};
  for (const int i : {0, 1}) {
    const nb::handle source = i == 0 ? key : value;
    if (source.is_none()) continue;
    Array& array = arrays[i].emplace(i == 0 ? "key" : "value", source);
    const Extents shape = {layers, self.num_kv_heads(), last - first,
                           i == 0 ? self.head_dim() : self.head_dim_v()};
    if (array.rank() != kMaxRank || array.shape() != shape || array.dtype() != INTFLASH_F32) {
      raise(INTFLASH_BAD_SHAPE, std::string(array.name()) + " has shape " + array.shape_text() +
                                    " and dtype " + dtype_name(array.dtype()) + ": " +
                                    shape_text(shape.data(), kMaxRank) + " in float32 is wanted");
    }
    array.want_writable();
    tensors[i] = tensor_of(array);
    wanted[i] = &tensors[i];
  }
  const Cache::Reading use(self);
  Run run;
  run([&] {
    return intflash_sequence_export(use.get(), sequence, first, last, wanted[0], wanted[1]);
  });
}

// ---- Saved sequences: through Python's functions, with the GIL held ----

void save(Cache& self, std::int32_t sequence, nb::handle write) {
  const Cache::Reading use(self);
  Stream stream{write};
  stream.finish(intflash_sequence_save(use.get(), sequence, write_bytes, &stream));
}

std::int32_t load(Cache& self, nb::handle read) {
  const Cache::Changing use(self);
  Stream stream{read};
  std::int32_t sequence = -1;
  stream.finish(intflash_sequence_load(use.get(), read_bytes, &stream, &sequence));
  return sequence;
}

nb::tuple info_tuple(Cache& self) {
  const intflash_cache_info info = self.info();
  return nb::make_tuple(
      info.num_layers, self.num_kv_heads(), self.head_dim(), self.head_dim_v(), info.page_size,
      info.num_pages, info.free_pages, info.num_sequences, info.page_bytes, info.bytes_per_token,
      codec_name(info.codec), info.rotates_keys != 0, info.rotates_values != 0, info.window_blocks,
      info.sink_blocks, info.num_window_pages, info.free_window_pages, info.window_page_bytes);
}

}  // namespace

Cache::Cache(const Options& options)
    : context_(context_of(options.threads)),
      num_kv_heads_(options.num_kv_heads),
      head_dim_(options.head_dim),
      head_dim_v_(options.head_dim_v == 0 ? options.head_dim : options.head_dim_v) {
  intflash_cache_options made{};
  made.struct_size = sizeof made;
  made.num_kv_heads = num_kv_heads_;
  made.head_dim = head_dim_;
  made.head_dim_v = head_dim_v_;
  made.page_size = options.page_size;
  made.num_pages = options.num_pages;
  made.num_layers = options.num_layers;
  made.codec = codec_of(options.codec);
  made.window_blocks = options.window_blocks;
  made.sink_blocks = options.sink_blocks;
  made.num_window_pages = options.num_window_pages;
  made.rotation = options.rotate ? INTFLASH_ROTATION_AUTO : INTFLASH_ROTATION_NONE;
  const std::vector<float> key_center = given_center("key_center", options.key_center, "layers",
                                                     {made.num_layers, num_kv_heads_, head_dim_});
  const std::vector<float> value_center =
      given_center("value_center", options.value_center, "layers",
                   {made.num_layers, num_kv_heads_, head_dim_v_});
  made.key_center = key_center.empty() ? nullptr : key_center.data();
  made.value_center = value_center.empty() ? nullptr : value_center.data();
  memory_ = memory_of(options.memory);
  std::vector<void*> arenas;
  for (const Memory& memory : memory_) arenas.push_back(memory.data());
  if (!arenas.empty()) {
    made.layer_arenas = arenas.data();
    made.arena_bytes = memory_.front().nbytes();
  }
  check(intflash_cache_create(context_, &made, &cache_));
}

Cache::~Cache() { intflash_cache_destroy(cache_); }

void Cache::close() {
  if (cache_ == nullptr) return;
  if (is_changing_ || readers_ != 0)
    raise(INTFLASH_BUSY, "the cache is in use by another call: it is not closed");
  intflash_cache_destroy(cache_);
  cache_ = nullptr;
  workspaces_.clear();
  memory_.clear();
}

void Cache::want_open() const {
  if (cache_ == nullptr) raise(INTFLASH_INVALID_ARGUMENT, "the cache is closed");
}

Cache::Reading::Reading(Cache& cache) : cache_(cache) {
  cache.want_open();
  if (cache.is_changing_)
    raise(INTFLASH_BUSY, "another call is changing the cache: such calls must not overlap in time");
  ++cache.readers_;
}

Cache::Changing::Changing(Cache& cache) : cache_(cache) {
  cache.want_open();
  if (cache.is_changing_ || cache.readers_ != 0)
    raise(INTFLASH_BUSY, "another call is using the cache: a change must not overlap it in time");
  cache.is_changing_ = true;
}

Cache::Borrowed::Borrowed(Cache& cache, std::size_t bytes) : cache_(cache) {
  if (!cache.workspaces_.empty()) {
    workspace_ = std::move(cache.workspaces_.back());
    cache.workspaces_.pop_back();
  }
  if (workspace_.bytes >= bytes) return;
  workspace_ = {};
  const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  workspace_.data = {std::aligned_alloc(kAlignment, rounded), std::free};
  if (workspace_.data == nullptr)
    raise(INTFLASH_OUT_OF_MEMORY,
          "no memory for a workspace of " + std::to_string(bytes) + " bytes");
  workspace_.bytes = rounded;
}

intflash_cache_info Cache::info() {
  const Reading use(*this);
  intflash_cache_info info{};
  info.struct_size = sizeof info;
  check(intflash_cache_get_info(use.get(), &info));
  return info;
}

void add_cache(nb::module_& module) {
  nb::class_<Cache>(module, "Cache")
      .def(
          "__init__",
          [](Cache* self, nb::handle num_kv_heads, nb::handle head_dim, nb::handle head_dim_v,
             nb::handle num_pages, nb::handle page_size, nb::handle num_layers, nb::handle codec,
             bool rotate, nb::handle key_center, nb::handle value_center, nb::handle threads,
             nb::handle memory, nb::handle window_blocks, nb::handle sink_blocks,
             nb::handle num_window_pages) {
            new (self) Cache(
                {integer("kv_heads", num_kv_heads, 0), integer("head_dim", head_dim, 0),
                 integer("head_dim_v", head_dim_v, 0), integer("pages", num_pages, 0),
                 integer("page_size", page_size, 0), integer("layers", num_layers, 1), codec,
                 key_center, value_center, threads, memory, rotate,
                 integer("window_blocks", window_blocks, 0), integer("sink_blocks", sink_blocks, 0),
                 integer("window_pages", num_window_pages, 0)});
          },
          nb::arg("kv_heads"), nb::arg("head_dim"), nb::arg("head_dim_v").none(), nb::arg("pages"),
          nb::arg("page_size"), nb::arg("layers"), nb::arg("codec"), nb::arg("rotate"),
          nb::arg("key_center").none(), nb::arg("value_center").none(), nb::arg("threads").none(),
          nb::arg("memory").none(), nb::arg("window_blocks"), nb::arg("sink_blocks"),
          nb::arg("window_pages"))
      .def("close", &Cache::close)
      .def("create", create)
      .def("free", free_sequence)
      .def("fork", fork)
      .def("truncate", truncate)
      .def("drop_before", drop_before)
      .def("range", get_range)
      .def("pages", get_pages)
      .def("append", append, nb::arg("sequences"), nb::arg("key").none(), nb::arg("value").none(),
           nb::arg("lengths").none(), nb::arg("layer"), nb::arg("rope").none())
      .def("store", store, nb::arg("key").none(), nb::arg("value").none(), nb::arg("slots").none(),
           nb::arg("layer"), nb::arg("rope").none(), nb::arg("positions").none())
      .def("export", export_tokens, nb::arg("sequence"), nb::arg("begin"), nb::arg("end"),
           nb::arg("key").none(), nb::arg("value").none())
      .def("save", save)
      .def("load", load)
      .def("info", info_tuple);
}

}  // namespace intflash::python
