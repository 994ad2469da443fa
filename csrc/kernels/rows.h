/* The table of rows_table.h. */
#pragma once

#include "dense.h"
#include "product.h"

HGX_FUNCTION void decode_rows(const hgx_matrix *m, const int64_t *rows, int count, const RowsOut *to, void *scratch) {
  if (m->kind == HGX_DENSE) return decode_dense(m, rows, count, to);
  return decode_panels(m, rows, count, to, scratch);
}

/* The limit that products are measured against, so it asks memory ahead as they do. */
HGX_FUNCTION uint64_t probe_read(const void *data, int64_t bytes) {
  const uint8_t *p = static_cast<const uint8_t *>(data);
  I sums[8];
  for (int i = 0; i < 8; ++i) sums[i] = i_zero();
  for (; bytes >= 512; bytes -= 512, p += 512) {
    HGX_UNROLL
    for (int i = 0; i < 8; ++i) prefetch(p + 64 * i + AHEAD);
    HGX_UNROLL
    for (int i = 0; i < 8; ++i) sums[i] = i_add(sums[i], i_load(reinterpret_cast<const int32_t *>(p + 64 * i)));
  }
  for (int i = 1; i < 8; ++i) sums[0] = i_add(sums[0], sums[i]);
  uint64_t sum = static_cast<uint32_t>(i_sum(sums[0]));
  for (; bytes > 0; --bytes) sum += *p++;
  return sum;
}

HGX_FUNCTION int64_t probe_multiply(int64_t rounds, int32_t *result) {
  constexpr int CHAINS = TILE_PANELS == 2 ? 16 : 6;
  uint8_t line[64];
  for (int i = 0; i < 64; ++i) line[i] = static_cast<uint8_t>(i);
  B w = b_load(line);
  I sums[CHAINS];
  for (int i = 0; i < CHAINS; ++i) sums[i] = i_set(i);
  for (int64_t round = 0; round < rounds; ++round) {
    HGX_UNROLL
    for (int i = 0; i < CHAINS; ++i) {
      b_keep(w); /* so that no product is moved out of the loop */
      sums[i] = i_dot_small(sums[i], w, 0x01020304);
    }
  }
  for (int i = 1; i < CHAINS; ++i) sums[0] = i_xor(sums[0], sums[i]);
  *result = i_sum(sums[0]);
  return CHAINS * 64;
}

static const RowKernels row_kernels = {DECODE_LINES * 64 + DECODE_UNIT_BYTES, decode_rows, dense_multiply, probe_read,
                                       probe_multiply};
