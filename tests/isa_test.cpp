// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The choice of the port: by name, by INTFLASH_ISA, or the best that runs; no silent fallback.
#include <cstdlib>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "api_call.h"
#include "context/ports.h"
#include "machine/cpu_features.h"

namespace intflash::internal {
namespace {

// The environment's INTFLASH_ISA while it lives, and what it was afterwards.
class Environment {
 public:
  explicit Environment(const char* isa) {
    const char* old = std::getenv("INTFLASH_ISA");
    had_ = old != nullptr;
    if (had_) old_ = old;
    if (isa == nullptr) {
      unsetenv("INTFLASH_ISA");
    } else {
      setenv("INTFLASH_ISA", isa, 1);
    }
  }
  ~Environment() {
    if (had_) {
      setenv("INTFLASH_ISA", old_.c_str(), 1);
    } else {
      unsetenv("INTFLASH_ISA");
    }
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  bool had_;
  std::string old_;
};

std::vector<intflash_port_info> known_ports() {
  std::vector<intflash_port_info> ports(static_cast<std::size_t>(intflash_num_ports()));
  for (std::size_t i = 0; i < ports.size(); ++i) {
    ports[i].struct_size = sizeof ports[i];
    EXPECT_EQ(intflash_get_port(static_cast<std::int32_t>(i), &ports[i]), INTFLASH_OK);
  }
  return ports;
}

// The port of a context made with options.isa = isa; the status's name where there is none.
std::string port_chosen(const char* isa) {
  intflash_context_options options = {};
  options.struct_size = sizeof options;
  options.num_threads = 1;
  options.isa = isa;
  intflash_context* context = nullptr;
  const intflash_status status = intflash_context_create(&options, &context);
  if (status != INTFLASH_OK) {
    EXPECT_EQ(context, nullptr);
    return intflash_status_name(status);
  }
  const std::string port = intflash_context_port(context);
  intflash_context_destroy(context);
  return port;
}

void expect_message_lists_ports(const std::string& name) {
  const std::string message = intflash_last_error();
  EXPECT_NE(message.find('"' + name + '"'), std::string::npos) << message;
  for (const intflash_port_info& port : known_ports())
    EXPECT_NE(message.find(port.name), std::string::npos) << message << " lacks " << port.name;
}

TEST(Ports, AreDistinctAndEndWithScalar) {
  std::set<std::string> names;
  for (const intflash_port_info& port : known_ports()) {
    EXPECT_TRUE(names.insert(port.name).second) << port.name;
    EXPECT_EQ(port.supported == 1, std::string(port.reason).empty()) << port.name;
    EXPECT_GE(port.built, port.supported) << port.name;
  }
  EXPECT_STREQ(known_ports().back().name, "scalar");
  EXPECT_EQ(known_ports().back().supported, 1);
}

TEST(Ports, TheFirstSupportedIsTheDefault) {
  const Environment environment(nullptr);
  std::string best;
  for (const intflash_port_info& port : known_ports()) {
    if (port.supported == 1 && best.empty()) best = port.name;
  }
  EXPECT_EQ(port_chosen(nullptr), best);
  EXPECT_EQ(port_chosen(""), best);
  const Environment empty("");
  EXPECT_EQ(port_chosen(nullptr), best);
}

TEST(Ports, EachIsChosenByNameOrSaysWhyNot) {
  for (const intflash_port_info& port : known_ports()) {
    const std::string expected =
        port.supported == 1 ? std::string(port.name) : "INTFLASH_ISA_UNAVAILABLE";
    {
      const Environment environment(nullptr);
      EXPECT_EQ(port_chosen(port.name), expected);
    }
    const Environment environment(port.name);
    EXPECT_EQ(port_chosen(nullptr), expected);
    if (port.supported == 1) continue;
    const std::string message = intflash_last_error();
    EXPECT_NE(message.find(port.reason), std::string::npos) << message;
    EXPECT_EQ(message.rfind("INTFLASH_ISA = ", 0), 0u) << message;
    expect_message_lists_ports(port.name);
  }
}

TEST(Ports, AnUnknownNameIsRefusedWithTheList) {
  const Environment none(nullptr);
  for (const char* name : {"avx1024", "Scalar", "scalar ", "avx"}) {
    EXPECT_EQ(port_chosen(name), "INTFLASH_UNKNOWN_ISA");
    expect_message_lists_ports(name);
    const Environment environment(name);
    EXPECT_EQ(port_chosen(nullptr), "INTFLASH_UNKNOWN_ISA");
    expect_message_lists_ports(name);
  }
}

TEST(Ports, AVeryLongNameIsRefusedLikeAnyOther) {
  const std::string name(5000, 'x');
  const Environment environment(name.c_str());
  EXPECT_EQ(port_chosen(nullptr), "INTFLASH_UNKNOWN_ISA");
  EXPECT_LT(std::string(intflash_last_error()).size(), 1000u);
}

TEST(Ports, TheOptionGoesBeforeTheEnvironment) {
  const Environment environment("no such port");
  EXPECT_EQ(port_chosen("scalar"), "scalar");
}

TEST(Ports, WhatIsForcedIsWhatRuns) {
  for (const intflash_port_info& port : known_ports()) {
    if (port.supported == 0) continue;
    const Environment environment(port.name);
    ApiCall call;
    EXPECT_STREQ(intflash_context_port(call.context), port.name);
    intflash_plan_info info = {};
    info.struct_size = sizeof info;
    ASSERT_EQ(intflash_query_support(call.context, &call.desc(), &info), INTFLASH_OK);
    EXPECT_STREQ(info.port, port.name);
    EXPECT_NE(std::string(info.kernel).find(std::string("/") + port.name + "/"), std::string::npos)
        << info.kernel;
    EXPECT_EQ(call.attend(), INTFLASH_OK) << intflash_last_error();
  }
}

TEST(Ports, TheReasonNamesEveryBetterPort) {
  const Environment environment("scalar");
  ApiCall call;
  const std::string reason = intflash_context_port_reason(call.context);
  for (const intflash_port_info& port : known_ports()) {
    if (std::string(port.name) == "scalar") continue;
    EXPECT_NE(reason.find(std::string(port.name) + ": "), std::string::npos) << reason;
    if (port.supported == 0) {
      EXPECT_NE(reason.find(port.reason), std::string::npos) << reason;
    }
  }
}

// ---- Permission, which only a port that is about to be chosen asks for ----

int num_requests = 0;
const char* grant(std::uint32_t required) {
  num_requests += (required & kAmxInt8) != 0;
  return nullptr;
}
const char* refuse(std::uint32_t required) {
  num_requests += (required & kAmxInt8) != 0;
  return required & kAmxInt8 ? "refused by the test" : nullptr;
}

const PortEntry kPortsWithAmx[] = {{"amx_int8", nullptr, true, "", kAmxInt8 | kAvx2},
                                   {"avx2", nullptr, true, "", kAvx2},
                                   {"scalar", nullptr, true, "", 0}};

std::string port_chosen(const char* isa, RequestPermission request) {
  num_requests = 0;
  const PortEntry* port = nullptr;
  const intflash_status status = choose_port(isa, kPortsWithAmx, request, port);
  return status == INTFLASH_OK ? port->name : intflash_status_name(status);
}

TEST(Permission, IsRequestedForTheBestPortAndForOneByName) {
  const Environment environment(nullptr);
  EXPECT_EQ(port_chosen(nullptr, grant), "amx_int8");
  EXPECT_EQ(num_requests, 1);
  EXPECT_EQ(port_chosen("amx_int8", grant), "amx_int8");
  EXPECT_EQ(num_requests, 1);
}

TEST(Permission, IsNotRequestedWhereAnotherPortIsForced) {
  const Environment environment("avx2");
  EXPECT_EQ(port_chosen(nullptr, grant), "avx2");
  EXPECT_EQ(num_requests, 0);
  EXPECT_EQ(port_chosen("scalar", grant), "scalar");
  EXPECT_EQ(num_requests, 0);
  EXPECT_EQ(port_chosen("no such port", grant), "INTFLASH_UNKNOWN_ISA");
  EXPECT_EQ(num_requests, 0);
}

TEST(Permission, ThatIsRefusedLeavesTheNextPortOrIsTheReason) {
  const Environment environment(nullptr);
  EXPECT_EQ(port_chosen(nullptr, refuse), "avx2");
  EXPECT_EQ(port_chosen("amx_int8", refuse), "INTFLASH_ISA_UNAVAILABLE");
  EXPECT_NE(std::string(intflash_last_error()).find("refused by the test"), std::string::npos);
}

}  // namespace
}  // namespace intflash::internal
