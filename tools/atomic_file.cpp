// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// AtomicFile over the POSIX calls: mkstemp, write, fsync, rename.
#include "atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "failure.h"
#include "standard_streams.h"

namespace intflash {
namespace {

namespace fs = std::filesystem;

using Status = struct stat;

std::optional<Status> status_of(const std::string& path) {
  Status status = {};
  if (::stat(path.c_str(), &status) != 0) return std::nullopt;
  return status;
}

bool is_same(const std::optional<Status>& a, const std::optional<Status>& b) {
  return a && b && a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

// Where a rename must go so that a symbolic link keeps pointing at the new contents.
std::string follow_links(std::string path) {
  constexpr int kMostLinks = 40;  // the kernel's limit
  for (int i = 0; i < kMostLinks; ++i) {
    std::error_code error;
    const fs::path link = fs::read_symlink(path, error);
    if (error) break;
    path = fs::path(path).parent_path() / link;
  }
  return path;
}

std::string folder_of(const std::string& path) {
  const fs::path folder = fs::path(path).parent_path();
  return folder.empty() ? "." : folder.string();
}

// mkstemp creates 0600; a result should be as readable as any file that the user creates.
mode_t mode_of_new_files() {
  const mode_t mask = ::umask(0);
  ::umask(mask);
  return 0666 & ~mask;
}

// The folder takes no new file, though what is in it may be open to writing.
bool is_refusal(int error) { return error == EACCES || error == EPERM || error == EROFS; }

}  // namespace

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  if (is_stdout(path_)) {
    path_ = "standard output";
    descriptor_ = take_stdout();
    return;
  }
  const std::optional<Status> status = status_of(path_);
  if (!status && errno != ENOENT) fail("open for writing");
  if (status && !S_ISREG(status->st_mode)) {
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    if (descriptor_ < 0) fail("open for writing");
    return;
  }
  if (status && ::faccessat(AT_FDCWD, path_.c_str(), W_OK, AT_EACCESS) != 0) {
    fail("open for writing");
  }
  target_ = follow_links(path_);
  // A descriptor under /dev/fd is a link to the name that its file once had.
  const bool is_replaceable =
      !status || (status->st_nlink == 1 && is_same(status, status_of(target_)));
  in_place_ = !is_replaceable || !open_temporary(status ? &*status : nullptr);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

// False where the file has to be written in place.
bool AtomicFile::open_temporary(const Status* replaced) {
  // Of its own: the target's may be the longest name that the file system allows.
  temporary_ = folder_of(target_) + "/.intflash.XXXXXX";
  descriptor_ = ::mkstemp(temporary_.data());
  if (descriptor_ < 0) {
    temporary_.clear();
    if (replaced != nullptr && is_refusal(errno)) return false;
    fail("create");
  }
  if (replaced == nullptr) {
    ::fchmod(descriptor_, mode_of_new_files());
    return true;
  }
  if (::fchown(descriptor_, replaced->st_uid, replaced->st_gid) == 0) {
    ::fchmod(descriptor_, replaced->st_mode & 07777);
    return true;
  }
  ::close(std::exchange(descriptor_, -1));
  ::unlink(temporary_.c_str());
  temporary_.clear();
  return false;
}

void AtomicFile::write(const void* bytes, std::size_t size) {
  const char* next = static_cast<const char*>(bytes);
  if (descriptor_ < 0) {
    held_.append(next, size);
    return;
  }
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
  if (!temporary_.empty()) {
    if (std::rename(temporary_.c_str(), target_.c_str()) == 0) {
      temporary_.clear();
      return;
    }
    // Mounted on its own, or in a folder where its owner alone may replace it.
    if (errno != EBUSY && !is_refusal(errno)) fail("rename into place");
    hold_temporary();
  }
  if (in_place_) write_in_place();
}

void AtomicFile::hold_temporary() {
  const int source = ::open(temporary_.c_str(), O_RDONLY | O_CLOEXEC);
  char chunk[1 << 14];
  ssize_t count = 0;
  while ((count = ::read(source, chunk, sizeof chunk)) > 0) {
    held_.append(chunk, static_cast<std::size_t>(count));
  }
  if (count < 0) fail("read back");
  ::close(source);
  in_place_ = true;
}

void AtomicFile::write_in_place() {
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
  if (descriptor_ < 0) fail("open for writing");
  write(held_.data(), held_.size());
  if (::ftruncate(descriptor_, static_cast<off_t>(held_.size())) != 0) fail("truncate");
  if (::fsync(descriptor_) != 0) fail("write");
  if (::close(std::exchange(descriptor_, -1)) != 0) fail("close");
}

void AtomicFile::fail(const char* action) const {
  throw Failure(fmt::format("{}: cannot {}: {}", path_, action, std::strerror(errno)));
}

bool are_one_file(const std::string& path_a, const std::string& path_b) {
  if (is_stdout(path_a) || is_stdout(path_b)) return is_stdout(path_a) && is_stdout(path_b);
  const std::optional<Status> status_a = status_of(path_a), status_b = status_of(path_b);
  if (status_a || status_b) return is_same(status_a, status_b) && !S_ISCHR(status_a->st_mode);
  // Neither exists yet: one name in one folder, behind links that point nowhere as yet.
  const std::string target_a = follow_links(path_a), target_b = follow_links(path_b);
  return fs::path(target_a).filename() == fs::path(target_b).filename() &&
         is_same(status_of(folder_of(target_a)), status_of(folder_of(target_b)));
}

}  // namespace intflash
