// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// A file that appears under its name whole or not at all: written beside it, then renamed over it.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <string>

namespace intflash {

// A symbolic link is followed, to a file that need not exist yet. What cannot be replaced without a
// loss (a file with several names, of another owner, mounted on its own, in a folder that takes no
// new files) is overwritten in place by commit(). What is no regular file (a pipe, /dev/null) is
// written as it comes, and so is stdout: as "-", or by any name of the file or pipe that it is.
class AtomicFile {
 public:
  // Throws Failure naming path where it cannot be written.
  explicit AtomicFile(std::string path);
  ~AtomicFile();  // removes the temporary file unless commit() succeeded
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* bytes, std::size_t size);
  void finish();  // flushes to disk and closes: what can still fail is to put it into its place
  void commit();  // finish(), and puts it there

 private:
  bool open_temporary(const struct stat* replaced);
  void hold_temporary();
  void write_in_place();
  [[noreturn]] void fail(const char* action) const;

  std::string path_;       // as the user wrote it, for messages
  std::string target_;     // with symbolic links resolved
  std::string temporary_;  // empty where there is none
  std::string held_;       // what is to be written in place
  bool in_place_ = false;
  int descriptor_ = -1;
};

// Whether two outputs would be one file, however they are spelled. Devices do not count: what they
// are given, they do not keep.
bool are_one_file(const std::string& path_a, const std::string& path_b);

}  // namespace intflash
