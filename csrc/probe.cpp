// What this machine can do, for benchmarks: how fast memory is read, how fast bytes are multiplied.
#include "cpu.h"
#include "higgsx.h"
#include "pool.h"

using namespace higgsx;

namespace {

struct Reading {
  const uint8_t *data;
  const RowKernels *kernels;
  Chunks *chunks;
  std::atomic<uint64_t> sum;
};

void read_body(void *data, int, int) {
  auto *job = static_cast<Reading *>(data);
  uint64_t sum = 0;
  for (int64_t begin, end; job->chunks->take(&begin, &end);) sum += job->kernels->read(job->data + begin, end - begin);
  job->sum.fetch_add(sum, std::memory_order_relaxed);
}

struct Multiplying {
  int64_t rounds;
  const RowKernels *kernels;
  std::atomic<int64_t> products;
  std::atomic<int32_t> result;
};

void multiply_body(void *data, int, int) {
  auto *job = static_cast<Multiplying *>(data);
  int32_t result = 0;
  job->products.fetch_add(job->kernels->multiply(job->rounds, &result) * job->rounds, std::memory_order_relaxed);
  job->result.fetch_add(result, std::memory_order_relaxed);
}

}  // namespace

extern "C" {

uint64_t hgx_probe_read(const void *data, int64_t bytes) {
  if (data == nullptr || bytes <= 0) return 0;
  Chunks chunks(bytes, int64_t{1} << 18);
  Reading job{static_cast<const uint8_t *>(data), current_tier()->rows, &chunks, {0}};
  pool_run(read_body, &job, pool_threads());
  return job.sum.load();
}

int64_t hgx_probe_multiply(int64_t rounds) {
  if (rounds <= 0 || rounds > int64_t{1} << 40) return 0;
  Multiplying job{rounds, current_tier()->rows, {0}, {0}};
  pool_run_own(multiply_body, &job, pool_threads());
  return job.products.load();
}

}
