// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// How many threads a context has, in processes with OpenMP's variables set: a pool's are none of
// theirs to change, OpenMP's are.
#include <intflash/intflash.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>

namespace {

// 0 where there are no such threads.
int num_threads(intflash_threads threads) {
  intflash_context_options options{};
  options.struct_size = sizeof options;
  options.threads = threads;
  intflash_context* context = nullptr;
  if (intflash_context_create(&options, &context) != INTFLASH_OK) return 0;
  const int number = intflash_context_num_threads(context);
  intflash_context_destroy(context);
  return number;
}

struct Numbers {
  int pool, openmp;
};

Numbers numbers_under(const std::string& environment, const std::string& program) {
  Numbers numbers{-1, -1};
  FILE* output = popen((environment + " " + program + " print").c_str(), "r");
  if (output == nullptr || fscanf(output, "%d %d", &numbers.pool, &numbers.openmp) != 2)
    numbers = {-1, -1};
  if (output != nullptr) pclose(output);
  return numbers;
}

}  // namespace

int main(int argc, char** argv) {
  const Numbers own{num_threads(INTFLASH_THREADS_POOL), num_threads(INTFLASH_THREADS_OPENMP)};
  if (argc > 1 && strcmp(argv[1], "print") == 0) return printf("%d %d\n", own.pool, own.openmp) < 0;

  int failures = 0;
  const auto expect = [&](const std::string& environment, int pool, int openmp) {
    const Numbers found = numbers_under(environment, argv[0]);
    if (found.pool == pool && (openmp < 0 || own.openmp == 0 || found.openmp == openmp)) return;
    ++failures;
    fprintf(stderr, "%s: %d of a pool, %d of OpenMP; expected %d, %d\n", environment.c_str(),
            found.pool, found.openmp, pool, openmp);
  };
  expect("OMP_NUM_THREADS=3", own.pool, 3);
  expect("OMP_NUM_THREADS=3 OMP_PROC_BIND=true", own.pool, 3);
  for (const char* binding :
       {"OMP_PROC_BIND=true", "OMP_PROC_BIND=close", "OMP_PROC_BIND=spread", "OMP_PLACES=cores",
        "OMP_PLACES=threads", "GOMP_CPU_AFFINITY=0-1023", "OMP_PROC_BIND=true OMP_PLACES=sockets"})
    expect(binding, own.pool, -1);
  return failures;
}
