/* Normative values of rows of panels (docs/format.md 4.5, 4.6). Lanes are rows, so that the butterflies of the
 * transform need no shuffles; blocks of 16 inputs are transposed when they are written. */
#pragma once

#include "codes.h"
#include "transpose.h"

constexpr int64_t DECODE_PIECE = 1024;               /* inputs decoded at a time: the widest butterfly */
constexpr int64_t DECODE_LINES = DECODE_PIECE + 64;  /* and the rest of the groups of 32 that it cuts */
constexpr int64_t DECODE_UNIT_BYTES = 128 * 2 * 8 + 4 * 16 * 4;

/* 16 rows as if they were one panel. */
struct Decoder {
  const hgx_matrix *matrix;
  void (*group)(const uint8_t *codes, int64_t padded, int64_t group, const Table *table, F offset, F scale, F low,
                bool mix, float *to);
  Table table;
  bool one_panel;          /* all rows are of the panel that begins at from[0] */
  const uint8_t *from[16]; /* the panel of each row */
  int row[16];             /* its number there */
  int lane[16];            /* where row i is found after decoding */
  float row_scale[16], row_zero[16];
  int64_t unit;            /* what `bytes` are of, -1: nothing yet */
  int64_t unit_size;       /* of a full one */
  const uint8_t *bytes;
  uint8_t *gathered;
  float *values;           /* [inputs of a piece][16] */
};

/* Codes of group g (32 inputs) of a unit, looked up if there is a table, a line for each of its 8 quads. */
template <int BITS, bool TABLE>
HGX_INLINE void decode_quads(const uint8_t *codes, int64_t padded, int64_t g, const Table &table, B (&quad)[8]) {
  using C = Codes<BITS, TABLE>;
  const uint8_t *const high = codes + g * C::HIGH * 64;
  if constexpr (BITS == 8) {
    HGX_UNROLL for (int q = 0; q < 8; ++q) quad[q] = b_load(high + 64 * q);
  } else {
    c_eight<C>(table, high, codes + padded * 2 * C::HIGH + g * C::LOW * 64, quad);
  }
}

/* Stages 1, 2, 4 .. N / 2 of the butterflies over v. */
template <int N>
HGX_INLINE void mix_values(F (&v)[N]) {
  HGX_UNROLL
  for (int s = 1; s < N; s *= 2) {
    HGX_UNROLL
    for (int n = 0; n < N; ++n) {
      if (n & s) continue;
      const F a = v[n], b = v[n + s];
      v[n] = f_add(a, b);
      v[n + s] = f_sub(a, b);
    }
  }
}

template <bool TABLE, bool MIN, int J>
HGX_INLINE F decode_value(B codes, F offset, F scale, F low) {
  const F level = f_from_i(TABLE ? b_signed<J>(codes) : b_unsigned<J>(codes));
  const F value = f_mul(TABLE || MIN ? level : f_sub(level, offset), scale);
  return MIN ? f_add(value, low) : value;
}

/* (level - offset) * scale (+ low) of 32 inputs; mix: the first three stages of the butterflies on top. */
template <int BITS, bool TABLE, bool MIN>
HGX_FUNCTION void decode_group(const uint8_t *codes, int64_t padded, int64_t g, const Table *table, F offset, F scale,
                               F low, bool mix, float *to) {
  B quad[8];
  decode_quads<BITS, TABLE>(codes, padded, g, *table, quad);
  HGX_UNROLL
  for (int q = 0; q < 8; q += 2) {
    F v[8];
    HGX_UNROLL
    for (int h = 0; h < 2; ++h) {
      v[4 * h] = decode_value<TABLE, MIN, 0>(quad[q + h], offset, scale, low);
      v[4 * h + 1] = decode_value<TABLE, MIN, 1>(quad[q + h], offset, scale, low);
      v[4 * h + 2] = decode_value<TABLE, MIN, 2>(quad[q + h], offset, scale, low);
      v[4 * h + 3] = decode_value<TABLE, MIN, 3>(quad[q + h], offset, scale, low);
    }
    if (mix) mix_values(v);
    HGX_UNROLL
    for (int n = 0; n < 8; ++n) f_store(to + (4 * q + n) * 16, v[n]);
  }
}

template <bool MIN>
HGX_FUNCTION decltype(Decoder::group) decode_group_of(const hgx_matrix *m) {
  switch (m->bits) {
    case 2: return m->table ? decode_group<2, true, MIN> : decode_group<2, false, MIN>;
    case 3: return m->table ? decode_group<3, true, MIN> : decode_group<3, false, MIN>;
    case 4: return m->table ? decode_group<4, true, MIN> : decode_group<4, false, MIN>;
    case 5: return m->table ? decode_group<5, true, MIN> : decode_group<5, false, MIN>;
    case 6: return decode_group<6, false, MIN>;
    default: return decode_group<8, false, MIN>;
  }
}

/* Element i of an array of u8 or binary16. */
HGX_INLINE float small_number(const uint8_t *p, bool byte, int i) {
  if (byte) return static_cast<float>(p[i]);
  uint16_t half[16] = {};
  memcpy(half, p + 2 * i, 2);
  float all[16];
  f_store(all, f_from_f16(half));
  return all[0];
}

HGX_INLINE F small_numbers(const uint8_t *p, bool byte) {
  if (byte) return f_from_u8(p);
  uint16_t half[16];
  memcpy(half, p, 32);
  return f_from_f16(half);
}

HGX_INLINE float decode_power(int exponent) {
  const uint32_t bits = static_cast<uint32_t>(exponent + 127) << 23;
  float power;
  memcpy(&power, &bits, 4);
  return power;
}

HGX_FUNCTION void decoder_open(Decoder *d, const hgx_matrix *m, const int64_t *rows, int count, void *scratch) {
  const int64_t of_panel = panel_bytes(m), of_row = row_bytes(m);
  d->matrix = m;
  d->group = m->zero == HGX_ZERO_MIN ? decode_group_of<true>(m) : decode_group_of<false>(m);
  int8_t levels[32];
  for (int i = 0; i < 32; ++i) levels[i] = static_cast<int8_t>(i);
  if (m->bits <= 5) d->table = t_make(m->table ? m->entries : levels, m->bits, 0);
  d->values = static_cast<float *>(scratch);
  d->gathered = static_cast<uint8_t *>(scratch) + DECODE_LINES * 64;
  d->unit = -1;
  d->unit_size = unit_bytes(m, 128);
  d->one_panel = true;
  for (int i = 0; i < count; ++i) d->one_panel = d->one_panel && rows[i] / 16 == rows[0] / 16;
  const float power = decode_power(m->exponent);
  for (int l = 0; l < 16; ++l) {
    const int64_t row = d->one_panel ? rows[0] / 16 * 16 + l : rows[l < count ? l : 0];
    d->from[l] = m->data + row / 16 * of_panel;
    d->row[l] = static_cast<int>(row % 16);
    d->lane[l] = d->one_panel ? static_cast<int>(rows[l < count ? l : 0] % 16) : l;
    d->row_scale[l] = power;
    d->row_zero[l] = 0.0f;
    if (of_row == 0) continue;
    const uint8_t *const belongs = m->rows + row / 16 * of_row;
    d->row_scale[l] = small_number(belongs, false, d->row[l]) * power;
    if (m->block == 0 && m->zero != HGX_ZERO_NONE) {
      d->row_zero[l] = small_number(belongs + 32, m->zero == HGX_ZERO_U8, d->row[l]);
    }
  }
}

/* One element of `size` bytes of each row. */
HGX_INLINE void gather(const Decoder *d, int64_t offset, int size, uint8_t *to) {
  for (int l = 0; l < 16; ++l) memcpy(to + l * size, d->from[l] + offset + d->row[l] * size, static_cast<size_t>(size));
}

/* Brings unit u into d->bytes. */
HGX_FUNCTION void decoder_unit(Decoder *d, int64_t u, int64_t codes, int64_t blocks) {
  if (u == d->unit) return;
  d->unit = u;
  const int64_t begin = u * d->unit_size;
  d->bytes = d->from[0] + begin;
  if (d->one_panel) return;
  d->bytes = d->gathered;
  for (int64_t line = 0; line < codes; line += 64) {
    for (int l = 0; l < 16; ++l) memcpy(d->gathered + line + 4 * l, d->from[l] + begin + line + 4 * d->row[l], 4);
  }
  const int sizes[2] = {static_cast<int>(scale_bytes(d->matrix->scale)), static_cast<int>(zero_bytes(d->matrix->zero))};
  int64_t place = codes;
  for (int kind = 0; kind < 2; ++kind) {
    if (sizes[kind] == 0) continue;
    for (int64_t b = 0; b < blocks; ++b, place += 16 * sizes[kind]) {
      gather(d, begin + place, sizes[kind], d->gathered + place);
    }
  }
}

/* Values of inputs begin .. end - 1 before the transform is undone, for all lanes; returns where they are. mix: see
 * decode_group; begin is then a multiple of 8. */
HGX_FUNCTION float *decoder_values(Decoder *d, int64_t begin, int64_t end, bool mix) {
  const hgx_matrix *const m = d->matrix;
  const int64_t first = begin / 32 * 32;
  const F row_scale = f_load(d->row_scale);
  for (int64_t k = first; k < end; k += 32) {
    const int64_t u = k / 128, left = m->inputs - u * 128, width = left < 128 ? left : 128;
    const int64_t codes = code_bytes(m, width);
    const int64_t blocks = m->block == 0 ? 0 : (width + m->block - 1) / m->block;
    decoder_unit(d, u, codes, blocks);
    F scale = row_scale, zero = f_load(d->row_zero);
    if (blocks > 0) {
      const bool byte = m->scale == HGX_SCALE_U8;
      const int64_t b = k % 128 / m->block, of_scale = scale_bytes(m->scale), of_zero = zero_bytes(m->zero);
      scale = f_mul(small_numbers(d->bytes + codes + b * 16 * of_scale, byte), row_scale);
      if (of_zero > 0) {
        const uint8_t *const zeros = d->bytes + codes + blocks * 16 * of_scale;
        zero = small_numbers(zeros + b * 16 * of_zero, m->zero == HGX_ZERO_U8);
      }
    }
    const F offset = m->zero == HGX_ZERO_NONE ? f_set(static_cast<float>(m->centre) * 0.5f) : zero;
    d->group(d->bytes, (width + 31) / 32 * 32, k % 128 / 32, &d->table, offset, scale, zero, mix,
             d->values + (k - first) * 16);
  }
  return d->values + (begin - first) * 16;
}

/* log2(N) stages of the butterflies in one pass: strides stride, 2 stride .. */
template <int N>
HGX_INLINE void mix_strided(float *values, int64_t width, int64_t stride) {
  for (int64_t block = 0; block < width; block += stride * N) {
    for (int64_t i = block; i < block + stride; ++i) {
      F v[N];
      HGX_UNROLL
      for (int n = 0; n < N; ++n) v[n] = f_load(values + (i + n * stride) * 16);
      mix_values(v);
      HGX_UNROLL
      for (int n = 0; n < N; ++n) f_store(values + (i + n * stride) * 16, v[n]);
    }
  }
}

/* The stages from `stride` on, as many at a time as registers hold. */
HGX_FUNCTION void decode_butterflies(float *values, int64_t width, int64_t stride) {
  constexpr int MOST = TILE_PANELS == 2 ? 16 : 4;
  for (; stride * MOST <= width; stride *= MOST) mix_strided<MOST>(values, width, stride);
  if (MOST > 8 && stride * 8 <= width) {
    mix_strided<8>(values, width, stride);
    stride *= 8;
  }
  if (MOST > 4 && stride * 4 <= width) {
    mix_strided<4>(values, width, stride);
    stride *= 4;
  }
  if (stride * 2 <= width) mix_strided<2>(values, width, stride);
}

HGX_INLINE void put_numbers(const RowsOut *to, int64_t row, int64_t column, F x, int n) {
  const int64_t place = row * to->stride + column;
  if (to->dtype == HGX_F32) {
    float *const p = static_cast<float *>(to->out) + place;
    if (n == 16) return f_store(p, x);
    return f_store_n(p, x, n);
  }
  uint16_t *const p = static_cast<uint16_t *>(to->out) + place;
  if (to->dtype == HGX_F16) return n == 16 ? f_to_f16(p, x) : f_to_f16_n(p, x, n);
  return n == 16 ? f_to_bf16(p, x) : f_to_bf16_n(p, x, n);
}

/* Inputs begin .. end - 1 of the rows, from values. norm: 1 / sqrt(width) where butterflies were undone, else 1; signs
 * change no bit but the sign, so they are one factor with it. */
HGX_FUNCTION void decoder_write(const Decoder *d, const float *values, int64_t begin, int64_t end, float norm,
                                int count, const RowsOut *to) {
  const float *const multiplier = d->matrix->multiplier;
  const bool plain = multiplier == nullptr && norm == 1.0f;
  for (int64_t k = begin; k < end; k += 16) {
    const int n = static_cast<int>(end - k < 16 ? end - k : 16);
    F v[16];
    for (int j = 0; j < 16; ++j) v[j] = j < n ? f_load(values + (k - begin + j) * 16) : f_zero();
    transpose16(v);
    F factor = f_set(norm);
    if (multiplier != nullptr) factor = f_mul(factor, f_load_n(multiplier + k, n));
    for (int i = 0; i < count; ++i) put_numbers(to, i, k, plain ? v[d->lane[i]] : f_mul(v[d->lane[i]], factor), n);
  }
}

HGX_FUNCTION void decoder_plain(Decoder *d, int64_t begin, int64_t end, int count, const RowsOut *to) {
  for (int64_t k = begin; k < end;) {
    const int64_t next = k / 128 * 128 + 128, stop = next < end ? next : end;
    decoder_write(d, decoder_values(d, k, stop, false), k, stop, 1.0f, count, to);
    k = stop;
  }
}

HGX_FUNCTION void decode_panels(const hgx_matrix *m, const int64_t *rows, int count, const RowsOut *to, void *scratch) {
  Decoder d;
  decoder_open(&d, m, rows, count, scratch);
  const int64_t row = segment_of(m), width = m->width;
  const int64_t full = width == 0 ? 0 : row / width * width;
  if (full == 0) return decoder_plain(&d, 0, m->inputs, count, to);
  const float norm = static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(width)));
  for (int64_t begin = 0; begin < m->inputs; begin += row) {
    const int64_t end = m->inputs - begin < row ? m->inputs : begin + row;
    const int64_t blocks = begin + full <= m->inputs ? begin + full : begin;
    for (int64_t k = begin; k < blocks; k += width) {
      const bool mix = width >= 8 && k % 8 == 0;
      float *const values = decoder_values(&d, k, k + width, mix);
      decode_butterflies(values, width, mix ? 8 : 1);
      decoder_write(&d, values, k, k + width, norm, count, to);
    }
    decoder_plain(&d, blocks, end, count, to);
  }
}
