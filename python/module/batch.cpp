// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "batch.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "cache.h"
#include "errors.h"
#include "frameworks.h"
#include "inputs.h"
#include "parameters.h"
#include "rope.h"
#include "rows.h"
#include "run.h"

namespace intflash::python {
namespace {

struct DestroyPlan {
  void operator()(intflash_plan* plan) const { intflash_plan_destroy(plan); }
};

struct RunOptions {
  nb::handle masks, trees, sinks, alibi, rope;
  bool wants_lse;
};

// The plan is made when query's heads and types are known, at the first run, and kept.
class Batch {
 public:
  using Table = std::vector<std::int32_t>;  // pages of a request

  // Of sequences of the cache, or of tables of the caller's.
  Batch(Cache& cache, std::vector<std::int32_t> sequences,
        const std::optional<std::vector<Table>>& tables, nb::handle query_lens, nb::handle kv_lens,
        nb::handle first_positions, const Mask& mask, float scale, float cap,
        std::int32_t score_digits, intflash_mode mode)
      : cache_(cache),
        sequences_(std::move(sequences)),
        cap_(cap),
        score_digits_(score_digits),
        mode_(mode) {
    for (const std::int32_t sequence : sequences_) add_request(mask, scale, sequence);
    if (tables.has_value()) add_tables(*tables, mask, scale);
    set_lengths("query_lens", query_lens, &intflash_request::query_len);
    set_lengths("kv_lens", kv_lens, &intflash_request::kv_len);
    set_lengths("first_positions", first_positions, &intflash_request::first_key_position);
    if (tables.has_value() && kv_lens.is_none())
      raise(INTFLASH_INVALID_ARGUMENT,
            "kv_lens is None: pages do not say how many tokens there are");
  }

  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  std::vector<std::int64_t> lengths(std::int64_t intflash_request::*length) const {
    std::vector<std::int64_t> result;
    for (const intflash_request& request : requests_) result.push_back(request.*length);
    return result;
  }

  // out, and lse where it is wanted, as rows: (rows, heads, head_dim_v) and (heads, rows).
  nb::object run(nb::handle query, nb::handle layer, const RunOptions& options, nb::handle out);

 private:
  using Kind = std::tuple<std::int64_t, intflash_dtype, intflash_dtype>;

  void add_request(const Mask& mask, float scale, std::optional<std::int32_t> sequence);
  void add_tables(const std::vector<Table>& tables, const Mask& mask, float scale);
  void set_lengths(const char* name, nb::handle lengths, std::int64_t intflash_request::*length);
  const intflash_plan* plan_for(const Kind& kind);
  std::int64_t num_rows() const {
    std::int64_t rows = 0;
    for (const intflash_request& request : requests_) rows += request.query_len;
    return rows;
  }

  Cache& cache_;
  std::vector<std::int32_t> sequences_;
  std::vector<std::int64_t> page_indptr_;  // of tables; empty where sequences are attended
  Table page_ids_;
  std::vector<intflash_request> requests_;
  float cap_;
  std::int32_t score_digits_;
  intflash_mode mode_;
  std::vector<std::pair<Kind, std::unique_ptr<intflash_plan, DestroyPlan>>> plans_;
};

void Batch::add_request(const Mask& mask, float scale, std::optional<std::int32_t> sequence) {
  intflash_request request{};
  request.query_len = 1;
  if (sequence.has_value()) {
    const Cache::Reading use(cache_);
    check(intflash_sequence_get_range(use.get(), *sequence, &request.first_key_position,
                                      &request.kv_len));
  }
  request.mask = mask.kind;
  request.window_left = mask.window_left;
  request.window_right = mask.window_right;
  request.prefix_len = mask.prefix_len;
  request.softmax_scale = scale;
  requests_.push_back(request);
}

void Batch::add_tables(const std::vector<Table>& tables, const Mask& mask, float scale) {
  page_indptr_.push_back(0);
  for (const Table& table : tables) {
    add_request(mask, scale, std::nullopt);
    page_ids_.insert(page_ids_.end(), table.begin(), table.end());
    page_indptr_.push_back(static_cast<std::int64_t>(page_ids_.size()));
  }
}

void Batch::set_lengths(const char* name, nb::handle lengths,
                        std::int64_t intflash_request::*length) {
  if (lengths.is_none()) return;
  std::vector<std::int64_t> given;
  for (const nb::handle value : lengths) given.push_back(integer(name, value, 0));
  if (given.size() != requests_.size())
    raise(INTFLASH_BAD_SHAPE, std::string(name) + " has " + std::to_string(given.size()) +
                                  " numbers: one for each of " + std::to_string(requests_.size()) +
                                  " sequences is wanted");
  for (std::size_t i = 0; i < given.size(); ++i) requests_[i].*length = given[i];
}

const intflash_plan* Batch::plan_for(const Kind& kind) {
  for (const auto& [key, plan] : plans_)
    if (key == kind) return plan.get();
  intflash_batch_desc desc{};
  desc.struct_size = sizeof desc;
  desc.request_size = sizeof(intflash_request);
  desc.shared_prefix_size = sizeof(intflash_shared_prefix);
  desc.num_requests = static_cast<std::int64_t>(requests_.size());
  desc.requests = requests_.data();
  std::tie(desc.num_query_heads, desc.query_dtype, desc.out_dtype) = kind;
  desc.mode = mode_;
  desc.score_cap = cap_;
  desc.score_digits = score_digits_;
  intflash_plan* plan = nullptr;
  const Cache::Reading use(cache_);
  check(intflash_plan_batch(cache_.context(), use.get(), &desc, &plan));
  plans_.emplace_back(kind, plan);
  return plan;
}

void want_one_each(const char* name, std::size_t given, std::size_t wanted) {
  if (given == wanted) return;
  raise(INTFLASH_BAD_SHAPE, std::string(name) + " has " + std::to_string(given) +
                                " entries: one for each of " + std::to_string(wanted) +
                                " sequences is wanted, an array or None");
}

// A run's masks, one or none for each request: arrays of the caller's, and what the run reads.
struct Masks {
  std::vector<std::unique_ptr<Array>> arrays;
  std::vector<intflash_additive_mask> masks;

  Masks(nb::handle given, const std::vector<intflash_request>& requests, std::int64_t heads) {
    if (given.is_none()) return;
    for (const nb::handle source : given) add(source, requests, heads);
    want_one_each("masks", masks.size(), requests.size());
  }

  void add(nb::handle source, const std::vector<intflash_request>& requests, std::int64_t heads) {
    intflash_additive_mask& mask = masks.emplace_back();
    if (source.is_none() || masks.size() > requests.size()) return;
    const intflash_request& request = requests[masks.size() - 1];
    Array& array = *arrays.emplace_back(std::make_unique<Array>("masks", source));
    mask = mask_tensor_of(
        array, {1, heads, request.query_len, request.kv_len - request.first_key_position});
  }
};

// The same of trees.
struct Trees {
  std::vector<Tree> trees;
  std::vector<intflash_bit_mask> masks;

  Trees(nb::handle given, const std::vector<intflash_request>& requests) {
    if (given.is_none()) return;
    std::size_t count = 0;
    for (const nb::handle source : given)
      if (count++ < requests.size()) trees.emplace_back(source, requests[count - 1].query_len);
    want_one_each("trees", count, requests.size());
    for (const Tree& tree : trees) masks.push_back(tree.mask());
  }
};

nb::object Batch::run(nb::handle query, nb::handle layer, const RunOptions& options,
                      nb::handle out) {
  Array query_array("query", query);
  const Rows query_rows = rows_of(query_array, static_cast<std::int64_t>(requests_.size()));
  if (query_rows.count != num_rows()) {
    raise(INTFLASH_BAD_SHAPE, "query has " + std::to_string(query_rows.count) +
                                  " rows: query_lens come to " + std::to_string(num_rows()));
  }
  if (query_rows.dim != cache_.head_dim()) {
    raise(INTFLASH_BAD_SHAPE, "query has head dimension " + std::to_string(query_rows.dim) +
                                  ": the cache's is " + std::to_string(cache_.head_dim()));
  }
  const Extents out_shape = {query_rows.count, query_rows.heads, cache_.head_dim_v()};
  const intflash_dtype out_dtype =
      may_be_out(query_array.dtype()) ? query_array.dtype() : INTFLASH_F32;
  const nb::object result =
      out.is_none() ? make_output(query_array, out_shape.data(), 3, out_dtype) : nb::borrow(out);
  const Array out_array("out", result);
  want_output(out_array, out_shape, 3);

  intflash_batch_args args{};
  args.struct_size = sizeof args;
  args.additive_mask_size = sizeof(intflash_additive_mask);
  args.bit_mask_size = sizeof(intflash_bit_mask);
  args.state_size = sizeof(intflash_state);
  args.query = query_rows.tensor;
  args.out.data = out_array.data();
  args.out.stride_token = out_array.stride(0);
  args.out.stride_head = out_array.stride(1);
  args.layer = integer("layer", layer, 0);
  if (page_indptr_.empty())
    args.sequences = sequences_.data();
  else
    args.pages = {page_indptr_.data(), page_ids_.data()};
  const std::vector<float> sinks = floats("sinks", options.sinks, query_rows.heads);
  const std::vector<float> slopes = floats("alibi", options.alibi, query_rows.heads);
  args.sinks = sinks.empty() ? nullptr : sinks.data();
  args.alibi_slopes = slopes.empty() ? nullptr : slopes.data();
  const Masks masks(options.masks, requests_, query_rows.heads);
  args.additive_masks = masks.masks.empty() ? nullptr : masks.masks.data();
  const Trees trees(options.trees, requests_);
  args.bit_masks = trees.masks.empty() ? nullptr : trees.masks.data();
  const Rope rope(options.rope);
  args.rope = rope.get();
  nb::object lse;
  std::optional<Array> lse_array;
  if (options.wants_lse) {
    const Extents lse_shape = {query_rows.heads, query_rows.count};
    lse = make_output(query_array, lse_shape.data(), 2, INTFLASH_F32);
    lse_array.emplace("lse", lse);
    args.lse = static_cast<float*>(lse_array->data());
  }

  const intflash_plan* const plan =
      plan_for({query_rows.heads, query_array.dtype(), out_array.dtype()});
  const Cache::Reading use(cache_);
  const Cache::Borrowed workspace(cache_, intflash_plan_workspace_bytes(plan));
  Run run;
  args.should_cancel = Run::should_cancel;
  args.cancel_user = &run;
  run([&] {
    return intflash_run_batch(plan, use.get(), &args, workspace.data(), workspace.bytes());
  });
  return options.wants_lse ? nb::make_tuple(result, lse) : result;
}

}  // namespace

void add_batch(nb::module_& module) {
  nb::class_<Batch>(module, "Batch")
      .def(
          "__init__",
          [](Batch* self, Cache& cache, std::vector<std::int32_t> sequences,
             std::optional<std::vector<Batch::Table>> tables, nb::handle query_lens,
             nb::handle kv_lens, nb::handle first_positions, nb::handle causal, nb::handle window,
             nb::handle prefix, nb::handle scale, nb::handle cap, nb::handle score_digits,
             nb::handle mode) {
            new (self)
                Batch(cache, std::move(sequences), tables, query_lens, kv_lens, first_positions,
                      mask_of(causal, window, prefix), softmax_scale_of(scale), cap_of(cap),
                      score_digits_of(score_digits), mode_of(mode));
          },
          nb::arg("cache"), nb::arg("sequences"), nb::arg("tables").none(),
          nb::arg("query_lens").none(), nb::arg("kv_lens").none(),
          nb::arg("first_positions").none(), nb::arg("causal").none(), nb::arg("window").none(),
          nb::arg("prefix").none(), nb::arg("scale").none(), nb::arg("cap").none(),
          nb::arg("score_digits").none(), nb::arg("mode"), nb::keep_alive<1, 2>())
      .def_prop_ro("query_lens",
                   [](const Batch& self) { return self.lengths(&intflash_request::query_len); })
      .def_prop_ro("kv_lens",
                   [](const Batch& self) { return self.lengths(&intflash_request::kv_len); })
      .def(
          "run",
          [](Batch& self, nb::handle query, nb::handle layer, nb::handle masks, nb::handle trees,
             nb::handle sinks, nb::handle alibi, nb::handle rope, bool lse, nb::handle out) {
            return self.run(query, layer, {masks, trees, sinks, alibi, rope, lse}, out);
          },
          nb::arg("query").none(), nb::arg("layer"), nb::arg("masks").none(),
          nb::arg("trees").none(), nb::arg("sinks").none(), nb::arg("alibi").none(),
          nb::arg("rope").none(), nb::arg("lse"), nb::arg("out").none());
}

}  // namespace intflash::python
