// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "plan.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "balance.h"
#include "call.h"
#include "cpu/batch.h"

namespace intflash {
namespace {

using Json = nlohmann::ordered_json;

intflash_request request_of(const PlanOptions& options) {
  intflash_request request{};
  request.query_len = options.query_len;
  request.kv_len = options.kv_len;
  if (options.mask == "none") {
    request.mask = INTFLASH_MASK_NONE;
  } else if (options.mask == "window") {
    request.mask = INTFLASH_MASK_WINDOW;
    request.window_left = options.window;
  } else if (options.mask == "prefix") {
    request.mask = INTFLASH_MASK_PREFIX;
    request.prefix_len = options.prefix_len;
  } else if (options.mask == "causal-top-left") {
    request.mask = INTFLASH_MASK_CAUSAL_TOP_LEFT;
  } else {
    request.mask = INTFLASH_MASK_CAUSAL;
  }
  return request;
}

// So many that are equal.
internal::NumaNodes make_nodes(int count) {
  internal::NumaNodes nodes;
  for (int i = 0; i < count; ++i) nodes.add(i, internal::CpuSet().set(static_cast<std::size_t>(i)));
  return nodes;
}

// A plan depends on the shape of a cache alone: one page will do.
Plan make_plan(const Context& context, const PlanOptions& options) {
  intflash_cache_options shape = cache_options();
  shape.num_kv_heads = options.kv_heads;
  shape.head_dim = options.head_dim;
  shape.num_pages = 1;
  shape.numa = INTFLASH_NUMA_BY_NODE;
  const Cache cache(context, shape);
  const std::vector<intflash_request> requests(static_cast<std::size_t>(options.batch),
                                               request_of(options));
  intflash_batch_desc desc = batch_desc();
  desc.num_requests = options.batch;
  desc.requests = requests.data();
  desc.num_query_heads = options.query_heads;
  return Plan(context, cache, desc);
}

Json report_of(const intflash_plan& plan) {
  const internal::Schedule& schedule = plan.schedule;
  std::int64_t of_heads = 0;
  std::int64_t parts = 0;
  for (std::int64_t i = 0; i < schedule.num_items; ++i) {
    of_heads += schedule.items[i].kind == internal::ItemKind::kHeads ? 1 : 0;
    parts += schedule.items[i].slot >= 0 ? 1 : 0;
  }
  const Balance balance = balance_of(schedule);
  return {{"workers", schedule.shape.num_workers},
          {"items", schedule.num_items},
          {"items_of_heads", of_heads},
          {"items_of_tiles", schedule.num_items - of_heads},
          {"parts_of_cut_ranges", parts},
          {"merges", schedule.num_merges},
          {"merge_share", balance.merge_share},
          {"busiest_over_mean", balance.busiest_over_mean},
          {"workspace_bytes", plan.workspace_bytes}};
}

}  // namespace

int run_plan(const PlanOptions& options) {
  const Context context = create_context(options.workers, options.isa);
  context.get()->nodes = make_nodes(options.nodes);
  const Plan plan = make_plan(context, options);
  Json report = report_of(*plan.get());
  report["local_reads"] = local_share(plan.get()->schedule, context.get()->nodes);
  if (options.json) {
    fmt::print("{}\n", report.dump(2));
    return 0;
  }
  const auto count = [&](const char* key) { return report[key].get<std::int64_t>(); };
  fmt::print("items      {}: {} of heads block by block, {} of tiles\n", count("items"),
             count("items_of_heads"), count("items_of_tiles"));
  fmt::print("cuts       {} items have a part of a key range\n", count("parts_of_cut_ranges"));
  fmt::print("merges     {}, {:.2f} % of the cost\n", count("merges"),
             100 * report["merge_share"].get<double>());
  fmt::print("balance    busiest of {} workers / mean {:.3f}\n", count("workers"),
             report["busiest_over_mean"].get<double>());
  if (options.nodes > 1) {
    fmt::print("nodes      {:.1f} % of key reads on their own of {} (simulated)\n",
               100 * report["local_reads"].get<double>(), options.nodes);
  }
  fmt::print("workspace  {} bytes\n", count("workspace_bytes"));
  return 0;
}

}  // namespace intflash
