// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// C++17 owners over the C interface of intflash.h. Header only. Errors are exceptions here, and
// here only: the library itself throws none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "intflash/intflash.h"

namespace intflash {

// A failed call: what() is intflash_last_error().
class Error : public std::runtime_error {
 public:
  explicit Error(intflash_status status)
      : std::runtime_error(intflash_last_error()), status_(status) {}
  intflash_status status() const noexcept { return status_; }

 private:
  intflash_status status_;
};

inline void check(intflash_status status) {
  if (status != INTFLASH_OK) throw Error(status);
}

// Zeroed structs with struct_size set, and F32 tensors unless said otherwise.
inline intflash_context_options context_options() {
  intflash_context_options options{};
  options.struct_size = sizeof options;
  return options;
}
inline intflash_attend_desc attend_desc() {
  intflash_attend_desc desc{};
  desc.struct_size = sizeof desc;
  desc.query_dtype = desc.key_dtype = desc.value_dtype = desc.out_dtype = INTFLASH_F32;
  return desc;
}
inline intflash_attend_args attend_args() {
  intflash_attend_args args{};
  args.struct_size = sizeof args;
  return args;
}

// A contiguous tensor [batch][heads][tokens][dim].
inline intflash_tensor contiguous(const void* data, std::int64_t heads, std::int64_t tokens,
                                  std::int64_t dim) {
  intflash_tensor tensor{};
  tensor.data = const_cast<void*>(data);
  tensor.stride_token = dim;
  tensor.stride_head = tokens * dim;
  tensor.stride_batch = heads * tokens * dim;
  return tensor;
}

class Context {
 public:
  Context() : Context(context_options()) {}
  explicit Context(const intflash_context_options& options) {
    intflash_context* context = nullptr;
    check(intflash_context_create(&options, &context));
    context_.reset(context);
  }

  intflash_context* get() const noexcept { return context_.get(); }
  const char* port() const noexcept { return intflash_context_port(get()); }
  int num_threads() const noexcept { return intflash_context_num_threads(get()); }
  // Plans, allocates and runs in one call.
  void attend(const intflash_attend_desc& desc, const intflash_attend_args& args) const {
    check(intflash_attend(get(), &desc, &args));
  }

 private:
  struct Destroy {
    void operator()(intflash_context* context) const noexcept { intflash_context_destroy(context); }
  };
  std::unique_ptr<intflash_context, Destroy> context_;
};

// Memory for one run at a time, aligned as the library wants it.
class Workspace {
 public:
  explicit Workspace(std::size_t bytes)
      : data_(::operator new(bytes == 0 ? 1 : bytes, kAlignment)), bytes_(bytes) {}
  void* data() const noexcept { return data_.get(); }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(void* data) const noexcept { ::operator delete(data, kAlignment); }
  };
  std::unique_ptr<void, Delete> data_;
  std::size_t bytes_;
};

// The context must outlive its plans.
class Plan {
 public:
  Plan(const Context& context, const intflash_attend_desc& desc) {
    intflash_plan* plan = nullptr;
    check(intflash_plan_attend(context.get(), &desc, &plan));
    plan_.reset(plan);
  }

  intflash_plan* get() const noexcept { return plan_.get(); }
  Workspace make_workspace() const { return Workspace(intflash_plan_workspace_bytes(get())); }
  intflash_plan_info info() const {
    intflash_plan_info info{};
    info.struct_size = sizeof info;
    check(intflash_plan_get_info(get(), &info));
    return info;
  }

  void run(const intflash_attend_args& args, Workspace& workspace) const {
    check(intflash_run(get(), &args, workspace.data(), workspace.bytes()));
  }
  void pack(const intflash_attend_args& args, Workspace& workspace) const {
    check(intflash_pack(get(), &args, workspace.data(), workspace.bytes()));
  }
  void run_packed(const intflash_attend_args& args, Workspace& workspace) const {
    check(intflash_run_packed(get(), &args, workspace.data(), workspace.bytes()));
  }

 private:
  struct Destroy {
    void operator()(intflash_plan* plan) const noexcept { intflash_plan_destroy(plan); }
  };
  std::unique_ptr<intflash_plan, Destroy> plan_;
};

}  // namespace intflash
