// hgx_attention: checks, then independent pieces over the threads.
#include "check.h"
#include "cpu.h"
#include "layout.h"
#include "pool.h"
#include "scratch.h"

using namespace higgsx;

namespace {

constexpr double kAlone = 100'000;  // multiply-adds below which waking others does not pay

struct Job {
  const Attention *attention;
  const DecoderKernels *kernels;
  int64_t scratch;
  Chunks *chunks;
  std::atomic<bool> failed;
};

void body(void *data, int, int) {
  auto *job = static_cast<Job *>(data);
  void *scratch = thread_scratch(job->scratch);
  if (scratch == nullptr) return job->failed.store(true);
  for (int64_t begin, end; job->chunks->take(&begin, &end);) {
    for (int64_t item = begin; item < end; ++item) job->kernels->attention_item(job->attention, item, scratch);
  }
}

// A tensor [batch, heads, rows, head_dim] with such strides. Strides may be 0 or negative: views are.
bool strides_fit(const hgx_strides *strides, int64_t batch, int64_t heads, int64_t rows, int64_t head_dim) {
  if (strides == nullptr) return false;
  using Wide = __int128;
  const auto reach = [](int64_t count, int64_t stride) {
    const Wide step = stride < 0 ? -static_cast<Wide>(stride) : static_cast<Wide>(stride);
    return step * (count - 1);
  };
  const Wide last = reach(batch, strides->batch) + reach(heads, strides->head) + reach(rows, strides->row) + head_dim;
  return last < Wide{1} << 60;
}

bool is_size(int64_t size) { return size >= 1 && size < int64_t{1} << 40; }

int check(const Attention &a, const hgx_strides *const (&strides)[4]) {
  if (a.batch < 0 || a.queries < 0 || a.batch >= int64_t{1} << 40 || a.queries >= int64_t{1} << 40 ||
      !is_size(a.heads) || !is_size(a.kv_heads) || !is_size(a.keys) || !is_size(a.head_dim) || a.head_dim > 1024 ||
      a.heads % a.kv_heads != 0 || !is_dtype(a.dtype) || (a.causal != 0 && a.causal != 1) ||
      !is_mode(a.mode)) {
    return HGX_BAD_ARGUMENT;
  }
  if (a.batch == 0 || a.queries == 0) return HGX_OK;
  if (a.q == nullptr || a.k == nullptr || a.v == nullptr || a.out == nullptr) return HGX_BAD_ARGUMENT;
  if (a.causal == 1 && a.keys < a.queries) return HGX_BAD_ARGUMENT;  // a query that sees nothing
  const bool fit = strides_fit(strides[0], a.batch, a.heads, a.queries, a.head_dim) &&
                   strides_fit(strides[1], a.batch, a.kv_heads, a.keys, a.head_dim) &&
                   strides_fit(strides[2], a.batch, a.kv_heads, a.keys, a.head_dim) &&
                   strides_fit(strides[3], a.batch, a.heads, a.queries, a.head_dim);
  return fit ? HGX_OK : HGX_BAD_ARGUMENT;
}

}  // namespace

extern "C" int hgx_attention(int64_t batch, int64_t heads, int64_t kv_heads, int64_t queries, int64_t keys,
                             int64_t head_dim, const void *q, const void *k, const void *v, void *out, int dtype,
                             const hgx_strides *of_q, const hgx_strides *of_k, const hgx_strides *of_v,
                             const hgx_strides *of_out, float scale, int causal, int mode) {
  Attention attention{batch, heads, kv_heads, queries, keys, head_dim, q, k, v, out, dtype,
                      {}, {}, {}, {}, scale, causal, mode};
  const int status = check(attention, {of_q, of_k, of_v, of_out});
  if (status != HGX_OK) return status;
  if (batch == 0 || queries == 0) return HGX_OK;
  attention.of_q = *of_q;
  attention.of_k = *of_k;
  attention.of_v = *of_v;
  attention.of_out = *of_out;
  const DecoderKernels *kernels = current_tier()->decoder;
  const int64_t items = kernels->attention_items(&attention);
  Chunks chunks(items, 1);
  Job job{&attention, kernels, kernels->attention_scratch(&attention), &chunks, {false}};
  const double work = static_cast<double>(batch * heads) * static_cast<double>(queries) *
                      static_cast<double>(keys) * static_cast<double>(head_dim);
  const int64_t threads = work < kAlone ? 1 : items;
  pool_run(body, &job, threads < kMaxThreads ? static_cast<int>(threads) : kMaxThreads);
  return job.failed.load() ? HGX_NO_MEMORY : HGX_OK;
}
