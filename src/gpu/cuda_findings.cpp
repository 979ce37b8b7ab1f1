// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "gpu/cuda_findings.h"

#include <algorithm>

namespace intflash::internal {

intflash_status check_sinks_found(const CudaRun& run) {
  const std::int64_t head = run.found.first_bad_sink;
  if (head == INT64_MAX) return INTFLASH_OK;
  float sink = 0;
  const intflash_status status =
      fetch(run, "looking at sinks", run.call.sinks + head, sizeof sink, &sink);
  if (status != INTFLASH_OK) return status;
  return fail(INTFLASH_NONFINITE_INPUT, "sinks[%lld] = %g: must be finite, or -infinity for none",
              static_cast<i64>(head), static_cast<double>(sink));
}

intflash_status check_finite(const char* name, const CudaFinding& finding, std::int64_t heads,
                             std::int64_t tokens) {
  if (finding.first_bad == INT64_MAX) return INTFLASH_OK;
  const std::int64_t row = finding.first_bad / tokens;
  return fail(INTFLASH_NONFINITE_INPUT,
              "%s[batch %lld][head %lld][token %lld]: holds NaN or infinity: must be finite", name,
              static_cast<i64>(row / heads), static_cast<i64>(row % heads),
              static_cast<i64>(finding.first_bad % tokens));
}

std::int64_t request_of_query(const CudaRun& run, std::int64_t query) {
  const Schedule& schedule = run.plan->schedule;
  const Request* const after = std::upper_bound(
      schedule.requests, schedule.requests + schedule.num_requests, query,
      [](std::int64_t q, const Request& request) { return q < request.first_query; });
  return after - schedule.requests - 1;
}

intflash_status fetch(const CudaRun& run, const char* what, const void* from, std::int64_t bytes,
                      void* to) {
  const CudaDevice& device = run.device();
  CudaError error =
      device.table->copy(device.index, run.call.stream, from, static_cast<std::size_t>(bytes), to);
  if (error.is_none()) error = device.table->wait(device.index, run.call.stream);
  return check_cuda(device, what, error);
}

}  // namespace intflash::internal
