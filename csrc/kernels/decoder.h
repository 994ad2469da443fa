// Everything that a decoder's steps need besides products: fills in DecoderKernels.
#pragma once

#include "norm.h"
#include "rope.h"
#include "attention.h"

namespace decoder {

static int64_t queries_at_once(const Attention *job) {
  const int64_t group = job->heads / job->kv_heads, heads = job->batch * job->kv_heads;
  int64_t rows = 768;
  while (rows > 48 && heads * (job->queries * group / rows + 1) < 32) rows /= 2;
  const int64_t most = rows / group > 1 ? rows / group : 1;
  const int64_t blocks = (job->queries + most - 1) / most;
  return (job->queries + blocks - 1) / blocks;
}

static int64_t attention_items(const Attention *job) {
  const int64_t at_once = queries_at_once(job);
  return job->batch * job->kv_heads * ((job->queries + at_once - 1) / at_once);
}

static int64_t attention_scratch(const Attention *job) {
  const int64_t rows = queries_at_once(job) * (job->heads / job->kv_heads);
  return work_bytes(rows, job->head_dim) + (job->mode != HGX_FLOAT ? whole_bytes(rows, job->head_dim) : 0);
}

template <class T>
static void attention_of(const Attention *job, int64_t batch, int64_t kv_head, int64_t first, int64_t count,
                         void *scratch) {
  const int64_t group = job->heads / job->kv_heads, dim = job->head_dim;
  const Work work = work_in(scratch, count * group, dim, 0.0f);
  const float factor = query_factor(job->scale, 0.0f);
  for (int64_t r = 0; r < work.rows; ++r) {
    const int64_t query = first + r / group, head = kv_head * group + r % group;
    const T *const q = static_cast<const T *>(job->q) + batch * job->of_q.batch + head * job->of_q.head;
    scaled_query(q + query * job->of_q.row, dim, factor, work.q + r * dim);
    const int64_t seen = job->causal ? query + 1 + job->keys - job->queries : job->keys;
    work.spans[r] = {0, seen > 0 ? seen : 0};
  }
  Whole numbers;
  if (job->mode != HGX_FLOAT) numbers = whole_in(scratch, work, job->mode == HGX_INT8);
  const Strided<T> source = {
    static_cast<const T *>(job->k) + batch * job->of_k.batch + kv_head * job->of_k.head,
    static_cast<const T *>(job->v) + batch * job->of_v.batch + kv_head * job->of_v.head,
    job->of_k.row, job->of_v.row, job->keys, job->mode != HGX_FLOAT ? &numbers : nullptr};
  attend_rows(work, source);
  for (int64_t r = 0; r < work.rows; ++r) {
    const int64_t query = first + r / group, head = kv_head * group + r % group;
    T *const out = static_cast<T *>(job->out) + batch * job->of_out.batch + head * job->of_out.head;
    const bool blind = work.spans[r].to == 0;
    const float share = blind ? 0.0f : 1.0f / work.sums[r].weight;
    for (int64_t i = 0; i < dim; i += 16) {
      const int lanes = static_cast<int>(dim - i < 16 ? dim - i : 16);
      const F value = blind ? f_zero() : f_mul(f_load(row_of(work, work.out, r) + i), f_set(share));
      store_as(job->dtype, out + query * job->of_out.row + i, value, lanes);
    }
  }
}

static void attention_item(const Attention *job, int64_t item, void *scratch) {
  const int64_t at_once = queries_at_once(job), blocks = (job->queries + at_once - 1) / at_once;
  const int64_t first = (blocks - 1 - item % blocks) * at_once;  // causal: the longest first
  const int64_t count = job->queries - first < at_once ? job->queries - first : at_once;
  const int64_t head = item / blocks % job->kv_heads, batch = item / blocks / job->kv_heads;
  if (job->dtype == HGX_F32) attention_of<float>(job, batch, head, first, count, scratch);
  else if (job->dtype == HGX_F16) attention_of<Half>(job, batch, head, first, count, scratch);
  else attention_of<Brain>(job, batch, head, first, count, scratch);
}

// Queries of tokens first .. first + count - 1 and what they see.
static Work queries_of(const Attend *step, int64_t first, int64_t count, int64_t kv_head, void *scratch) {
  const int64_t group = step->heads / step->kv_heads, dim = step->head_dim;
  const Work work = work_in(scratch, count * group, dim, step->cap);
  const float factor = query_factor(step->scale, step->cap);
  for (int64_t r = 0; r < work.rows; ++r) {
    const int64_t token = first + r / group, head = kv_head * group + r % group;
    scaled_query(step->in + token * step->in_stride + head * dim, dim, factor, work.q + r * dim);
    const int64_t seen = int64_t{step->position[token]} + 1;
    work.spans[r] = {step->window > 0 && seen > step->window ? seen - step->window : 0, seen};
  }
  return work;
}

template <class T>
static Cached<T> cached(const Attend *step, int64_t token, int64_t kv_head) {
  const int64_t head = step->sequence[token] * step->kv_heads + kv_head, begin = head * step->context * step->head_dim;
  return {static_cast<const T *>(step->keys) + begin, static_cast<const T *>(step->values) + begin};
}

static void attended(const Attend *step, int64_t token, int64_t head, const float *out, float weight) {
  float *const to = step->out + token * step->out_stride + head * step->head_dim;
  const float share = 1.0f / weight;
  for (int64_t i = 0; i < step->head_dim; i += 16) {
    const int lanes = static_cast<int>(step->head_dim - i < 16 ? step->head_dim - i : 16);
    f_store_n(to + i, f_mul(f_load_n(out + i, lanes), f_set(share)), lanes);
  }
}

static void attend(const Attend *step, int64_t first, int64_t count, int64_t kv_head, void *scratch) {
  const Work work = queries_of(step, first, count, kv_head, scratch);
  if (step->dtype == HGX_F32) attend_rows(work, cached<float>(step, first, kv_head));
  else if (step->dtype == HGX_F16) attend_rows(work, cached<Half>(step, first, kv_head));
  else attend_rows(work, cached<Brain>(step, first, kv_head));
  const int64_t group = step->heads / step->kv_heads;
  for (int64_t r = 0; r < work.rows; ++r) {
    attended(step, first + r / group, kv_head * group + r % group, row_of(work, work.out, r), work.sums[r].weight);
  }
}

// A partial: Sums of `group` rows, then their values.
HGX_INLINE float *partial_values(float *partial, int64_t group) { return partial + whole(2 * group, 16); }

static int64_t attend_partial(int64_t dim, int64_t group) {
  return 4 * (whole(2 * group, 16) + group * whole(dim, 16));
}

static void attend_section(const Attend *step, int64_t token, int64_t kv_head, int64_t section, void *scratch,
                           float *partial) {
  const Work work = queries_of(step, token, 1, kv_head, scratch);
  const Span all = work.spans[0];
  if (step->dtype == HGX_F32) section_of(work, cached<float>(step, token, kv_head), all, section);
  else if (step->dtype == HGX_F16) section_of(work, cached<Half>(step, token, kv_head), all, section);
  else section_of(work, cached<Brain>(step, token, kv_head), all, section);
  for (int64_t r = 0; r < work.rows; ++r) {
    partial[2 * r] = work.state[r].reference;
    partial[2 * r + 1] = weight_of(work.state[r]);
    float *const values = partial_values(partial, work.rows) + r * work.out_row;
    for (int64_t i = 0; i < work.out_row; i += 16) f_store(values + i, f_load(row_of(work, work.part, r) + i));
  }
}

static void attend_merge(const Attend *step, int64_t token, int64_t kv_head, int64_t sections, float *partials) {
  const int64_t group = step->heads / step->kv_heads, out_row = whole(step->head_dim, 16);
  const int64_t size = attend_partial(step->head_dim, group) / 4;
  for (int64_t r = 0; r < group; ++r) {
    float *const out = partial_values(partials, group) + r * out_row;
    Sums sums = {partials[2 * r], partials[2 * r + 1]};
    for (int64_t s = 1; s < sections; ++s) {
      float *const next = partials + s * size;
      join(false, {next[2 * r], next[2 * r + 1]}, partial_values(next, group) + r * out_row, out_row, &sums, out);
    }
    attended(step, token, kv_head * group + r, out, sums.weight);
  }
}

static int64_t attend_tokens(int64_t group) { return group < 48 ? 96 / group : 1; }

static int64_t attend_scratch(int64_t dim, int64_t group) { return work_bytes(attend_tokens(group) * group, dim); }

constexpr DecoderKernels kernels = {
  attention_items, attention_scratch, attention_item, attend_tokens, attend_scratch, attend_partial, attend,
  attend_section, attend_merge, norm, rope, cache, act, sum, cap, scale, scaled_sum, function};

}  // namespace decoder

constexpr const DecoderKernels &decoder_kernels = decoder::kernels;
