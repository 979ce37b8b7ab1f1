// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Loads the library, runs it, and unloads it while its threads are there:
//   unloaded_library LIBRARY pool|openmp
#include <dlfcn.h>
#include <intflash/intflash.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <vector>

namespace {

constexpr int kHeads = 4, kTokens = 64, kDim = 64;

int fail(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  return 1;
}

intflash_context* left_behind = nullptr;

// Attends with a context that is left behind.
int attend(void* library, intflash_threads threads) {
  const auto create = reinterpret_cast<decltype(&intflash_context_create)>(
      dlsym(library, "intflash_context_create"));
  const auto attend =
      reinterpret_cast<decltype(&intflash_attend)>(dlsym(library, "intflash_attend"));
  if (create == nullptr || attend == nullptr) return fail("the library lacks its functions");

  intflash_context_options options{};
  options.struct_size = sizeof options;
  options.num_threads = 2;
  options.threads = threads;
  if (create(&options, &left_behind) != INTFLASH_OK) return fail("no context");

  std::vector<float> in(kHeads * kTokens * kDim, 1.0f), out(in.size());
  const auto tensor = [](std::vector<float>& elements) {
    intflash_tensor t{};
    t.data = elements.data();
    t.stride_head = kTokens * kDim;
    t.stride_token = kDim;
    return t;
  };
  intflash_attend_desc desc{};
  desc.struct_size = sizeof desc;
  desc.batch = 1;
  desc.num_query_heads = desc.num_kv_heads = kHeads;
  desc.query_len = desc.kv_len = kTokens;
  desc.head_dim = kDim;
  desc.query_dtype = desc.key_dtype = desc.value_dtype = desc.out_dtype = INTFLASH_F32;
  intflash_attend_args args{};
  args.struct_size = sizeof args;
  args.query = args.key = args.value = tensor(in);
  args.out = tensor(out);
  for (int i = 0; i < 20; ++i) {
    if (attend(left_behind, &desc, &args) != INTFLASH_OK) return fail("attention failed");
  }
  if (out.back() < 0.95f || out.back() > 1.05f) return fail("attention of ones is not one");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return fail("usage: unloaded_library LIBRARY pool|openmp");
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return fail(dlerror());
  const bool openmp = std::strcmp(argv[2], "openmp") == 0;
  if (attend(library, openmp ? INTFLASH_THREADS_OPENMP : INTFLASH_THREADS_POOL) != 0) return 1;
  dlclose(library);
  usleep(200000);  // the threads go from spinning to sleep
  return 0;
}
