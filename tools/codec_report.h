// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// Which codec each layer gets, and at what cost: as a table, as the file that programs load, and as
// a picture.
#pragma once

#include <string>
#include <nlohmann/json.hpp>

#include "codec_calibration.h"

namespace intflash {

// "int8", or "2 int8, 1 k8v4" of kv heads in their order.
std::string codec_names(const LayerCalibration& layer);
void print_codecs(const CodecCalibration& calibration);
nlohmann::ordered_json codecs_json(const CodecCalibration& calibration);
// SVG: bits of an element by layer, and the error that bytes buy.
std::string codecs_picture(const CodecCalibration& calibration);

}  // namespace intflash
