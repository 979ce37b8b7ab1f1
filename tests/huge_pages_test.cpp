// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// What the bench says of huge pages, from texts as proc(5) has them.
#include "huge_pages.h"

#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace intflash::internal {
namespace {

const char* const kSmaps =
    "1000-5000 r-xp 00000000 08:01 1234                       /usr/bin/dash-100-200\n"
    "Size:                 16 kB\n"
    "Rss:                  16 kB\n"
    "AnonHugePages:         0 kB\n"
    "VmFlags: rd ex mr mw me\n"
    "7f0000000000-7f0001000000 rw-p 00000000 00:00 0 \n"
    "Size:              16384 kB\n"
    "Rss:               12000 kB\n"
    "Pss:               12000 kB\n"
    "AnonHugePages:      9000 kB\n"
    "ShmemPmdMapped:        0 kB\n"
    "VmFlags: rd wr mr mw me ac hg\n"
    "7f0002000000-7f0003000000 rw-p 00000000 00:00 0 \n"
    "Size:              16384 kB\n"
    "Rss:                4000 kB\n"
    "AnonHugePages:         0 kB\n"
    "VmFlags: rd wr mr mw me ac\n";

std::optional<double> share_of(const std::string& smaps, const std::vector<AddressRange>& ranges) {
  std::istringstream text(smaps);
  return huge_page_share(text, ranges);
}

TEST(HugePages, AreCountedInTheMappingsThatHaveTheMemory) {
  EXPECT_EQ(share_of(kSmaps, {{0x7f0000000040, 0x7f0000100000}}), 0.75);
  EXPECT_EQ(share_of(kSmaps, {{0x7f0002000000, 0x7f0002000001}}), 0.0);
  EXPECT_EQ(share_of(kSmaps, {{0x7f0000ffffff, 0x7f0001000000}, {0x7f0002fff000, 0x7f0003000000}}),
            9000.0 / 16000);
  EXPECT_EQ(share_of(kSmaps, {{0x7f0000000000, 0x7f0000001000}, {0x7f0000002000, 0x7f0000003000}}),
            0.75)
      << "two ranges in a mapping, which counts once";
}

TEST(HugePages, AreUnknownWhereTheSystemDoesNotSay) {
  EXPECT_EQ(share_of("", {{0x1000, 0x2000}}), std::nullopt);
  EXPECT_EQ(share_of(kSmaps, {}), std::nullopt);
  EXPECT_EQ(share_of(kSmaps, {{0x5000, 0x6000}, {0x7f0001000000, 0x7f0002000000}}), std::nullopt)
      << "between mappings";
  EXPECT_EQ(share_of("1000-5000 rw-p 00000000 00:00 0\nRss: 16 kB\n", {{0x1000, 0x2000}}),
            std::nullopt);
}

}  // namespace
}  // namespace intflash::internal
