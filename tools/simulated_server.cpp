// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Steps through the C interface, as a server makes them, and the comparison of what they give.
#include "simulated_server.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "error_metrics.h"
#include "failure.h"
#include "stopwatch.h"

namespace intflash {
namespace {

// Mode int8 is 1.4 % off on normal inputs (docs/accuracy.md), and a token of one or two small heads
// up to 3 %. A page that is not the sequence's gives tens of per cent; the bits tell the rest.
constexpr double kMaxRelativeError = 0.04;

intflash_tensor token_rows(const std::vector<float>& rows, std::int64_t heads, std::int64_t dim) {
  intflash_tensor tensor = {};
  tensor.data = const_cast<float*>(rows.data());
  tensor.stride_head = dim;
  tensor.stride_token = heads * dim;
  return tensor;
}

std::vector<std::int64_t> indptr_of(std::span<const StepPart> parts) {
  std::vector<std::int64_t> indptr{0};
  for (const StepPart& part : parts) indptr.push_back(indptr.back() + part.count);
  return indptr;
}

intflash_cache_options options_of(const ServerShape& shape) {
  intflash_cache_options options = cache_options();
  options.num_kv_heads = shape.num_kv_heads;
  options.head_dim = shape.head_dim;
  options.page_size = shape.page_size;
  options.num_pages = shape.num_pages;
  return options;
}

}  // namespace

SimulatedServer::SimulatedServer(const ServerShape& shape, int threads, const std::string& isa,
                                 std::uint64_t seed, bool keeps_floats)
    : shape_(shape),
      keeps_floats_(keeps_floats),
      context_(create_context(threads, isa)),
      cache_(context_, options_of(shape)),
      random_(seed) {}

std::int32_t SimulatedServer::create() {
  std::int32_t sequence = 0;
  check(intflash_sequence_create(cache_.get(), &sequence));
  floats_[sequence] = {};
  return sequence;
}

std::int32_t SimulatedServer::fork(std::int32_t sequence) {
  std::int32_t fork = 0;
  check(intflash_sequence_fork(cache_.get(), sequence, &fork));
  floats_[fork] = floats_.at(sequence);
  return fork;
}

void SimulatedServer::free(std::int32_t sequence) {
  check(intflash_sequence_free(cache_.get(), sequence));
  floats_.erase(sequence);
}

intflash_cache_info SimulatedServer::info() const { return cache_.info(); }

std::int64_t SimulatedServer::kv_len(std::int32_t sequence) const {
  std::int64_t length = 0;
  check(intflash_sequence_get_range(cache_.get(), sequence, nullptr, &length));
  return length;
}

double SimulatedServer::step(std::span<const StepPart> parts) {
  const std::vector<std::int64_t> token_indptr = indptr_of(parts);
  const auto draw = [&](std::vector<float>& rows, std::int64_t row) {
    rows.resize(static_cast<std::size_t>(token_indptr.back() * row));
    for (float& x : rows) x = static_cast<float>(random_.normal());
  };
  draw(query_, query_row());
  draw(key_, key_row());
  draw(value_, key_row());
  out_.assign(query_.size(), 0);
  if (keeps_floats_) keep(parts, token_indptr);

  const Stopwatch watch;
  std::vector<intflash_request> requests(parts.size());
  for (std::size_t i = 0; i < parts.size(); ++i) {
    requests[i].query_len = parts[i].count;
    requests[i].kv_len = kv_len(parts[i].sequence) + parts[i].count;
    requests[i].mask = INTFLASH_MASK_CAUSAL;
  }
  intflash_batch_desc desc = batch_desc();
  desc.num_requests = static_cast<std::int64_t>(requests.size());
  desc.requests = requests.data();
  desc.num_query_heads = shape_.num_query_heads;
  const Plan plan(context_, cache_, desc);
  append(parts, token_indptr);
  attend(parts, plan);
  return watch.seconds();
}

void SimulatedServer::append(std::span<const StepPart> parts,
                             const std::vector<std::int64_t>& token_indptr) {
  std::vector<std::int32_t> sequences;
  for (const StepPart& part : parts) sequences.push_back(part.sequence);
  intflash_append_args args = append_args();
  args.num_requests = static_cast<std::int64_t>(parts.size());
  args.token_indptr = token_indptr.data();
  args.key = token_rows(key_, shape_.num_kv_heads, shape_.head_dim);
  args.value = token_rows(value_, shape_.num_kv_heads, shape_.head_dim);
  cache_.append(sequences.data(), args);
}

void SimulatedServer::attend(std::span<const StepPart> parts, const Plan& plan) {
  std::vector<std::int64_t> page_indptr{0};
  std::vector<std::int32_t> page_ids;
  for (const StepPart& part : parts) {
    const std::int32_t* pages = nullptr;
    std::int64_t count = 0;
    check(intflash_sequence_get_pages(cache_.get(), part.sequence, &pages, &count));
    page_ids.insert(page_ids.end(), pages, pages + count);
    page_indptr.push_back(static_cast<std::int64_t>(page_ids.size()));
  }
  if (plan.workspace_bytes() > workspace_.bytes()) workspace_ = plan.make_workspace();
  intflash_batch_args args = batch_args();
  args.query = token_rows(query_, shape_.num_query_heads, shape_.head_dim);
  args.out = token_rows(out_, shape_.num_query_heads, shape_.head_dim);
  args.pages = {page_indptr.data(), page_ids.data()};
  plan.run(cache_, args, workspace_);
}

void SimulatedServer::keep(std::span<const StepPart> parts,
                           const std::vector<std::int64_t>& token_indptr) {
  for (std::size_t i = 0; i < parts.size(); ++i) {
    Floats& floats = floats_.at(parts[i].sequence);
    const auto extend = [&](std::vector<float>& to, const std::vector<float>& from) {
      to.insert(to.end(), from.begin() + token_indptr[i] * key_row(),
                from.begin() + token_indptr[i + 1] * key_row());
    };
    extend(floats.key, key_);
    extend(floats.value, value_);
  }
}

std::vector<float> SimulatedServer::attend_dense(const Floats& floats, std::int64_t first_row,
                                                 std::int64_t count, intflash_mode mode) const {
  intflash_attend_desc desc = attend_desc();
  desc.score_digits = 1;  // as the cache's keys have
  desc.mode = mode;
  desc.num_query_heads = shape_.num_query_heads;
  desc.num_kv_heads = shape_.num_kv_heads;
  desc.query_len = count;
  desc.kv_len = static_cast<std::int64_t>(floats.key.size()) / key_row();
  desc.head_dim = shape_.head_dim;
  desc.mask = INTFLASH_MASK_CAUSAL;
  desc.center = INTFLASH_CENTER_NONE;  // as the cache has none
  std::vector<float> out(static_cast<std::size_t>(count * query_row()));
  intflash_attend_args args = attend_args();
  args.query = token_rows(query_, shape_.num_query_heads, shape_.head_dim);
  args.query.data = const_cast<float*>(query_.data() + first_row * query_row());
  args.key = token_rows(floats.key, shape_.num_kv_heads, shape_.head_dim);
  args.value = token_rows(floats.value, shape_.num_kv_heads, shape_.head_dim);
  args.out = token_rows(out, shape_.num_query_heads, shape_.head_dim);
  context_.attend(desc, args);
  return out;
}

double SimulatedServer::verify(std::span<const StepPart> parts) const {
  double worst = 0;
  std::int64_t first_row = 0;
  for (const StepPart& part : parts) {
    const Floats& floats = floats_.at(part.sequence);
    const std::span<const float> found(out_.data() + first_row * query_row(),
                                       static_cast<std::size_t>(part.count * query_row()));
    const std::vector<float> dense =
        attend_dense(floats, first_row, part.count, INTFLASH_MODE_INT8);
    if (!std::equal(found.begin(), found.end(), dense.begin()))
      throw Failure(fmt::format("sequence {}: not the bits of the dense call", part.sequence));
    const std::vector<float> exact =
        attend_dense(floats, first_row, part.count, INTFLASH_MODE_EXACT);
    const double error = measure_error(found, exact).rel_l1;
    if (!(error <= kMaxRelativeError)) {
      throw Failure(
          fmt::format("sequence {}: relative L1 error {:.3g} against mode exact: above {}",
                      part.sequence, error, kMaxRelativeError));
    }
    worst = std::max(worst, error);
    first_row += part.count;
  }
  return worst;
}

}  // namespace intflash
