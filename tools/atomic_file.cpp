// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// AtomicFile over the POSIX calls: mkstemp, write, fsync, rename.
#include "atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "failure.h"

namespace intflash {
namespace {

// Where a rename must go so that a symbolic link keeps pointing at the new contents.
std::string resolve_links(const std::string& path) {
  char* resolved = ::realpath(path.c_str(), nullptr);
  if (resolved == nullptr) return path;  // does not exist yet
  std::string result = resolved;
  std::free(resolved);
  return result;
}

// mkstemp creates 0600; a result should be as readable as any file that the user creates.
mode_t permissions_of(const std::string& target) {
  struct stat status = {};
  if (::stat(target.c_str(), &status) == 0) return status.st_mode & 07777;
  const mode_t mask = ::umask(0);
  ::umask(mask);
  return 0666 & ~mask;
}

bool exists_but_is_not_regular(const std::string& path) {
  struct stat status = {};
  return ::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode);
}

}  // namespace

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)), target_(resolve_links(path_)) {
  if (exists_but_is_not_regular(target_)) {
    descriptor_ = ::open(target_.c_str(), O_WRONLY | O_CLOEXEC);
    if (descriptor_ < 0) fail("open for writing");
    return;
  }
  temporary_ = target_ + ".XXXXXX";
  descriptor_ = ::mkstemp(temporary_.data());
  if (descriptor_ < 0) {
    temporary_.clear();
    fail("create");
  }
  ::fchmod(descriptor_, permissions_of(target_));
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* bytes, std::size_t size) {
  const char* next = static_cast<const char*>(bytes);
  while (size > 0) {
    const ssize_t written = ::write(descriptor_, next, size);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail("write");
    next += written;
    size -= static_cast<std::size_t>(written);
  }
}

void AtomicFile::finish() {
  if (descriptor_ < 0) return;
  // Without fsync a crash after the rename may leave an empty file under the name. Pipes have none.
  if (!temporary_.empty() && ::fsync(descriptor_) != 0) fail("write");
  if (::close(std::exchange(descriptor_, -1)) != 0) fail("close");
}

void AtomicFile::commit() {
  finish();
  if (temporary_.empty()) return;
  if (std::rename(temporary_.c_str(), target_.c_str()) != 0) fail("rename into place");
  temporary_.clear();
}

void AtomicFile::fail(const char* action) const {
  throw Failure(fmt::format("{}: cannot {}: {}", path_, action, std::strerror(errno)));
}

}  // namespace intflash
