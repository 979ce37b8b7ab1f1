// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The quantized KV cache, and attention of ragged batches over it.
//
// A cache holds the keys and values of one or more layers as codes with a scale per token and kv
// head, in pages: what their bytes mean is up to the cache's codec (src/pages/page.h has them byte
// by byte). Page p stores page_size tokens of every kv head, contiguously, in each layer. Which
// pages belong to a request, and in which order, is the caller's page table; or the cache keeps it,
// in sequences: one table for all layers. The codes of a token depend on it alone, or on its block
// of 64: appending one by one or all at once gives the same bytes.
//
// A batch plan depends on lengths, masks, shared prefixes and the number of workers alone: one plan
// serves all layers of a step. Outputs do not depend on the batch a request is in, on shared
// prefixes, on how its prefill was cut, on the page size, or on the number of threads, to the bit.
#ifndef INTFLASH_CACHE_H_
#define INTFLASH_CACHE_H_

#include <intflash/intflash.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct intflash_cache intflash_cache;

// ---- Calls at the same time ----

// What may be at work on one cache, on several threads or from a caller's function:
//   call                               beside a change of it         beside calls that read it
//   changes: append, copy_page,        INTFLASH_BUSY, and nothing    where these allow it
//     sequence create, free, fork,     is done
//     truncate, drop_before
//   load                               takes pages as a change, and  yes
//                                      waits for one at its end
//   run and export by page numbers     of pages that it does not     yes
//                                      write
//   run, save, export, get_range and   no                            yes
//     get_pages of sequences;
//     cache_get_info
//   plan, query_batch_support          yes                           yes
//   destroy                            no                            no
// A change beside a load never touches what is being loaded.

// ---- The cache ----

// What the operating system is advised of the pages that a cache allocates itself, from the default
// allocator or the context's own: of whole system pages within them, on Linux, and never more than
// advice. Of an arena nothing is: it is its owner's.
typedef enum intflash_huge_pages INTFLASH_INT {
  // Fewer page table entries to walk. From Linux 6.1 on, small pages of an earlier use are joined
  // when the cache is made, which copies them.
  INTFLASH_HUGE_PAGES_PREFER = 0,
  // No memory before tokens are stored in it.
  INTFLASH_HUGE_PAGES_AVOID = 1
} intflash_huge_pages;
typedef enum intflash_numa INTFLASH_INT {
  // The process's policy: as a rule, the node that first writes.
  INTFLASH_NUMA_DEFAULT = 0,
  // All nodes in turn: where any thread may attend any sequence.
  INTFLASH_NUMA_INTERLEAVE = 1,
  // The node that first writes, whatever the process's policy.
  INTFLASH_NUMA_LOCAL = 2,
  // Pages are divided into runs of consecutive numbers, one for each node whose CPUs the context's
  // threads may run on, in proportion to these CPUs, and each run is to lie on its node, in an
  // arena too, as far as its owner sees to that. A sequence takes the pages of an aligned 1024
  // tokens from one node, as long as it has any, and goes round the nodes so. A batch's tasks are
  // then done where their pages lie, as long as there are any there: where up to 5 rows of a kv
  // head decode, a task has 1024 keys; where more do, it has all that they see, of all nodes alike.
  // With one node, as INTFLASH_NUMA_DEFAULT.
  INTFLASH_NUMA_BY_NODE = 3
} intflash_numa;

// What the bytes of keys and values in a page mean. Each codec numbers the versions of its page
// layout from 1 on.
typedef enum intflash_codec INTFLASH_INT {
  // INT8 codes. The newest layout is INTFLASH_PAGE_LAYOUT_VERSION.
  INTFLASH_CODEC_INT8 = 0,
  // The same with a second digit of each key, for score_digits = 0 and 2: head_dim + 4 bytes more a
  // token, kv head and layer. For models whose scores are large, such as those whose keys have a
  // bias.
  INTFLASH_CODEC_INT8_WIDE = 1,
  // Keys as int8 has them, values in four bits: (head_dim_v padded to 16) / 2 bytes less a token,
  // kv head and layer. A value is one of 16 levels times its token's scale (docs/numerics.md,
  // section 8), for values that are rotated: docs/codecs.md has the error.
  INTFLASH_CODEC_K8V4 = 2,
  // Keys in four bits too, by channel over blocks of 64 tokens, and therefore behind a window alone
  // (window_blocks); values as k8v4 has them.
  INTFLASH_CODEC_K4V4 = 3,
  // Keys as k4v4 has them, and values in two bits, by channel over blocks of 64 tokens too.
  INTFLASH_CODEC_K4V2 = 4,
  // Keys and values in two bits, both by channel, and behind a window alone.
  INTFLASH_CODEC_K2V2 = 5,
  // Keys as int8 has them, values in F16 beside a power of two for each token, for
  // INTFLASH_MODE_INT8_QK: head_dim_v padded to 16 bytes more a token, kv head and layer.
  INTFLASH_CODEC_K8V16 = 6
} intflash_codec;

typedef struct intflash_cache_options {
  uint32_t struct_size;
  int64_t num_kv_heads;
  int64_t head_dim;    // of key: a multiple of 8, 8 ... 1024
  int64_t head_dim_v;  // of value: the same rule; 0 = head_dim
  int64_t page_size;   // tokens of a page: 64, 128 or 256; 0 = 64
  int64_t num_pages;
  void* arena;  // memory for the pages of one layer after another, 64-byte aligned, num_layers *
                // (num_pages * page_bytes + num_window_pages * window_page_bytes) long, which
                // outlives the cache, of the context's device; NULL = layer_arenas, or the
                // context's allocator (on a CUDA device, its own)
  size_t arena_bytes;          // of arena, or of each of layer_arenas
  const float* key_center;     // [num_layers][num_kv_heads][head_dim], subtracted from keys before
                               // quantization; copied; NULL = zero
  const float* value_center;   // [num_layers][num_kv_heads][head_dim_v], the same of values
  intflash_rotation rotation;  // of keys, with the queries that attend them, and of values
  intflash_huge_pages huge_pages;
  intflash_numa numa;
  int64_t num_layers;         // 0 = 1
  void* const* layer_arenas;  // [num_layers], each as long as a layer's part of arena, and as that
                              // in all else; NULL = arena
  intflash_codec codec;       // INTFLASH_UNSUPPORTED where the context's port does not have it
  int32_t page_layout_version;  // of codec; 0 = the newest
  // Of K8V4, which may have it, and of K4V4, K4V2 and K2V2, which must: a query at position p sees
  // the keys of block b (positions 64 b ... 64 b + 63) in INT8 where b is above p / 64 -
  // window_blocks, or below sink_blocks, and as the codec has them elsewhere. Pages are then the
  // sequences' alone: no calls take page numbers, nor shared prefixes, nor INTFLASH_NUMA_BY_NODE.
  // 0 = no window.
  int64_t window_blocks;
  int64_t sink_blocks;  // 0 where there is no window
  // Pages for what is in INT8, of all sequences and each layer, beside num_pages, which have place
  // for every token, and behind these in an arena: a sequence has (window_blocks + sink_blocks) *
  // 64 tokens and those of its last append in both, in whole pages. 0 = num_pages.
  int64_t num_window_pages;
} intflash_cache_options;

typedef struct intflash_cache_info {
  uint32_t struct_size;
  int64_t page_size;
  int64_t num_pages;
  int64_t free_pages;  // that no sequence holds; all of them where page tables are the caller's
  int64_t num_sequences;
  size_t page_bytes;       // of one page of one layer with all kv heads, scales included
  size_t bytes_per_token;  // page_bytes / page_size
  int64_t num_layers;
  intflash_codec codec;
  int32_t page_layout_version;  // of codec: never 0
  int32_t rotates_keys;         // 1: keys are rotated, and queries that attend them
  int32_t rotates_values;       // 1: values are
  int64_t window_blocks;
  int64_t sink_blocks;
  int64_t num_window_pages;  // 0 where there is no window
  int64_t free_window_pages;
  size_t window_page_bytes;  // as page_bytes
} intflash_cache_info;

INTFLASH_API intflash_status intflash_cache_create(intflash_context* context,
                                                   const intflash_cache_options* options,
                                                   intflash_cache** cache);
INTFLASH_API void intflash_cache_destroy(intflash_cache* cache);  // NULL is allowed
INTFLASH_API intflash_status intflash_cache_get_info(const intflash_cache* cache,
                                                     intflash_cache_info* info);

// The system's number of the node that a page of a cache with INTFLASH_NUMA_BY_NODE is to lie on: a
// table's owner does best to take the pages of each aligned 1024 positions from one node. -1 where
// pages do not lie by node, or there is no such page.
INTFLASH_API int32_t intflash_cache_get_page_node(const intflash_cache* cache, int32_t page);

// ---- Page tables ----

// Page i of request r is page_ids[page_indptr[r] + i]; its first page holds the tokens from the
// request's first_key_position on. No page stands twice in a request's table; requests may share
// pages.
typedef struct intflash_page_table {
  const int64_t* page_indptr;  // [num_requests + 1]
  const int32_t* page_ids;     // [page_indptr[num_requests]]
} intflash_page_table;

// ---- Rotary position embedding ----

typedef enum intflash_rope_pairing INTFLASH_INT {
  // Channels 2 i and 2 i + 1: GPT-J, and llama as Meta published it.
  INTFLASH_ROPE_ADJACENT = 0,
  // Channels i and i + rope_dim / 2: GPT-NeoX, Hugging Face.
  INTFLASH_ROPE_HALVES = 1
} intflash_rope_pairing;

// Turns pair i of a row at position p: (x, y) becomes (x cos - y sin, x sin + y cos), with cos and
// sin at [p][i], each product and each sum rounded to f32.
typedef struct intflash_rope {
  // [num_positions][rope_dim / 2], by absolute position, at most 16 in magnitude. cos = NULL: no
  // embedding, and the other fields are not read.
  const float* cos;
  const float* sin;
  int64_t num_positions;  // above every position that is turned
  int64_t rope_dim;       // the first channels, which are turned: even, 2 ... head_dim
  intflash_rope_pairing pairing;
} intflash_rope;

// ---- New tokens ----

// New tokens for the requests of a batch: rows token_indptr[r] ... token_indptr[r + 1] - 1 of key
// and value go to positions kv_lens[r] and on of request r.
typedef struct intflash_append_args {
  uint32_t struct_size;
  int64_t num_requests;
  const int64_t* token_indptr;         // [num_requests + 1], from 0
  const int64_t* kv_lens;              // [num_requests]: position after the last token, before
  const int64_t* first_key_positions;  // [num_requests], multiples of page_size; NULL = 0
  intflash_page_table pages;           // with room for the new tokens
  intflash_dtype key_dtype;            // any but BOOL
  intflash_dtype value_dtype;
  intflash_tensor key;    // [1][num_kv_heads][token_indptr[num_requests]][head_dim]
  intflash_tensor value;  // [1][num_kv_heads][token_indptr[num_requests]][head_dim_v]
  intflash_rope rope;     // of keys, at their positions, before anything else is done to them
  int64_t layer;          // 0 ... num_layers - 1
  // [token_indptr[num_requests]]: where each new token goes, page * page_size + its place in the
  // page; -1 = nowhere, and it is not read. In place of kv_lens, first_key_positions and pages,
  // which must be NULL then; NULL = none
  const int64_t* slots;
  // [token_indptr[num_requests]]: at which position each new token stands, with slots and rope, and
  // not read where the slot is -1; NULL without slots
  const int64_t* positions;
} intflash_append_args;

// Quantizes and packs the new tokens; what comes in ggml's blocks is widened first, and gets the
// codes that its elements in f32 would get. Codes and scales of INT8 are stored as they are, or a
// power of two apart (scales below 2^-100 / 127 as 0), and of a codec of fewer bits go on from
// there: keys into a cache without rotation of keys or key_center, and without rope, values into
// one without rotation of values or value_center. NaN or infinity in any token, a code of -128 or a
// scale that is < 0, not finite, or 0 where a code is not, is an error that names request, token
// and head, and nothing is appended. No two requests append to one page, no two tokens to one slot.
// A token in the first place of a page, or of 64 tokens in it, begins these anew: what they held is
// gone.
INTFLASH_API intflash_status intflash_cache_append(intflash_cache* cache,
                                                   const intflash_append_args* args);

// Copies a page to another one, all layers and kv heads of it: what a table's owner does before two
// requests that share a page write to it. No sequence may hold page to.
INTFLASH_API intflash_status intflash_cache_copy_page(intflash_cache* cache, int32_t from,
                                                      int32_t to);

// Reads tokens back in f32: code * scale, of keys with second digits (code + digit / 256) * scale,
// rotated back where the cache rotates, plus the centre; those in INT8 where a token is there so.
// begin and end count from the first token of page_ids[0], and page_ids names the pages up to the
// one of token end - 1. Either tensor may be NULL: not wanted. Tensors lie in the host's memory; of
// a cache on a CUDA device also in that device's.
INTFLASH_API intflash_status intflash_cache_export(
    const intflash_cache* cache, const int32_t* page_ids, int64_t begin, int64_t end,
    const intflash_tensor* key,     // [num_layers][num_kv_heads][end - begin][head_dim]
    const intflash_tensor* value);  // [num_layers][num_kv_heads][end - begin][head_dim_v]

// ---- Sequences: page tables that the cache keeps ----

// A sequence is named by a number >= 0, which is used again after it is freed. Its pages and its
// length are those of all layers: what is appended to layer 0 makes it longer, and the other layers
// follow, each with the same tokens. Fork, save, export and drop_before want the tokens in all
// layers; truncate takes back what only some of them have.
INTFLASH_API intflash_status intflash_sequence_create(intflash_cache* cache, int32_t* sequence);
INTFLASH_API intflash_status intflash_sequence_free(intflash_cache* cache, int32_t sequence);
// A second sequence with the same tokens. Full pages are shared from then on; a page that is not
// full is copied by whichever of the two appends to it first.
INTFLASH_API intflash_status intflash_sequence_fork(intflash_cache* cache, int32_t sequence,
                                                    int32_t* fork);
// Keeps the tokens at positions below kv_len, and gives back pages that hold none of them.
// INTFLASH_UNSUPPORTED where the window of a query at kv_len is no longer there in INT8; the error
// says from which kv_len on it is. What the last append to layer 0 brought can be taken back, and
// all tokens, and all but at most sink_blocks * 64.
INTFLASH_API intflash_status intflash_sequence_truncate(intflash_cache* cache, int32_t sequence,
                                                        int64_t kv_len);
// Gives back the pages all of whose tokens lie before position; what is left keeps its positions.
INTFLASH_API intflash_status intflash_sequence_drop_before(intflash_cache* cache, int32_t sequence,
                                                           int64_t position);
// kv_len: of layer 0.
INTFLASH_API intflash_status intflash_sequence_get_range(const intflash_cache* cache,
                                                         int32_t sequence,
                                                         int64_t* first_key_position,
                                                         int64_t* kv_len);
// The pages of a sequence, in every layer, valid until the next call that changes it.
INTFLASH_API intflash_status intflash_sequence_get_pages(const intflash_cache* cache,
                                                         int32_t sequence, const int32_t** page_ids,
                                                         int64_t* num_pages);
// intflash_cache_append to sequences [num_requests], each named once: pages come from the pool, and
// kv_lens, first_key_positions and pages of args are not read. Layer 0 takes pages for all layers:
// INTFLASH_POOL_EXHAUSTED where the pool lacks pages for the whole batch; then nothing is appended.
// Another layer goes on where it ends itself, up to kv_len, which stays below 2^31.
INTFLASH_API intflash_status intflash_sequences_append(intflash_cache* cache,
                                                       const int32_t* sequences,
                                                       const intflash_append_args* args);
// intflash_cache_export of the tokens at positions begin ... end - 1 of a sequence.
INTFLASH_API intflash_status intflash_sequence_export(const intflash_cache* cache, int32_t sequence,
                                                      int64_t begin, int64_t end,
                                                      const intflash_tensor* key,
                                                      const intflash_tensor* value);

// ---- Saved sequences ----

#define INTFLASH_SEQUENCE_FILE_VERSION 2  // src/cache/sequence_file.h has it byte by byte

// Takes or gives up to num_bytes bytes, and returns how many it did; 0 where no more will come or
// fit.
typedef size_t (*intflash_write_fn)(void* user, const void* bytes, size_t num_bytes);
typedef size_t (*intflash_read_fn)(void* user, void* bytes, size_t num_bytes);

// Writes a sequence's tokens, a block of 64 of each layer at a time and front to back. The bytes
// are the same on every CPU, and for every page size. INTFLASH_BAD_FILE where write took less than
// all.
INTFLASH_API intflash_status intflash_sequence_save(const intflash_cache* cache, int32_t sequence,
                                                    intflash_write_fn write, void* user);
// Makes a new sequence of saved tokens, and reads no byte beyond them. The cache must have the
// file's codec, window, page layout, layers, heads, dimensions, rotation and centres, and a
// page_size that divides its first_key_position. INTFLASH_BAD_FILE names the byte offset of what is
// missing, damaged, or different, and INTFLASH_POOL_EXHAUSTED the pages that are wanted; then the
// cache is as it was. read may call the cache itself: pages are taken when the file says how many,
// which may be INTFLASH_BUSY, and the sequence is there when all of it has been read. A change that
// is at work at that time is waited for: it must not wait for the load. Checksums find accidents,
// not forgery: of a forged file nothing is promised but that no memory beyond the cache's is
// touched.
INTFLASH_API intflash_status intflash_sequence_load(intflash_cache* cache, intflash_read_fn read,
                                                    void* user, int32_t* sequence);

// ---- Attention of a batch ----

typedef struct intflash_request {
  int64_t query_len;  // rows of query, the last of which stands at position kv_len - 1; may
                      // be 0
  int64_t kv_len;     // position after the last key
  int64_t first_key_position;  // of the request's first page: a multiple of page_size
  intflash_mask mask;
  int64_t window_left;   // WINDOW: keys before the query that stay visible; -1 = all
  int64_t window_right;  // WINDOW: keys after the query that stay visible; -1 = all
  float softmax_scale;   // 0 = 1 / sqrt(head_dim)
  int64_t prefix_len;    // PREFIX: keys that every query sees, from position 0 on
  // Positions of the keys that are attended, of those that the mask lets a query see: multiples of
  // 1024 from first_key_position on, or that itself, or kv_len; both 0 = all. Pages that hold none
  // of them are not read: page_ids may be anything there, and end before kv_len.
  int64_t key_begin;
  int64_t key_end;
} intflash_request;

#define INTFLASH_MAX_PREFIX_LEVELS 4  // shared prefixes that lie in each other

// Requests first_request ... first_request + num_requests - 1, whose page tables begin with the
// same pages. Their keys up to position prefix_len, rounded down to whole score blocks of 128 and
// whole pages, are read once for all of them; no output bit changes.
typedef struct intflash_shared_prefix {
  int64_t first_request;
  int64_t num_requests;  // at least 1, all with the same first_key_position
  int64_t prefix_len;    // position after the last shared key: at most each one's kv_len, and its
                         // key_end where it attends some keys alone, from first_key_position on
} intflash_shared_prefix;

typedef struct intflash_batch_desc {
  uint32_t struct_size;
  uint32_t request_size;  // sizeof(intflash_request)
  int64_t num_requests;
  const intflash_request* requests;
  int64_t num_query_heads;      // a multiple of the cache's num_kv_heads
  intflash_dtype query_dtype;   // F32, F16, BF16, F8_E4M3, F8_E5M2, or INT8 where the cache does
                                // not rotate
  intflash_dtype out_dtype;     // F32, F16 or BF16
  intflash_mode mode;           // EXACT and INTFA attend what intflash_cache_export would give,
                                // or, with a window, what each query sees
  float score_cap;              // 0 = none
  uint32_t shared_prefix_size;  // sizeof(intflash_shared_prefix), where there are any
  // [num_shared_prefixes], by first_request, an outer one before those in it; NULL where there are
  // none. Two have no request in common, or the later one lies in the earlier one's requests and
  // has the larger prefix_len, at most INTFLASH_MAX_PREFIX_LEVELS deep.
  const intflash_shared_prefix* shared_prefixes;
  int64_t num_shared_prefixes;
  int32_t score_digits;  // as in intflash_attend_desc; 0 = 1 where the cache's codec has no second
                         // ones, and 2 is INTFLASH_UNSUPPORTED there
} intflash_batch_desc;

// What rows have seen of the keys at positions first_key ... first_key + num_keys - 1, exactly: not
// normalised, and without centres and sinks. num_keys is 1024 * 2^k, and first_key a multiple of
// it: however keys are divided between callers, such states come to the same bits
// (docs/numerics.md, section 4). Memory is the caller's. Rows are [num_query_heads][query_len].
typedef struct intflash_state {
  int64_t first_key;
  int64_t num_keys;
  float* reference;        // [rows], log2, a whole number; -infinity: no key seen
  float* row_sum;          // [rows], in units of 2^reference
  float* accumulators;     // [rows][head_dim_v], in the same
  double* center_score;    // [rows]: what the centre of keys adds to each score in the end
  int32_t rotates_values;  // the basis of accumulators, as intflash_plan_info has it: the caller's
                           // to set before a run, which refuses another
} intflash_state;

// The rows of all requests follow one another, in the order of requests.
typedef struct intflash_batch_args {
  uint32_t struct_size;
  intflash_tensor query;                 // [1][num_query_heads][total query_len][head_dim]; its
                                         // scale_block counts the rows of all requests
  intflash_tensor out;                   // [1][num_query_heads][total query_len][head_dim_v]
  float* lse;                            // [num_query_heads][total query_len], contiguous; or NULL
  intflash_page_table pages;             // of all requests; NULL where sequences are given
  intflash_rope rope;                    // of query, at its rows' positions; not of INT8
  int32_t (*should_cancel)(void* user);  // as in intflash_attend_args; states may be written too
  void* cancel_user;
  const float* sinks;           // [num_query_heads], as in intflash_attend_args; or NULL
  const float* alibi_slopes;    // [num_query_heads], the same; or NULL
  uint32_t additive_mask_size;  // sizeof(intflash_additive_mask), where there are any
  uint32_t bit_mask_size;       // sizeof(intflash_bit_mask), the same
  // [num_requests], each with data [num_query_heads][query_len][keys] whose first key stands at the
  // request's first_key_position; stride_batch is not read. NULL = none
  const intflash_additive_mask* additive_masks;
  const intflash_bit_mask* bit_masks;  // [num_requests]; NULL = none
  int64_t layer;                       // of the cache: 0 ... num_layers - 1
  // [num_requests], in place of pages: each with the plan's kv_len in this layer, or at least its
  // key_end where that is less, and its first_key_position; NULL = pages
  const int32_t* sequences;
  // Where the run leaves states: by request, of each as intflash_plan_get_state_keys says. out,
  // lse and sinks are then not used. NULL = results
  const intflash_state* states;
  uint32_t state_size;  // sizeof(intflash_state), where there are any
} intflash_batch_args;

// Whether desc can be served over cache, and by what: makes a plan, and destroys it. Fills info
// (may be NULL) on INTFLASH_OK.
INTFLASH_API intflash_status intflash_query_batch_support(const intflash_context* context,
                                                          const intflash_cache* cache,
                                                          const intflash_batch_desc* desc,
                                                          intflash_plan_info* info);

// cache gives the shape; the plan runs over every layer of it and of any other cache of the same
// shape and number of pages. The plan is immutable: several threads may run it at once over
// different workspaces.
INTFLASH_API intflash_status intflash_plan_batch(intflash_context* context,
                                                 const intflash_cache* cache,
                                                 const intflash_batch_desc* desc,
                                                 intflash_plan** plan);
// How many states a run leaves of a request, where it leaves states: as few as its keys can be, and
// at most 40. 0 where there is no such request, no batch, or another mode than int8.
INTFLASH_API int64_t intflash_plan_num_states(const intflash_plan* plan, int64_t request);
// Which keys state `index` of a request has; the states' keys ascend.
INTFLASH_API intflash_status intflash_plan_get_state_keys(const intflash_plan* plan,
                                                          int64_t request, int64_t index,
                                                          int64_t* first_key, int64_t* num_keys);

// Attends the whole batch. Allocates nothing and takes no lock. NaN, infinity or a code of -128 in
// query is found before anything is written to out, lse or states, and so is a page that requests
// of a shared prefix should have in common and have not.
INTFLASH_API intflash_status intflash_run_batch(const intflash_plan* plan,
                                                const intflash_cache* cache,
                                                const intflash_batch_args* args, void* workspace,
                                                size_t workspace_bytes);
// The same for hosts that own the parallel region: intflash_run_task and intflash_end follow.
INTFLASH_API intflash_status intflash_begin_batch(const intflash_plan* plan,
                                                  const intflash_cache* cache,
                                                  const intflash_batch_args* args, void* workspace,
                                                  size_t workspace_bytes);

// Of a run that was begun over a cache with INTFLASH_NUMA_BY_NODE: the system's number of the node
// that most spans of a task begin on, where a host's thread does best to take it. -1: any.
INTFLASH_API int32_t intflash_get_task_node(const intflash_plan* plan, const void* workspace,
                                            int32_t phase, int64_t task);

// ---- States ----

// States of the same rows, from any number of callers.
typedef struct intflash_state_set {
  uint32_t struct_size;
  uint32_t state_size;  // sizeof(intflash_state)
  // [num_states], by ascending first_key, none with keys that another has. Keys that none has are
  // as if no row saw them.
  const intflash_state* states;
  int64_t num_states;
  int64_t query_len;
  int64_t num_query_heads;
  int64_t head_dim_v;
} intflash_state_set;

typedef struct intflash_finish_args {
  uint32_t struct_size;
  intflash_dtype out_dtype;   // F32, F16 or BF16
  intflash_tensor out;        // [1][num_query_heads][query_len][head_dim_v]
  float* lse;                 // [num_query_heads][query_len], contiguous; or NULL
  const float* sinks;         // [num_query_heads], as in intflash_attend_args; or NULL
  int64_t num_kv_heads;       // of value_center; a divisor of num_query_heads
  const float* value_center;  // [num_kv_heads][head_dim_v], of the cache's layer; NULL = zero
} intflash_finish_args;

// Merges all states of a set, and writes what they come to: to the bit what one run over all of
// their keys writes. On the calling thread; allocates nothing. INTFLASH_NONFINITE_INPUT where a
// state has a number that no run leaves; then nothing is written.
INTFLASH_API intflash_status intflash_finish_states(const intflash_context* context,
                                                    const intflash_state_set* set,
                                                    const intflash_finish_args* args);
// Merges all states of a set into one, whose first_key and num_keys the caller has set so that it
// has all of their keys: to the bit the state that one run leaves of these. So states can be
// gathered along a tree of callers. joined may be in the memory of one of the states, and at least
// one must be given. Otherwise as intflash_finish_states.
INTFLASH_API intflash_status intflash_join_states(const intflash_context* context,
                                                  const intflash_state_set* set,
                                                  const intflash_state* joined);

// Puts the results of attention over several sets of keys together: out and lse become those of all
// keys at once, up to rounding (the online softmax of FlashAttention, arXiv 2205.14135 section 3.1,
// between normalised states). outs[i] and out are [1][num_heads][num_rows][dim] in F32; lses[i] and
// lse are [num_heads][num_rows], natural and -infinity where state i saw no key; a row that no
// state saw gets out = 0 and lse = -infinity. out and lse may be those of a state.
// INTFLASH_NONFINITE_INPUT where an lse is NaN or +infinity; then nothing is written.
INTFLASH_API intflash_status intflash_merge_states(int64_t num_states, const intflash_tensor* outs,
                                                   const float* const* lses, int64_t num_heads,
                                                   int64_t num_rows, int64_t dim,
                                                   const intflash_tensor* out, float* lse);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // INTFLASH_CACHE_H_
