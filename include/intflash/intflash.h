// Copyright 2026 The intflash Authors
// SPDX-License-Identifier: Apache-2.0
//
// The C interface of intflash: attention computed in integers on CPUs.
//
// Every call returns an intflash_status. A call that fails leaves its outputs and the objects
// involved as they were, but for outputs of a run that was cancelled; intflash_last_error() then
// names the argument, its value and the rule it broke. Structs that are passed by pointer begin
// with struct_size, to be set to sizeof of the struct as the caller knows it; beside an array of
// structs is the sizeof of one. Optional fields that are zero mean "the default". Sizes are counted
// in elements, not in bytes, unless a name ends in _bytes. A length of 0 is nothing to do, and no
// error; pointers to what is then not read may be NULL. Every pointer has the natural alignment of
// what it points to.
//
// What may change. INTFLASH_ABI_VERSION is the shared library's SONAME: it grows where a program
// that was compiled against an older header would break. While it stays, structs with such a size
// grow at their ends alone, other structs not at all, and functions and enumerators are only added.
// A library takes the smaller structs of older headers, the missing fields as 0, and fills no more
// of them; larger ones than it knows it refuses. Before version 1.0 each minor version may change
// anything, and then INTFLASH_ABI_VERSION grows; a patch version keeps it.
//
// What the dense calls of this header and the batches of cache.h serve:
//
//                                            dense              batch
//   modes exact and intfa                    yes                yes
//   query in f32, f16, bf16; out in these    yes                yes
//   query, key, value in F8_E4M3, F8_E5M2    yes                query; the others when they are
//                                                               appended
//   query, key, value in INT8 with scales    yes                without rotation or rotary
//                                                               embedding
//   key and value in ggml's blocks           yes                when they are appended
//   means computed and subtracted            yes                no
//   means given                              by the call        by the cache
//   Hadamard rotation                        by the call        by the cache
//   second digits in scores                  yes                codec INT8_WIDE
//   rotary position embedding                no                 yes
//   causal, window and prefix masks          one for all        by request
//   additive masks, in bytes, and bits       one for the call   by request
//   sinks, ALiBi, score cap                  yes                yes
//   prefixes that requests share             no                 yes
//   tasks for the host's threads             yes                yes
//   cancelling                               yes                yes
//   some of the keys                         no                 yes
//   exact states                             no                 in mode int8
//   lse                                      [batch][heads][query_len], of a batch [1][heads][rows]
#ifndef INTFLASH_INTFLASH_H_
#define INTFLASH_INTFLASH_H_

#include <stddef.h>
#include <stdint.h>

#define INTFLASH_VERSION_MAJOR 0
#define INTFLASH_VERSION_MINOR 1
#define INTFLASH_VERSION_PATCH 0
#define INTFLASH_ABI_VERSION 1          // of these headers' structs and functions
#define INTFLASH_PAGE_LAYOUT_VERSION 1  // of codec int8's pages, in memory and on disk

#if defined(_WIN32)
#define INTFLASH_API
#else
#define INTFLASH_API __attribute__((visibility("default")))
#endif

// To C an enumeration is an int, and to C++ one of these too: whatever a caller passes can be read,
// and refused.
#ifdef __cplusplus
#define INTFLASH_INT : int
extern "C" {
#else
#define INTFLASH_INT
#endif

typedef enum intflash_status INTFLASH_INT {
  INTFLASH_OK = 0,
  // Null or misaligned pointer, wrong struct_size, value outside its enumeration or range.
  INTFLASH_INVALID_ARGUMENT = 1,
  // A length, head count or head_dim that breaks a rule.
  INTFLASH_BAD_SHAPE = 2,
  // A stride that overlaps rows, or is negative.
  INTFLASH_BAD_STRIDE = 3,
  // A size that does not fit the address space.
  INTFLASH_SIZE_OVERFLOW = 4,
  // A scale of an INT8 tensor that is < 0, not finite, or 0 where a code is not; a bad softmax
  // scale or cap.
  INTFLASH_BAD_SCALE = 5,
  // NaN or infinity in query, key, value or a given centre.
  INTFLASH_NONFINITE_INPUT = 6,
  // Finite inputs whose scores or outputs would leave the range of f32.
  INTFLASH_SCORE_OVERFLOW = 7,
  // A valid request that no kernel serves; the message says why.
  INTFLASH_UNSUPPORTED = 8,
  // INTFLASH_ISA or options.isa names no port.
  INTFLASH_UNKNOWN_ISA = 9,
  // The port exists, but this build, CPU or operating system lacks it.
  INTFLASH_ISA_UNAVAILABLE = 10,
  // Less than the plan's workspace_bytes, or not 64-byte aligned.
  INTFLASH_WORKSPACE_TOO_SMALL = 11,
  INTFLASH_OUT_OF_MEMORY = 12,
  // A cache without enough free pages.
  INTFLASH_POOL_EXHAUSTED = 13,
  // The caller's should_cancel asked for it.
  INTFLASH_CANCELLED = 14,
  // A saved sequence that is cut short, damaged, or of another cache.
  INTFLASH_BAD_FILE = 15,
  // Another call is changing the cache: nothing was done.
  INTFLASH_BUSY = 16,
  // The device is one that this library knows, but there is none here, or its driver or
  // libintflash_cuda is not; the message says which.
  INTFLASH_DEVICE_UNAVAILABLE = 17,
  // What the device's driver reported while it was in use. Where the device is lost by that (after
  // an illegal address, say), so are the caches on it: each later call over one says so.
  INTFLASH_DEVICE_FAILED = 18
} intflash_status;

typedef enum intflash_dtype INTFLASH_INT {
  INTFLASH_F32 = 1,
  INTFLASH_F16 = 2,
  INTFLASH_BF16 = 3,
  // Inputs only: codes in [-127, 127] with scales.
  INTFLASH_INT8 = 4,
  // Keys and values only: rows of ggml's block_q8_0 and block_q4_0, 32 elements a block. Strides
  // count elements, and are multiples of 32, as is the row. Elements get the codes that they would
  // get in f32.
  INTFLASH_Q8_0 = 5,
  INTFLASH_Q4_0 = 6,
  // Masks only: bytes, of which 0 hides the key and any other keeps it.
  INTFLASH_BOOL = 7,
  // Inputs only: OCP's 8-bit floats (arXiv 2209.05433). E4M3 has no infinities, and NaN where all
  // bits but the sign are set (PyTorch's float8_e4m3fn); E5M2 is the upper byte of an F16. Elements
  // get the codes that they would get in f32.
  INTFLASH_F8_E4M3 = 8,
  INTFLASH_F8_E5M2 = 9
} intflash_dtype;

typedef enum intflash_mode INTFLASH_INT {
  // Both products in integers (docs/numerics.md): fast, and the same bits on every CPU.
  INTFLASH_MODE_INT8 = 0,
  // Double precision from the definition: the reference, slow.
  INTFLASH_MODE_EXACT = 1,
  // INT-FlashAttention, Algorithm 1 (arXiv 2409.16997) as published: for comparison, slow.
  INTFLASH_MODE_INTFA = 2,
  // Scores in integers as in INT8, and values in F16, whose weighted sums are in F32 (half-INT8 of
  // INT-FlashAttention): less error, and the same bits on every CPU too. Values have a power of two
  // for each token, so that their range is F32's. Batches are over a cache of codec K8V16.
  INTFLASH_MODE_INT8_QK = 3
} intflash_mode;

typedef enum intflash_mask INTFLASH_INT {
  INTFLASH_MASK_NONE = 0,
  // Query i sees keys 0 ... kv_len - query_len + i (bottom-right aligned).
  INTFLASH_MASK_CAUSAL = 1,
  // Query i, at position p = kv_len - query_len + i, sees p - window_left ... p + window_right.
  INTFLASH_MASK_WINDOW = 2,
  // Causal, but every query sees keys 0 ... prefix_len - 1.
  INTFLASH_MASK_PREFIX = 3,
  // Query i sees keys 0 ... i, whatever kv_len is.
  INTFLASH_MASK_CAUSAL_TOP_LEFT = 4
} intflash_mask;

// Which means over all keys that some query sees are subtracted before quantization, and put back
// afterwards (SmoothK of SageAttention, arXiv 2410.02367 section 4.2, and the same for V). Exact
// but for rounding: softmax does not see a shift of K. A mean that would make most rows coarser is
// left out. Results then depend on all keys at once: chunks of a prompt do not give the bits of the
// whole.
typedef enum intflash_center INTFLASH_INT {
  INTFLASH_CENTER_NONE = 0,
  INTFLASH_CENTER_KEY = 1,
  INTFLASH_CENTER_KEY_VALUE = 2
} intflash_center;

// Hadamard rotation before quantization, which spreads what a few channels hold over all of them
// (QuaRot, arXiv 2404.00456; FlashAttention-3, arXiv 2407.08608 section 3.3). Scores do not see
// that of query and key; that of values is undone on every row of out. A head_dim can be rotated
// that is m * 2^k with m odd and <= 9.
typedef enum intflash_rotation INTFLASH_INT {
  // Query and key where head_dim can be rotated, value where head_dim_v can be; but nothing that
  // comes as INT8. Values that are a part of the keys (MLA) are quantized beside them, as any.
  INTFLASH_ROTATION_AUTO = 0,
  INTFLASH_ROTATION_NONE = 1
} intflash_rotation;

typedef struct intflash_context intflash_context;
typedef struct intflash_plan intflash_plan;

// A synchronous parallel loop of the caller's: calls body(body_context, i) once for each i in [0,
// count), in any order and on any threads, and returns when all are done.
typedef void (*intflash_parallel_for_fn)(void* user, int32_t count,
                                         void (*body)(void* body_context, int32_t index),
                                         void* body_context);

// Whose threads run a context's calls where the caller brings no parallel_for.
typedef enum intflash_threads INTFLASH_INT {
  // A pool of the context's: the calling thread and helpers, which are started when a run first
  // needs them, on the CPUs that the creating thread had, and joined by intflash_context_destroy.
  // Where these CPUs are of several NUMA nodes, each helper keeps to those of one.
  // Fewer run where the system gives no more. It serves one call at a time: a call that finds it at
  // work runs on its own thread alone. A forked child gets helpers of its own. Between runs helpers
  // spin for 20 microseconds, then sleep; not at all where there are more threads than CPUs.
  INTFLASH_THREADS_POOL = 0,
  // OpenMP's team, for hosts that compute with the same OpenMP; OMP_NUM_THREADS and the like are
  // OpenMP's to honour. It is started when the context is created, and whatever OpenMP does where
  // threads cannot be started, it does: libgomp ends the process. A child forked since the
  // process's first context runs on its calling threads alone.
  INTFLASH_THREADS_OPENMP = 1
} intflash_threads;

typedef struct intflash_context_options {
  uint32_t struct_size;
  int32_t num_threads;  // workers; 0 = the physical cores that affinity allows, as far as the
                        // cgroup's CPU quota pays for them; of OpenMP, its team's size
  const char* isa;  // name of a port; NULL = the environment's INTFLASH_ISA, else the best one the
                    // CPU and OS offer
  intflash_parallel_for_fn parallel_for;  // NULL = the library's, as threads says
  void* parallel_for_user;                // handed to parallel_for
  void* (*allocate)(void* user, size_t bytes,
                    size_t alignment);  // NULL = aligned_alloc; returns NULL when out of memory
  void (*deallocate)(void* user, void* pointer);  // both or neither of the two are given
  void* allocator_user;
  int64_t l2_bytes;          // cache of one core that keys and values are kept in; 0 = detected
  intflash_threads threads;  // INTFLASH_UNSUPPORTED where it is not in this build
  const char* device;  // what computes, and has the context's caches: "cpu", or a CUDA device such
                       // as "cuda:0" (docs/cuda.md says what it serves, and which pointers are into
                       // its memory); NULL = "cpu"
  void* stream;  // of a CUDA device: the cudaStream_t that its runs go into; NULL = the default
                 // stream. It must outlive the context
} intflash_context_options;

// A dense tensor [batch][heads][tokens][dim]; dim is contiguous, the other strides are in elements
// and may be 0 where the extent is 1 or (inputs only) the data repeats.
typedef struct intflash_tensor {
  void* data;  // inputs are never written
  int64_t stride_batch;
  int64_t stride_head;
  int64_t stride_token;
  // For INTFLASH_INT8 only: value = code * scale[b * scale_stride_batch + h * scale_stride_head +
  // token / scale_block].
  const float* scale;
  int64_t scale_stride_batch;
  int64_t scale_stride_head;
  int64_t scale_block;  // tokens that share a scale: 1 = per token, n = per block of n, 0 = all
                        // tokens (per tensor or head)
} intflash_tensor;

// What is to be computed: out = softmax(softmax_scale * query key^T, capped and masked) value.
typedef struct intflash_attend_desc {
  uint32_t struct_size;
  intflash_mode mode;
  int64_t batch;            // 0 is allowed: nothing is done
  int64_t num_query_heads;  // a multiple of num_kv_heads; query head h reads kv head h /
                            // (num_query_heads / num_kv_heads)
  int64_t num_kv_heads;
  int64_t query_len;   // 0 is allowed: nothing is done
  int64_t kv_len;      // 0 is allowed: out = 0, lse = -inf
  int64_t head_dim;    // of query and key: a multiple of 8, 8 ... 1024
  int64_t head_dim_v;  // of value and out: the same rule; 0 = head_dim
  intflash_dtype query_dtype;
  intflash_dtype key_dtype;
  intflash_dtype value_dtype;
  intflash_dtype out_dtype;  // F32, F16 or BF16
  intflash_mask mask;
  int64_t window_left;   // WINDOW: keys before the query that stay visible; -1 = all
  int64_t window_right;  // WINDOW: keys after the query that stay visible; -1 = all
  float softmax_scale;   // 0 = 1 / sqrt(head_dim); otherwise finite and > 0
  float score_cap;       // score = cap * tanh(score / cap); 0 = none; otherwise finite and > 0
  intflash_center center;
  intflash_rotation rotation;
  int64_t prefix_len;    // PREFIX: 0 ... kv_len
  int32_t score_digits;  // INT8 digits of query and key in scores: 1; 2; or 0 = the second ones
                         // where scores of 128 keys are so large that one is too coarse for them
                         // (docs/numerics.md, section 2)
} intflash_attend_desc;

// A number per query and key that is added to the score, after the cap: head_scale * element. An
// element of -infinity, or of the dtype's lowest finite value, hides the key. NaN and +infinity are
// errors. Where all that a query sees of 128 keys in a row is 0, the result is the same to the bit
// as without: a mask of zeros and -infinity is the mask that it draws.
typedef struct intflash_additive_mask {
  const void* data;      // [batch][num_query_heads][query_len][keys], keys contiguous; NULL = none
  intflash_dtype dtype;  // F32, F16, BF16, or BOOL, which adds nothing and hides keys
  int64_t stride_batch;  // in elements; 0 where all share one
  int64_t stride_head;
  int64_t stride_query;
  const float* head_scale;  // [num_query_heads], at most 1e20 in magnitude; NULL = 1
} intflash_additive_mask;

// A bit per query and each of the last num_keys keys, of which a query sees those whose bit is set:
// the tree of a speculative decoder. Earlier keys, and what else the mask says, are as without.
typedef struct intflash_bit_mask {
  const uint64_t* words;  // [query_len][(num_keys + 63) / 64], key i of the last in bit i % 64 of
                          // word i / 64; NULL = none
  int64_t num_keys;       // 0 ... kv_len
} intflash_bit_mask;

typedef struct intflash_attend_args {
  uint32_t struct_size;
  intflash_tensor query;  // [batch][num_query_heads][query_len][head_dim]
  intflash_tensor key;    // [batch][num_kv_heads][kv_len][head_dim]
  intflash_tensor value;  // [batch][num_kv_heads][kv_len][head_dim_v]
  intflash_tensor
      out;     // [batch][num_query_heads][query_len][head_dim_v]; must not overlap an input
  float* lse;  // [batch][num_query_heads][query_len], contiguous: natural log of the softmax
               // denominator; or NULL
  const float* key_center;    // [batch][num_kv_heads][head_dim]: given means; NULL = computed where
                              // center asks for them
  const float* value_center;  // [batch][num_kv_heads][head_dim_v]
  const float* sinks;  // [num_query_heads]: a logit per head that joins the softmax denominator and
                       // has no value (attention sinks); -infinity or NULL = none
  // The following are served in the modes int8 and exact.
  intflash_additive_mask additive_mask;  // keys = kv_len
  const float* alibi_slopes;  // [num_query_heads], at most 1e20: slope * |p - key| is taken from
                              // the score of the query at position p = kv_len - query_len + i
                              // (ALiBi, arXiv 2108.12409 section 3); NULL = none
  intflash_bit_mask bit_mask;
  int32_t (*should_cancel)(void* user);  // asked now and then by every worker, several at a time:
                                         // not 0 ends the run with INTFLASH_CANCELLED, with a part
                                         // of out and lse written; NULL = never
  void* cancel_user;
} intflash_attend_args;

typedef struct intflash_plan_info {
  uint32_t struct_size;
  const char* mode;  // "int8", "exact" or "intfa"
  const char* port;  // the kernel table dispatched, such as "avx512_vnni"
  char kernel[64];   // what runs, such as "attend/int8/avx512_vnni/rows24x128"
  int32_t num_threads;
  size_t workspace_bytes;
  const char* codec;       // of the cache that a batch is over, such as "int8"; "" of dense calls
  int32_t rotates_keys;    // 1: queries and keys are rotated
  int32_t rotates_values;  // 1: values are
  int32_t score_digits;    // as asked for; 1 where a cache's keys have one digit, where query and
                           // key are INT8, and in other modes
} intflash_plan_info;

typedef struct intflash_port_info {
  uint32_t struct_size;
  const char* name;
  int32_t built;       // this build contains it
  int32_t supported;   // and this CPU and operating system run it
  const char* reason;  // why not, or "" where supported
} intflash_port_info;

typedef struct intflash_device_info {
  uint32_t struct_size;
  char name[16];          // what intflash_context_options.device takes
  char description[128];  // such as "NVIDIA A100-SXM4-40GB, compute capability 8.0"; "" of the CPU
  int32_t available;      // a context can be created on it
  char reason[384];       // why not, or "" where available
} intflash_device_info;

INTFLASH_API const char* intflash_version(void);  // "0.1.0"
INTFLASH_API int32_t intflash_abi_version(void);
INTFLASH_API int32_t intflash_page_layout_version(void);
INTFLASH_API const char* intflash_status_name(
    intflash_status status);  // such as "INTFLASH_BAD_SHAPE"
// The message of this thread's last failed call: the argument, its value and the rule. "" before
// any failure.
INTFLASH_API const char* intflash_last_error(void);

// Ports this version knows, best first. INTFLASH_INVALID_ARGUMENT when index is out of [0,
// intflash_num_ports()).
INTFLASH_API int32_t intflash_num_ports(void);
INTFLASH_API intflash_status intflash_get_port(int32_t index, intflash_port_info* info);

// "cpu", then the CUDA devices; or one "cuda" that is not available, and why. The first call looks
// for libintflash_cuda: at the path that the environment's INTFLASH_CUDA_LIBRARY has, else beside
// this library, else where the system looks. Nothing is begun on a device: whether the library has
// code for it is known where a context is created. INTFLASH_INVALID_ARGUMENT when index is out of
// [0, intflash_num_devices()).
INTFLASH_API int32_t intflash_num_devices(void);
INTFLASH_API intflash_status intflash_get_device(int32_t index, intflash_device_info* info);

// options may be NULL. The context owns the threads' settings and the choice of the port; it may be
// shared by threads.
INTFLASH_API intflash_status intflash_context_create(const intflash_context_options* options,
                                                     intflash_context** context);
INTFLASH_API void intflash_context_destroy(
    intflash_context* context);  // NULL is allowed; destroy its plans first
INTFLASH_API const char* intflash_context_device(const intflash_context* context);
INTFLASH_API const char* intflash_context_port(const intflash_context* context);
// Why each better port was passed over, such as "amx_int8: CPU lacks AMX-INT8"; "" when the best
// built port runs.
INTFLASH_API const char* intflash_context_port_reason(const intflash_context* context);
INTFLASH_API int32_t intflash_context_num_threads(const intflash_context* context);

// Whether desc can be served, and by what. Fills info (may be NULL) on INTFLASH_OK.
INTFLASH_API intflash_status intflash_query_support(const intflash_context* context,
                                                    const intflash_attend_desc* desc,
                                                    intflash_plan_info* info);

// Checks desc and cuts the work. A plan is immutable: several threads may run it at once over
// different workspaces.
INTFLASH_API intflash_status intflash_plan_attend(intflash_context* context,
                                                  const intflash_attend_desc* desc,
                                                  intflash_plan** plan);
// Of these and of batches' plans (cache.h):
INTFLASH_API void intflash_plan_destroy(intflash_plan* plan);  // NULL is allowed
INTFLASH_API intflash_status intflash_plan_get_info(const intflash_plan* plan,
                                                    intflash_plan_info* info);
INTFLASH_API size_t intflash_plan_workspace_bytes(const intflash_plan* plan);
INTFLASH_API int32_t intflash_plan_num_phases(const intflash_plan* plan);
INTFLASH_API int64_t intflash_plan_num_tasks(const intflash_plan* plan, int32_t phase);

// Checks args, packs key and value into the workspace (64-byte aligned, at least
// intflash_plan_workspace_bytes), and attends. Allocates nothing. NaN or infinity in the inputs is
// an error that names the tensor and its first such element, found before anything is written to
// out or lse. Keys and values that the masks hide from all queries change no bit and are no error,
// whatever they hold.
INTFLASH_API intflash_status intflash_run(const intflash_plan* plan,
                                          const intflash_attend_args* args, void* workspace,
                                          size_t workspace_bytes);
// The two halves of intflash_run, for keys and values that are attended more than once.
// intflash_pack reads key and value only (query and out may have data == NULL), and what masks
// there are: give it masks only if all runs hide from all queries what these hide.
// intflash_run_packed reads query alone and a workspace that intflash_pack of the same plan was the
// last to fill: intflash_run leaves other things there. In the modes exact and intfa nothing is
// packed: intflash_run_packed then reads key and value.
INTFLASH_API intflash_status intflash_pack(const intflash_plan* plan,
                                           const intflash_attend_args* args, void* workspace,
                                           size_t workspace_bytes);
INTFLASH_API intflash_status intflash_run_packed(const intflash_plan* plan,
                                                 const intflash_attend_args* args, void* workspace,
                                                 size_t workspace_bytes);

// intflash_run for hosts that own the parallel region: begin on one thread; then for each phase in
// turn every task below num_tasks once, in any order and on any threads, with a worker number below
// the plan's num_threads that no other thread uses at the time, and a barrier after each phase;
// then end on one thread, which returns the run's status. What args points to must stay until then.
// A task of no run that was begun, and an end before all tasks have run, is
// INTFLASH_INVALID_ARGUMENT, and does nothing. run_task and end are those of batches too.
INTFLASH_API intflash_status intflash_begin(const intflash_plan* plan,
                                            const intflash_attend_args* args, void* workspace,
                                            size_t workspace_bytes);
INTFLASH_API intflash_status intflash_run_task(const intflash_plan* plan, void* workspace,
                                               int32_t phase, int64_t task, int32_t worker);
INTFLASH_API intflash_status intflash_end(const intflash_plan* plan, void* workspace);

// What came of a run, of a batch too, that ended without an error in the workspace. On the CPU
// there is nothing more to know: INTFLASH_OK. On a CUDA device a run, and the end of one that was
// begun, only enqueues: it returns what is wrong with its arguments, and this waits for the
// context's stream, and returns what the device found in tensors, masks and tables (NaN, say), for
// which it has then left out and lse as they were. The workspace, the plan, a batch's cache and
// what args points to in the device's memory must stay until then; it may be asked again, as after
// each launch of a graph that the run was captured into. It does not wait for a graph that was
// launched into another stream: the caller waits for that first, or makes the context's stream wait
// for it.
INTFLASH_API intflash_status intflash_status_of_run(const intflash_plan* plan, void* workspace);

// Plan, workspace and run in one call, with the context's allocator: for a first program, and for
// large calls.
INTFLASH_API intflash_status intflash_attend(intflash_context* context,
                                             const intflash_attend_desc* desc,
                                             const intflash_attend_args* args);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // INTFLASH_INTFLASH_H_
