// What a tier offers for the steps of a decoder and for attention. Every function computes one thread's share.
// Orders of operations are written in higgsx.h; buffers that are named `out` may be the input itself.
#pragma once

#include <stdint.h>

#include "higgsx.h"

namespace higgsx {

// The arguments of hgx_attention.
struct Attention {
  int64_t batch, heads, kv_heads, queries, keys, head_dim;
  const void *q, *k, *v;
  void *out;
  int dtype;
  hgx_strides of_q, of_k, of_v, of_out;
  float scale;
  int causal, mode;
};

// One HGX_ATTEND. `in` and `out` point at the first head's column of token 0; `context` is rounded up to 16.
struct Attend {
  int64_t heads, kv_heads, head_dim, context, window;
  int64_t in_stride, out_stride;
  float scale, cap;
  int dtype;
  const float *in;
  float *out;
  const void *keys, *values;
  const int32_t *sequence, *position;
};

// Keys that are summed apart from the others (higgsx.h), so that several threads can share one token.
constexpr int64_t section_keys = 1024;

struct DecoderKernels {
  // Attention over strided tensors: `items` independent pieces, each with `scratch` bytes (aligned to 64).
  int64_t (*attention_items)(const Attention *job);
  int64_t (*attention_scratch)(const Attention *job);
  void (*attention_item)(const Attention *job, int64_t item, void *scratch);

  // Attention over the cache for tokens first .. first + count - 1, which stand at neighbouring positions of one
  // sequence; at most attend_tokens(heads / kv_heads) of them. attend_section leaves its sums in `partial`
  // (attend_partial bytes), attend_merge joins the sections of the token in order; their keys are
  // section * section_keys and on. attend does it all.
  int64_t (*attend_tokens)(int64_t group);
  int64_t (*attend_scratch)(int64_t head_dim, int64_t group);
  int64_t (*attend_partial)(int64_t head_dim, int64_t group);
  void (*attend)(const Attend *step, int64_t first, int64_t count, int64_t kv_head, void *scratch);
  void (*attend_section)(const Attend *step, int64_t token, int64_t kv_head, int64_t section, void *scratch,
                         float *partial);
  void (*attend_merge)(const Attend *step, int64_t token, int64_t kv_head, int64_t sections, float *partials);

  // One token each; `cos` and `sin` are its row of the tables, `keys` and `values` those of its sequence.
  void (*norm)(const hgx_step *step, const float *in, float *out);
  void (*rope)(const hgx_step *step, float *x, const float *cos, const float *sin);
  void (*cache)(const hgx_step *step, int dtype, int64_t context, int64_t position, const float *k, const float *v,
                void *keys, void *values);
  // Elementwise over n numbers.
  void (*act)(int kind, int64_t n, const float *a, const float *b, float *out);
  void (*sum)(int64_t n, const float *a, const float *b, float *out);
  void (*cap)(int64_t n, float cap, float *x);
  void (*scale)(int64_t n, float scale, float *x);
  void (*scaled_sum)(int64_t n, float scale, const float *a, float *out);  // out + a * scale
  // For tests: f(x) of 0: exp, 1: exp2 as in attention, 2: tanh, 3: erf.
  void (*function)(int which, int64_t n, const float *x, float *out);
};

}  // namespace higgsx
