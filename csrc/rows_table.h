// What a tier offers for values of rows and for dense matrices. Every function computes one thread's share.
#pragma once

#include <stdint.h>

#include "higgsx.h"

namespace higgsx {

// Where decoded rows go: row i of them at out + i * stride elements of dtype.
struct RowsOut {
  void *out;
  int64_t stride;
  int dtype;
};

// y of a dense product: token t at y + t * stride. bias NULL: none. flags: HGX_ADD.
struct DenseOut {
  const float *bias;
  void *y;
  int64_t stride;
  int dtype, flags;
};

struct RowKernels {
  // Scratch of decode, in bytes; to be aligned to 64.
  int64_t decode_scratch;
  // Normative values of 1 to 16 rows of a matrix in panels, or of a dense one, the transform undone.
  void (*decode)(const hgx_matrix *matrix, const int64_t *rows, int count, const RowsOut *to, void *scratch);

  // Outputs first .. first + count - 1 of a dense product. x: [tokens, inputs], x_stride apart.
  void (*dense)(const hgx_matrix *matrix, int64_t first, int64_t count, int64_t tokens, const float *x,
                int64_t x_stride, const DenseOut *to);

  // For benchmarks: a sum over all bytes; `rounds` rounds of the fastest 8-bit product, operands in registers.
  // multiply returns the multiply-adds of one round, so that the caller knows what was done.
  uint64_t (*read)(const void *data, int64_t bytes);
  int64_t (*multiply)(int64_t rounds, int32_t *result);
};

}  // namespace higgsx
