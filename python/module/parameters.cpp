// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
#include "parameters.h"

#include <string>

#include "errors.h"

namespace intflash::python {
namespace {

// By id.
constexpr Choice kCodecs[] = {
    {"int8", INTFLASH_CODEC_INT8},  {"int8_wide", INTFLASH_CODEC_INT8_WIDE},
    {"k8v4", INTFLASH_CODEC_K8V4},  {"k4v4", INTFLASH_CODEC_K4V4},
    {"k4v2", INTFLASH_CODEC_K4V2},  {"k2v2", INTFLASH_CODEC_K2V2},
    {"k8v16", INTFLASH_CODEC_K8V16}};

[[noreturn]] void refuse(const char* name, nb::handle value, const std::string& rule) {
  raise(INTFLASH_INVALID_ARGUMENT,
        std::string(name) + " is " + text_of(nb::repr(value)) + ": " + rule);
}

double to_double(const char* name, nb::handle value) {
  const double result = PyFloat_AsDouble(value.ptr());
  if (result == -1 && PyErr_Occurred()) {
    PyErr_Clear();
    refuse(name, value, "a number is wanted");
  }
  return result;
}

std::int64_t window_side(const char* name, nb::handle value) {
  const std::int64_t side = integer(name, value, -1);
  if (side < -1) refuse(name, value, "a number of keys is wanted, or -1 or None for all");
  return side;
}

}  // namespace

std::int64_t integer(const char* name, nb::handle value, std::int64_t fallback) {
  if (value.is_none()) return fallback;
  const nb::object index = nb::steal(PyNumber_Index(value.ptr()));
  const std::int64_t result = index.is_valid() ? PyLong_AsLongLong(index.ptr()) : -1;
  if (result == -1 && PyErr_Occurred()) {
    PyErr_Clear();
    refuse(name, value, "a whole number below 2^63 is wanted");
  }
  return result;
}

float number(const char* name, nb::handle value, float fallback) {
  return value.is_none() ? fallback : static_cast<float>(to_double(name, value));
}

int choice(const char* name, nb::handle value, std::span<const Choice> choices) {
  const std::string text = nb::isinstance<nb::str>(value) ? text_of(value) : "";
  std::string names;
  for (const Choice& choice : choices) {
    if (text == choice.first) return choice.second;
    names += (names.empty() ? "" : ", ") + std::string(choice.first);
  }
  refuse(name, value, "one of " + names + " is wanted");
}

intflash_mode mode_of(nb::handle mode) {
  static constexpr Choice kModes[] = {{"int8", INTFLASH_MODE_INT8},
                                      {"exact", INTFLASH_MODE_EXACT},
                                      {"intfa", INTFLASH_MODE_INTFA},
                                      {"int8_qk", INTFLASH_MODE_INT8_QK}};
  return static_cast<intflash_mode>(choice("mode", mode, kModes));
}

intflash_codec codec_of(nb::handle codec) {
  return static_cast<intflash_codec>(choice("codec", codec, kCodecs));
}
const char* codec_name(intflash_codec codec) { return kCodecs[codec].first; }

intflash_center center_of(nb::handle center) {
  if (center.is_none()) return INTFLASH_CENTER_NONE;
  static constexpr Choice kCenters[] = {{"key", INTFLASH_CENTER_KEY},
                                        {"key_value", INTFLASH_CENTER_KEY_VALUE}};
  return static_cast<intflash_center>(choice("center", center, kCenters));
}

std::int32_t score_digits_of(nb::handle digits) {
  const std::int64_t result = integer("score_digits", digits, 0);
  if (!digits.is_none() && result != 1 && result != 2)
    refuse("score_digits", digits, "1, 2 or None is wanted");
  return static_cast<std::int32_t>(result);
}

float softmax_scale_of(nb::handle scale) {
  const float result = number("scale", scale, 0);
  if (!scale.is_none() && result == 0)
    raise(INTFLASH_BAD_SCALE, "scale is " + text_of(nb::repr(scale)) +
                                  ": a number above 0 is wanted, in float32, or None");
  return result;
}

float cap_of(nb::handle cap) {
  const float result = number("cap", cap, 0);
  if (result == 0 && !cap.is_none() && to_double("cap", cap) != 0)
    raise(INTFLASH_BAD_SCALE,
          "cap is " + text_of(nb::repr(cap)) + ": that is 0 in float32, which is no cap");
  return result;
}

Mask mask_of(nb::handle causal, nb::handle window, nb::handle prefix) {
  Mask mask;
  static constexpr Choice kAlignments[] = {{"bottom_right", INTFLASH_MASK_CAUSAL},
                                           {"top_left", INTFLASH_MASK_CAUSAL_TOP_LEFT}};
  if (nb::isinstance<nb::str>(causal)) {
    mask.kind = static_cast<intflash_mask>(choice("causal", causal, kAlignments));
  } else {
    const int is_causal = PyObject_IsTrue(causal.ptr());
    if (is_causal < 0) throw nb::python_error();
    if (is_causal == 1) mask.kind = INTFLASH_MASK_CAUSAL;
  }
  if (!prefix.is_none()) {
    if (mask.kind != INTFLASH_MASK_CAUSAL || !window.is_none())
      refuse("prefix", prefix, "it goes with causal=True, and without window");
    mask.kind = INTFLASH_MASK_PREFIX;
    mask.prefix_len = integer("prefix", prefix, 0);
  }
  if (window.is_none()) return mask;
  if (mask.kind == INTFLASH_MASK_CAUSAL_TOP_LEFT)
    refuse("causal", causal, "windows are aligned at the bottom right");
  if (!PySequence_Check(window.ptr()) || nb::len(window) != 2)
    refuse("window", window, "(left, right) is wanted, numbers of keys beside the query's own");
  mask.window_left = window_side("window[0]", window[0]);
  mask.window_right = mask.kind == INTFLASH_MASK_CAUSAL ? 0 : window_side("window[1]", window[1]);
  mask.kind = INTFLASH_MASK_WINDOW;
  return mask;
}

std::vector<float> floats(const char* name, nb::handle values, std::int64_t count) {
  std::vector<float> result;
  if (values.is_none()) return result;
  const nb::object sequence = nb::steal(PySequence_List(values.ptr()));
  if (!sequence.is_valid()) {
    PyErr_Clear();
    refuse(name, values, "a sequence of numbers is wanted");
  }
  for (const nb::handle value : nb::borrow<nb::list>(sequence))
    result.push_back(static_cast<float>(to_double(name, value)));
  if (static_cast<std::int64_t>(result.size()) != count)
    raise(INTFLASH_BAD_SHAPE, std::string(name) + " has " + std::to_string(result.size()) +
                                  " numbers: one for each of " + std::to_string(count) +
                                  " query heads is wanted");
  return result;
}

}  // namespace intflash::python
