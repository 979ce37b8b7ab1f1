// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A file that appears under its name whole or not at all: written beside it, then renamed over it.
#pragma once

#include <cstddef>
#include <string>

namespace intflash {

class AtomicFile {
 public:
  // Opens a temporary file in the folder of path; throws Failure naming path where that is refused.
  // A symbolic link is followed. What is not a regular file (a pipe, /dev/null) is written
  // directly.
  explicit AtomicFile(std::string path);
  ~AtomicFile();  // removes the temporary file unless commit() succeeded
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* bytes, std::size_t size);
  void finish();  // flushes to disk and closes: what can still fail after it is the rename alone
  void commit();  // finish() and rename

 private:
  [[noreturn]] void fail(const char* action) const;

  std::string path_;       // as the user wrote it, for messages
  std::string target_;     // with symbolic links resolved
  std::string temporary_;  // empty where target_ is written directly
  int descriptor_ = -1;
};

}  // namespace intflash
