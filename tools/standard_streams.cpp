// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "standard_streams.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "failure.h"

namespace intflash {

void secure_standard_streams() {
  // The next file to be opened would take the place of a closed stream, and get what is printed to
  // it. Opened the wrong way round, the stand-in refuses as a closed stream does.
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(stream, F_GETFD) >= 0) continue;
    ::open("/dev/null", stream == STDIN_FILENO ? O_WRONLY : O_RDONLY);  // takes the lowest number
  }
  // A reader that has left, and a limit on file sizes, would end the process with temporary files
  // lying about.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
}

void require_stdout_written() {
  // Some file systems find out at the first close that they have no room.
  if (std::fflush(stdout) != 0 || ::close(::dup(STDOUT_FILENO)) != 0) {
    throw Failure(fmt::format("cannot write to standard output: {}", std::strerror(errno)));
  }
  if (std::ferror(stdout) != 0) throw Failure("cannot write to standard output");
}

bool is_stdout(const std::string& path) {
  if (path == "-") return true;
  struct stat named = {}, stream = {};
  return ::stat(path.c_str(), &named) == 0 && ::fstat(STDOUT_FILENO, &stream) == 0 &&
         named.st_dev == stream.st_dev && named.st_ino == stream.st_ino && !S_ISCHR(named.st_mode);
}

int take_stdout() {
  std::fflush(stdout);
  const int descriptor = ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  if (descriptor < 0 || ::dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
    throw Failure(fmt::format("cannot write to standard output: {}", std::strerror(errno)));
  }
  return descriptor;
}

}  // namespace intflash
