// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The plain data that crosses the firewall between the library and its instruction set ports.
#pragma once

#include <cstddef>
#include <cstdint>

namespace intflash::internal {

constexpr int kBlockTokens =
    64;  // tokens of a KvBlock: the unit of the page layout and of keep words
constexpr int kScoreBlock =
    128;  // keys that share one maximum and one scale of P; aligned to absolute key positions
constexpr int kSpanTokens = 1024;  // keys after which a row's state is merged into its total; the
                                   // unit of splitting a key range
constexpr int kMaxTileRows = 32;
constexpr int kFewRows = 5;  // up to so many rows of a kv head wait for its keys; more find them
                             // in L2
constexpr int kMaxHeadDim = 1024;
// The row_sum of a row whose accumulators are its out: P counts 255 to one and the row sum 16 * 255
// * 256, whose quotient it is.
constexpr float kRowSumOfOut = 4096.0f;

// Fixed point of weights and exponents; docs/numerics.md derives each.
constexpr int kFractionBits = 6;     // of scores, and of all else that is in units of log2
constexpr int kFinestExponent = -9;  // of the unit that products are shifted to, on their way there
constexpr int kScoreBits = 14;       // |x| <= 2^14 for a score x in fixed point
constexpr int kValueLog2Min = -24 << kFractionBits;  // lowest log2(value_scale) beside its block's;
                                                     // what is below, and not 0, is faint
constexpr int kLightValueLog2 = -4 << kFractionBits;  // what is below is light: its key joins the
                                                      // row sum in f32
constexpr int kWeightOne = 4080;                      // a weight of 1 in the row sum, 16 * 255
constexpr int kValueWeightOne = 256;                  // 2^-value_log2 = 1 in the row sum
// Rows and keys whose largest magnitude is below this count as zero: their products would be
// denormal.
constexpr float kTinyMagnitude = 0x1p-100f;
// A query's factor below this counts as zero: beside the largest keys too its scores are all the
// same.
constexpr float kLeastFactor = 0x1p-126f;

enum class Dtype : std::int32_t {
  kF32 = 1,
  kF16 = 2,
  kBf16 = 3,
  kInt8 = 4,
  kQ8_0 = 5,
  kQ4_0 = 6,
  kBool = 7,
  kF8E4m3 = 8,
  kF8E5m2 = 9
};

// Second digits of queries and keys: element = scale * (code + digit / 256). A product of both is
// code . code + (code . digit + digit . code) / 256, and counts 2^digit_bits for one of codes
// alone: 8, or 7 where it would leave int32.
constexpr int kDigitBits = 8;
constexpr int kDigitExponent = -kFractionBits;  // by default rows whose products have a coarser
                                                // unit take second digits: those in f32
constexpr int kNoDigits = 1000;                 // above any unit

// 64 tokens of one kv head, as kernels read them: in page layout version 1 of codec int8. A page of
// another codec has bytes of its own in place of codes, until they are expanded.
struct KvBlock {
  const std::int8_t* key_codes;  // [4 tiles of 16 tokens][head_dim / 4][16 tokens][4]
  const std::int8_t*
      value_codes;         // [head_dim_v padded to 16 / 16][16 token quads][16 channels][4 tokens]
  const float* key_scale;  // [64]; 0 for a token that is absent or zero
  const float* value_scale;     // [64]
  const std::int32_t* key_sum;  // [64]; sum of the key's codes
  // Second digits as key_codes, and their sums; nullptr: there are none.
  const std::int8_t* key_digits;
  const std::int32_t* digit_sum;
};

// The same for writing.
struct WritableBlock {
  std::int8_t* key_codes;
  std::int8_t* value_codes;
  float* key_scale;
  float* value_scale;
  std::int32_t* key_sum;
  std::int8_t* key_digits;
  std::int32_t* digit_sum;
};

// What of a block is in four bits.
constexpr std::int32_t kPackedKeys = 1;
constexpr std::int32_t kPackedValues = 2;

// Where values are in f16, value_codes are [head_dim_v padded to 16 / 16][64 tokens][16 channels]
// of them, and value_scale powers of two.

// Makes codes of another codec's bytes, but for what is to stay packed. What is not as it is in the
// page goes to room.
using ExpandFn = KvBlock (*)(const KvBlock& block, std::int32_t head_dim, std::int32_t head_dim_v,
                             std::int32_t packed, const WritableBlock& room);
constexpr int kMaxCodecs = 8;

// 128 keys and their factors in fixed point, in the port's own key order (NarrowedOrder).
struct ScoreBlock {
  KvBlock half[2];
  std::int32_t
      key_exponent;  // largest key_scale = key_mantissa * 2^key_exponent, mantissa in [0.5, 1)
  std::int32_t value_exponent;  // the same of value_scale; kNoExponent where all are 0
  float key_mantissa;           // 0 where all key scales are 0
  std::int32_t num_light;       // keys whose value_log2 is below kLightValueLog2
  std::int32_t any_faint;       // whether one would be below kValueLog2Min
  alignas(64) std::int16_t key_factor[kScoreBlock];  // key_scale / 2^key_exponent in Q15
  alignas(64) std::int16_t value_log2[kScoreBlock];  // log2(value_scale / 2^value_exponent) in 2^-6
  alignas(64) std::int16_t value_weight[kScoreBlock];  // 256 * 2^-value_log2; 0 where light
  std::uint8_t light[kScoreBlock];                     // [num_light]: those keys, in natural order
};

// Query rows of one tile. Row r of any array belongs to row r of the tile.
struct QueryTile {
  std::int32_t rows;  // 1 ... kMaxTileRows
  std::int32_t head_dim;
  std::int32_t code_stride;   // bytes between rows of codes: head_dim padded to 64 with zeros
  const std::int8_t* codes;   // [rows][code_stride]
  const std::int8_t* digits;  // second digits as codes; not read where digits_above is kNoDigits
  std::int32_t digits_above;  // rows whose unit is above 2^digits_above use them, and those of keys
  // Beyond rows there stand copies of row 0, for loops that run on to a full vector.
  // query_scale * softmax_scale * log2(e) = multiplier / 2^15 * 2^exponent, and the same in f32.
  alignas(64) std::int32_t multiplier[kMaxTileRows];
  alignas(64) std::int32_t exponent[kMaxTileRows];
  alignas(64) float mantissa[kMaxTileRows];
  alignas(64) float factor[kMaxTileRows];
  alignas(64) std::int32_t
      score_bits[kMaxTileRows];  // |query . key| < 2^score_bits for any codes and digits of a key
  alignas(64) float score_term[kMaxTileRows];  // query . key_center * softmax_scale * log2(e): used
                                               // below a score cap only
};

// What a row has seen so far: sum of weights and weighted values relative to 2^reference.
struct AttentionState {
  float* reference;     // [rows]; -infinity: no key yet
  float* row_sum;       // [rows]
  float* accumulators;  // [rows][accumulator_stride]
  std::int64_t accumulator_stride;
};

// What is added to the scores of one row, in units of log2: factor * element - slope * |position -
// key|.
struct BiasRow {
  const void* elements;     // of a mask, by key; nullptr = none
  Dtype dtype;              // of elements: kF32, kF16, kBf16 or kBool
  std::int64_t begin, end;  // positions of the keys that elements has
  float factor;
  float slope;
  std::int64_t position;
};

// Some keys of a score block, in order: of each half, their places in it.
struct KeyList {
  std::int32_t count[2];
  std::uint8_t keys[2][kBlockTokens];
};

// P V of a score block whose values are in f16 (mode int8_qk): accumulators += gain * (P V).
struct F16ValuesTask {
  const float* weights;  // P in f32: [rows][kScoreBlock], in the order of keys
  const KvBlock* half;   // [2]
  const KvBlock* next;   // [2]: the halves that are read next; nullptr = not to be asked for
  // Keys that some row sees. Others weigh nothing, but have values that may be anything: NaN, which
  // a weight of 0 does not hide.
  const KeyList* keys;
  std::int32_t rows;
  std::int32_t head_dim_v;
  const float* gain;           // [rows]
  float* const* accumulators;  // [rows]
};

// One query tile against keys of one span.
struct TileTask {
  const QueryTile* query;
  std::int32_t head_dim_v;
  std::int32_t num_blocks;
  const ScoreBlock* blocks;  // [num_blocks]
  const KvBlock* after;      // [2]: keys that are read after the last block; nullptr = unknown
  std::int32_t packed;       // what is in four bits of the blocks, and mostly of after
  // Mode int8_qk: that of RowKernels; nullptr: values are codes.
  void (*add_f16_values)(const F16ValuesTask& task);
  const std::uint64_t* const* keep;  // [num_blocks]: nullptr = all keys visible to all rows, else
                                     // [rows][2] keep words; nullptr: that is so of all blocks
  const std::uint32_t* biased;  // [num_blocks]: a bit per row that has a bias there, none where
                                // keep is nullptr
  const BiasRow* bias;          // [rows]; nullptr = no row has any
  std::int64_t first_key;       // position of the first block's first key
  float score_cap;              // in units of log2: cap * log2(e); 0 = the plain score form
  AttentionState state;         // read and written
  // Of attend_spans alone: floats from a state to the next one, and how many states are merged into
  // the one before each before a span begins with a new, empty one; [spans], of which the first is
  // not read: state is its own.
  std::int64_t state_stride;
  const std::int32_t* merges;
  void* scratch;  // KernelTable::scratch_bytes, 64-byte aligned
};

// Rows of a dense tensor as they lie in the caller's memory.
struct RowSource {
  const void* data;
  Dtype dtype;
  std::int64_t stride;  // in elements; of ggml's types whole blocks
};

// Rotary position embedding of rows at consecutive positions.
struct RopeRows {
  const float* cos;  // [rows][dim / 2]; nullptr = none
  const float* sin;
  std::int32_t dim;     // the first channels, which are turned
  std::int32_t halves;  // whether pairs are channels i and i + dim / 2, not 2 i and 2 i + 1
};

struct QuantizeTask {
  RowSource source;
  std::int32_t rows;
  std::int32_t dim;
  const float* center;         // [dim], subtracted; nullptr = none
  const std::uint32_t* signs;  // of the rotation: core/rotation.h; nullptr = none
  std::int8_t* codes;          // out: [rows][code_stride], zero beyond dim
  std::int8_t* digits;         // out: second digits as codes; nullptr = not asked for
  std::int64_t code_stride;
  float* scale;   // out: [rows]
  bool on_grid;   // whether these are rounded up to powers of 2^(1/64), as those of values are
  RopeRows rope;  // of the rows as they come; what is centred and rotated is turned already
};

// A bit per element of an additive mask.
struct MaskWords {
  std::uint64_t hidden;   // hides its key
  std::uint64_t nonzero;  // has something to add
};

// What a port does with rows, elements and states, whatever instructions multiply tiles: ports of
// one instruction set share it.
struct RowKernels {
  // Bits of the largest |x| of rows x dim elements: at least 0x7f800000 where one is NaN or
  // infinite.
  std::uint32_t (*max_magnitude)(const RowSource& source, std::int64_t rows, std::int64_t dim);
  // sum[c] += the rows' elements c, in row order; returns the same as max_magnitude. rows <= 64.
  std::uint32_t (*sum_rows)(const RowSource& source, std::int64_t rows, std::int64_t dim,
                            float* sum);
  // Returns the same as max_magnitude, of what was quantized: turned, centred and rotated.
  std::uint32_t (*quantize_rows)(const QuantizeTask& task);
  // Sum of |code|: what bounds a query's products with any key.
  std::int32_t (*sum_magnitudes)(const std::int8_t* codes, std::int64_t dim);
  // 64 rows of codes [64][code_stride] into tiles; key_sum gets the sums of the codes.
  void (*pack_keys)(const std::int8_t* codes, std::int64_t code_stride, std::int32_t head_dim,
                    std::int8_t* key_codes, std::int32_t* key_sum);
  void (*pack_values)(const std::int8_t* codes, std::int64_t code_stride, std::int32_t head_dim_v,
                      std::int8_t* value_codes);
  // Of up to 64 elements of an additive mask, f32 or f16.
  MaskWords (*mask_words)(const void* elements, Dtype dtype, std::int64_t count);
  // Whether one is NaN or +infinity.
  bool (*has_bad_element)(const void* elements, Dtype dtype, std::int64_t count);
  // total = total merged with part; rows x dim accumulators.
  void (*merge_states)(const AttentionState& part, const AttentionState& total, std::int32_t rows,
                       std::int32_t dim);
  // out = accumulators / row_sum, their rotation undone where signs says so (+ center), rounded to
  // dtype; 0 where the row saw no key.
  void (*write_row)(const float* accumulators, float row_sum, std::int32_t dim,
                    const std::uint32_t* signs, const float* center, Dtype dtype, void* out);
  // A row of values in INT8 codes to codes of four bits, in bytes of their own; its scale becomes
  // that of the levels.
  void (*code_values)(const std::int8_t* codes, std::int64_t count, float& scale,
                      std::uint8_t* nibbles);
  // 64 rows of keys in INT8 codes to codes by channel (key_codes.h), of two bits and of four;
  // key_sum: of what these stand for.
  void (*code_keys[2])(const std::int8_t* codes, std::int64_t stride, std::int32_t head_dim,
                       std::uint8_t* packed, std::int32_t* key_sum);
  // 64 rows of values in INT8 codes to codes of two bits by channel (value_steps.h).
  void (*code_quarters)(const std::int8_t* codes, std::int64_t stride, std::int32_t head_dim_v,
                        std::uint8_t* packed);
  // The same as quantize_rows, to f16 in place of codes, whose stride is in bytes all the same; the
  // scales are powers of two.
  std::uint32_t (*halve_rows)(const QuantizeTask& task);
  void (*add_f16_values)(const F16ValuesTask& task);
  ExpandFn expand[kMaxCodecs] = {};  // by codec; nullptr: of int8, and of what the port lacks
};

struct KernelTable {
  const char* name;
  std::int32_t tile_rows;  // query rows per tile
  const RowKernels* rows;
  // Fills all of block but half, from the keys that the two keep words name (the tokens present).
  void (*prepare_block)(ScoreBlock& block, const std::uint64_t* keep);
  std::size_t (*scratch_bytes)(std::int32_t head_dim, std::int32_t head_dim_v, bool has_digits);
  void (*attend_tile)(const TileTask& task);
  // The same for a tile of tile_rows rows and several whole spans, each of which has a state of its
  // own: the first task.state, others those behind it. nullptr: the port gains nothing by it.
  void (*attend_spans)(const TileTask& task);
  // Up to so many rows attend_tile takes these as they lie, not expanded.
  std::int32_t packed_rows;
  std::int32_t packed;
  // A register-only loop of the port's integer multiply-add; returns the operations done, 2 per
  // multiply-add.
  double (*integer_peak)(std::int64_t repeats);
};

}  // namespace intflash::internal
