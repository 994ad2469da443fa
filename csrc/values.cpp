// hgx_decode and hgx_lookup: checks, then 16 rows at a time over the threads.
#include "check.h"
#include "cpu.h"
#include "layout.h"
#include "pool.h"
#include "scratch.h"

using namespace higgsx;

namespace {

constexpr int64_t kAlone = 1 << 15;   // weights below which waking others does not pay
constexpr int64_t kChunk = 1 << 16;   // weights taken at a time, at least

struct Job {
  const hgx_matrix *matrix;
  const RowKernels *kernels;
  const int64_t *ids;  // NULL: rows first, first + 1 ..
  int64_t first, count;
  RowsOut to;
  Chunks *chunks;       // of 16 rows
  std::atomic<bool> failed;
};

void decode_rows(const Job *job, int64_t begin, int64_t end, void *scratch) {
  const int64_t bytes = dtype_bytes(job->to.dtype);
  for (int64_t row = begin; row < end; row += kPanel) {
    const int count = static_cast<int>(end - row < kPanel ? end - row : kPanel);
    int64_t picked[kPanel];
    for (int i = 0; i < count; ++i) picked[i] = job->ids == nullptr ? job->first + row + i : job->ids[row + i];
    RowsOut to = job->to;
    to.out = static_cast<uint8_t *>(to.out) + row * to.stride * bytes;
    job->kernels->decode(job->matrix, picked, count, &to, scratch);
  }
}

void body(void *data, int, int) {
  auto *job = static_cast<Job *>(data);
  void *scratch = thread_scratch(job->kernels->decode_scratch);
  if (scratch == nullptr) return job->failed.store(true);
  for (int64_t begin, end; job->chunks->take(&begin, &end);) decode_rows(job, begin, end, scratch);
}

// Chunks begin where panels do, so that no panel is read by two threads.
int run(const hgx_matrix *matrix, const int64_t *ids, int64_t first, int64_t count, const RowsOut &to) {
  int64_t rows = kChunk / matrix->inputs / kPanel * kPanel;
  if (rows < kPanel) rows = kPanel;
  const bool whole = ids == nullptr && first % kPanel != 0 && count > kPanel;
  if (whole) {
    const int64_t head = kPanel - first % kPanel;
    const int status = run(matrix, nullptr, first, head, to);
    if (status != HGX_OK) return status;
    RowsOut rest = to;
    rest.out = static_cast<uint8_t *>(to.out) + head * to.stride * dtype_bytes(to.dtype);
    return run(matrix, nullptr, first + head, count - head, rest);
  }
  Chunks chunks(count, rows);
  Job job{matrix, current_tier()->rows, ids, first, count, to, &chunks, {false}};
  const bool alone = count <= kPanel || count < kAlone / matrix->inputs;
  const int64_t threads = alone ? 1 : chunks.chunks();
  pool_run(body, &job, threads < kMaxThreads ? static_cast<int>(threads) : kMaxThreads);
  return job.failed.load() ? HGX_NO_MEMORY : HGX_OK;
}

int check(const hgx_matrix *matrix, int64_t count, const void *out, int dtype, int64_t stride) {
  const int status = hgx_check(matrix);
  if (status != HGX_OK) return status;
  if (count < 0 || !is_dtype(dtype) || !fits(count, matrix->inputs, stride, dtype_bytes(dtype))) {
    return HGX_BAD_ARGUMENT;
  }
  return count > 0 && out == nullptr ? HGX_BAD_ARGUMENT : HGX_OK;
}

}  // namespace

extern "C" {

int hgx_decode(const hgx_matrix *matrix, int64_t first, int64_t count, void *out, int out_dtype,
               int64_t out_stride) {
  const int status = check(matrix, count, out, out_dtype, out_stride);
  if (status != HGX_OK) return status;
  if (first < 0 || count > matrix->outputs || first > matrix->outputs - count) return HGX_BAD_INDEX;
  if (count == 0) return HGX_OK;
  return run(matrix, nullptr, first, count, RowsOut{out, out_stride, out_dtype});
}

int hgx_lookup(const hgx_matrix *matrix, const int64_t *ids, int64_t count, void *out, int out_dtype,
               int64_t out_stride) {
  const int status = check(matrix, count, out, out_dtype, out_stride);
  if (status != HGX_OK) return status;
  if (count == 0) return HGX_OK;
  if (ids == nullptr) return HGX_BAD_ARGUMENT;
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] < 0 || ids[i] >= matrix->outputs) return HGX_BAD_INDEX;
  }
  return run(matrix, ids, 0, count, RowsOut{out, out_stride, out_dtype});
}

}
