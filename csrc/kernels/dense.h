/* Dense matrices: products in binary32 in the order of higgsx.h, and values of rows. */
#pragma once

#include "decode.h"

/* Rows and tokens of a register tile; rows of one token. */
constexpr int DENSE_ROWS = TILE_PANELS == 2 ? 4 : 2, DENSE_TOKENS = TILE_PANELS == 2 ? 4 : 2;
constexpr int DENSE_ALONE = TILE_PANELS == 2 ? 8 : 4;
/* Bytes of weights that stay in the cache while all tokens pass. */
constexpr int64_t DENSE_KEPT = 1 << 18;
/* Transposed: outputs whose sums are kept in the cache, inputs that are added to them at a time. */
template <int DTYPE>
constexpr int64_t DENSE_COLUMNS = DTYPE == HGX_F32 ? 512 : 1024;
constexpr int DENSE_DEPTH = 8;

template <int DTYPE>
HGX_INLINE F dense_load(const uint8_t *p) {
  if constexpr (DTYPE == HGX_F32) return f_load(reinterpret_cast<const float *>(p));
  if constexpr (DTYPE == HGX_F16) return f_from_f16(reinterpret_cast<const uint16_t *>(p));
  return f_from_bf16(reinterpret_cast<const uint16_t *>(p));
}

/* The first n of 16, the rest 0. */
template <int DTYPE>
HGX_INLINE F dense_load_n(const uint8_t *p, int n) {
  alignas(64) uint8_t line[64];
  memset(line, 0, 64);
  memcpy(line, p, static_cast<size_t>(n) * (DTYPE == HGX_F32 ? 4 : 2));
  return dense_load<DTYPE>(line);
}

HGX_INLINE F dense_numbers(int dtype, const uint8_t *p, int n) {
  if (dtype == HGX_F32) return n == 16 ? dense_load<HGX_F32>(p) : dense_load_n<HGX_F32>(p, n);
  if (dtype == HGX_F16) return n == 16 ? dense_load<HGX_F16>(p) : dense_load_n<HGX_F16>(p, n);
  return n == 16 ? dense_load<HGX_BF16>(p) : dense_load_n<HGX_BF16>(p, n);
}

/* Writes the sums of n outputs of a token, from `first` on. */
HGX_INLINE void dense_put(const DenseOut *to, int64_t token, int64_t first, F sum, int n) {
  if (to->bias != nullptr) sum = f_add(sum, f_load_n(to->bias + first, n));
  const RowsOut out = {to->y, to->stride, to->dtype};
  if (to->flags & HGX_ADD) {
    const uint8_t *const y = static_cast<const uint8_t *>(to->y);
    sum = f_add(dense_numbers(to->dtype, y + (token * to->stride + first) * dtype_bytes(to->dtype), n), sum);
  }
  put_numbers(&out, token, first, sum, n);
}

/* Rows w, w + row_bytes .. times tokens: sums[row][token]. */
template <int DTYPE, int ROWS, int TOKENS>
HGX_INLINE void dense_tile(const uint8_t *w, int64_t row_size, const float *x, int64_t x_stride, int64_t inputs,
                           float (&sums)[TOKENS][16]) {
  constexpr int64_t SIZE = DTYPE == HGX_F32 ? 4 : 2;
  F acc[ROWS][TOKENS];
  HGX_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    HGX_UNROLL
    for (int t = 0; t < TOKENS; ++t) acc[r][t] = f_zero();
  }
  int64_t k = 0;
  for (; k + 16 <= inputs; k += 16) {
    F row[ROWS];
    HGX_UNROLL
    for (int r = 0; r < ROWS; ++r) row[r] = dense_load<DTYPE>(w + r * row_size + k * SIZE);
    HGX_UNROLL
    for (int t = 0; t < TOKENS; ++t) {
      const F value = f_load(x + t * x_stride + k);
      HGX_UNROLL
      for (int r = 0; r < ROWS; ++r) acc[r][t] = f_fma(row[r], value, acc[r][t]);
    }
  }
  if (k < inputs) {
    const int n = static_cast<int>(inputs - k);
    for (int r = 0; r < ROWS; ++r) {
      const F row = dense_load_n<DTYPE>(w + r * row_size + k * SIZE, n);
      for (int t = 0; t < TOKENS; ++t) acc[r][t] = f_fma(row, f_load_n(x + t * x_stride + k, n), acc[r][t]);
    }
  }
  HGX_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    HGX_UNROLL
    for (int t = 0; t < TOKENS; ++t) sums[t][r] = f_sum(acc[r][t]);
  }
}

template <int DTYPE, int ROWS, int TOKENS>
HGX_FUNCTION void dense_rows(const uint8_t *w, int64_t row_size, const float *x, int64_t x_stride, int64_t inputs,
                             int64_t token, int64_t row, const DenseOut *to) {
  float sums[TOKENS][16] = {};
  dense_tile<DTYPE, ROWS, TOKENS>(w + row * row_size, row_size, x + token * x_stride, x_stride, inputs, sums);
  for (int t = 0; t < TOKENS; ++t) dense_put(to, token + t, row, f_load(sums[t]), ROWS);
}

/* Rows first .. end - 1, ROWS at a time, for tokens t .. t + TOKENS - 1. */
template <int DTYPE, int ROWS, int TOKENS>
HGX_FUNCTION void dense_strip(const hgx_matrix *m, int64_t first, int64_t end, int64_t t, const float *x,
                              int64_t x_stride, const DenseOut *to) {
  const int64_t size = m->inputs * (DTYPE == HGX_F32 ? 4 : 2);
  int64_t r = first;
  for (; r + ROWS <= end; r += ROWS) dense_rows<DTYPE, ROWS, TOKENS>(m->data, size, x, x_stride, m->inputs, t, r, to);
  for (; r < end; ++r) dense_rows<DTYPE, 1, TOKENS>(m->data, size, x, x_stride, m->inputs, t, r, to);
}

template <int DTYPE>
HGX_FUNCTION void dense_plain(const hgx_matrix *m, int64_t first, int64_t count, int64_t tokens, const float *x,
                              int64_t x_stride, const DenseOut *to) {
  const int64_t kept = DENSE_KEPT / (m->inputs * (DTYPE == HGX_F32 ? 4 : 2)) / DENSE_ALONE * DENSE_ALONE;
  const int64_t step = kept < DENSE_ALONE ? DENSE_ALONE : kept;
  for (int64_t r = first; r < first + count; r += step) {
    const int64_t end = first + count - r < step ? first + count : r + step;
    int64_t t = 0;
    for (; t + DENSE_TOKENS <= tokens; t += DENSE_TOKENS) {
      dense_strip<DTYPE, DENSE_ROWS, DENSE_TOKENS>(m, r, end, t, x, x_stride, to);
    }
    for (; t < tokens; ++t) dense_strip<DTYPE, DENSE_ALONE, 1>(m, r, end, t, x, x_stride, to);
  }
}

/* `columns` outputs of [inputs, outputs] for some tokens: sums stay in the cache, a few inputs are added at a time. */
template <int DTYPE, int TOKENS>
HGX_FUNCTION void dense_columns(const hgx_matrix *m, int64_t first, int64_t columns, const float *x, int64_t x_stride,
                                float (&sums)[TOKENS][DENSE_COLUMNS<DTYPE>]) {
  constexpr int64_t SIZE = DTYPE == HGX_F32 ? 4 : 2;
  const int64_t step = m->outputs * SIZE;
  memset(sums, 0, sizeof sums);
  for (int64_t k = 0; k < m->inputs; k += DENSE_DEPTH) {
    const uint8_t *const w = m->data + k * step + first * SIZE;
    const int64_t depth = m->inputs - k < DENSE_DEPTH ? m->inputs - k : DENSE_DEPTH;
    int64_t c = 0;
    for (; depth == DENSE_DEPTH && c + 16 <= columns; c += 16) {
      F acc[TOKENS];
      HGX_UNROLL
      for (int t = 0; t < TOKENS; ++t) acc[t] = f_load(sums[t] + c);
      HGX_UNROLL
      for (int d = 0; d < DENSE_DEPTH; ++d) {
        const F row = dense_load<DTYPE>(w + d * step + c * SIZE);
        HGX_UNROLL
        for (int t = 0; t < TOKENS; ++t) acc[t] = f_fma(row, f_set(x[t * x_stride + k + d]), acc[t]);
      }
      HGX_UNROLL
      for (int t = 0; t < TOKENS; ++t) f_store(sums[t] + c, acc[t]);
    }
    for (; c < columns; c += 16) {
      const int n = static_cast<int>(columns - c < 16 ? columns - c : 16);
      for (int64_t d = 0; d < depth; ++d) {
        const F row = dense_load_n<DTYPE>(w + d * step + c * SIZE, n);
        for (int t = 0; t < TOKENS; ++t) {
          f_store(sums[t] + c, f_fma(row, f_set(x[t * x_stride + k + d]), f_load(sums[t] + c)));
        }
      }
    }
  }
}

template <int DTYPE, int TOKENS>
HGX_FUNCTION void dense_turned_tokens(const hgx_matrix *m, int64_t first, int64_t count, int64_t token, const float *x,
                                      int64_t x_stride, const DenseOut *to) {
  alignas(64) float sums[TOKENS][DENSE_COLUMNS<DTYPE>];
  for (int64_t o = 0; o < count; o += DENSE_COLUMNS<DTYPE>) {
    const int64_t columns = count - o < DENSE_COLUMNS<DTYPE> ? count - o : DENSE_COLUMNS<DTYPE>;
    dense_columns<DTYPE, TOKENS>(m, first + o, columns, x + token * x_stride, x_stride, sums);
    for (int t = 0; t < TOKENS; ++t) {
      for (int64_t c = 0; c < columns; c += 16) {
        const int n = static_cast<int>(columns - c < 16 ? columns - c : 16);
        dense_put(to, token + t, first + o + c, f_load(sums[t] + c), n);
      }
    }
  }
}

template <int DTYPE>
HGX_FUNCTION void dense_turned(const hgx_matrix *m, int64_t first, int64_t count, int64_t tokens, const float *x,
                               int64_t x_stride, const DenseOut *to) {
  int64_t t = 0;
  for (; t + 4 <= tokens; t += 4) dense_turned_tokens<DTYPE, 4>(m, first, count, t, x, x_stride, to);
  for (; t < tokens; ++t) dense_turned_tokens<DTYPE, 1>(m, first, count, t, x, x_stride, to);
}

HGX_FUNCTION void dense_multiply(const hgx_matrix *m, int64_t first, int64_t count, int64_t tokens, const float *x,
                                 int64_t x_stride, const DenseOut *to) {
  if (m->dtype == HGX_F32) {
    return m->transposed ? dense_turned<HGX_F32>(m, first, count, tokens, x, x_stride, to)
                         : dense_plain<HGX_F32>(m, first, count, tokens, x, x_stride, to);
  }
  if (m->dtype == HGX_F16) {
    return m->transposed ? dense_turned<HGX_F16>(m, first, count, tokens, x, x_stride, to)
                         : dense_plain<HGX_F16>(m, first, count, tokens, x, x_stride, to);
  }
  return m->transposed ? dense_turned<HGX_BF16>(m, first, count, tokens, x, x_stride, to)
                       : dense_plain<HGX_BF16>(m, first, count, tokens, x, x_stride, to);
}

/* Values of rows ------------------------------------------------------------------------------------- */

/* Number k of row `row`, 2 or 4 bytes. */
HGX_INLINE const uint8_t *dense_place(const hgx_matrix *m, int64_t row, int64_t k) {
  return m->data + (m->transposed ? k * m->outputs + row : row * m->inputs + k) * dtype_bytes(m->dtype);
}

HGX_FUNCTION void decode_dense(const hgx_matrix *m, const int64_t *rows, int count, const RowsOut *to) {
  const int64_t size = dtype_bytes(m->dtype), out_size = dtype_bytes(to->dtype);
  uint8_t *const out = static_cast<uint8_t *>(to->out);
  const int64_t run = m->transposed ? 1 : m->inputs; /* numbers of a row that lie together */
  if (m->dtype == to->dtype) { /* bit for bit, whatever it is */
    for (int64_t k = 0; k < m->inputs; k += run) {
      for (int i = 0; i < count; ++i) {
        memcpy(out + (i * to->stride + k) * out_size, dense_place(m, rows[i], k), static_cast<size_t>(run * size));
      }
    }
    return;
  }
  for (int64_t k = 0; k < m->inputs; k += 16) {
    const int n = static_cast<int>(m->inputs - k < 16 ? m->inputs - k : 16);
    for (int i = 0; i < count; ++i) {
      uint8_t line[64];
      if (m->transposed) {
        for (int j = 0; j < n; ++j) memcpy(line + j * size, dense_place(m, rows[i], k + j), static_cast<size_t>(size));
      } else {
        memcpy(line, dense_place(m, rows[i], k), static_cast<size_t>(n * size));
      }
      put_numbers(to, i, k, dense_numbers(m->dtype, line, n), n);
    }
  }
}
