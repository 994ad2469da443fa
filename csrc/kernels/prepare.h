/* Activations: multiplier, block Hadamard, then what products read (higgsx.h, "Activations"). */
#pragma once

HGX_INLINE float s_power(int exponent) { /* 2^exponent, -126 to 127 */
  const int32_t bits = (exponent + 127) << 23;
  float power;
  memcpy(&power, &bits, 4);
  return power;
}

/* `n` inputs (0 to 16) from `at`, multiplied. */
HGX_INLINE F load_input(const hgx_matrix &m, const void *x, int dtype, int64_t at, int n) {
  F value;
  if (dtype == HGX_F32) {
    value = f_load_n(static_cast<const float *>(x) + at, n);
  } else {
    const uint16_t *const half = static_cast<const uint16_t *>(x) + at;
    if (n == 16) {
      value = dtype == HGX_F16 ? f_from_f16(half) : f_from_bf16(half);
    } else {
      value = dtype == HGX_F16 ? f_from_f16_n(half, n) : f_from_bf16_n(half, n);
    }
  }
  return m.multiplier ? f_mul(value, f_load_n(m.multiplier + at, n)) : value;
}

/* Which inputs one segment transforms: blocks of `width` from `begin` to `end`, the rest up to `next` not. */
struct Segment { int64_t begin, end, next; };

HGX_INLINE Segment segment_at(const hgx_matrix &m, int64_t input) {
  const int64_t length = segment_of(&m), begin = input / length * length;
  const int64_t full = m.width ? length / m.width * m.width : 0;
  const int64_t next = begin + length < m.inputs ? begin + length : m.inputs;
  return Segment{begin, begin + full <= m.inputs ? begin + full : begin, next};
}

/* Butterflies within lanes, of widths up to 16. */
HGX_INLINE F stages_of_lanes(F x, int width) {
  x = f_pair1(x);
  if (width > 2) x = f_pair2(x);
  if (width > 4) x = f_pair4(x);
  if (width > 8) x = f_pair8(x);
  return x;
}

/* Butterflies of `count` vectors (a power of two) whose lanes are done, then 1/sqrt(width). */
template <int COUNT>
HGX_INLINE void stages_of_vectors(F *x) {
  HGX_UNROLL for (int stride = 1; stride < COUNT; stride *= 2) {
    HGX_UNROLL for (int i = 0; i < COUNT; ++i) {
      if (i & stride) continue;
      const F a = x[i], b = x[i + stride];
      x[i] = f_add(a, b);
      x[i + stride] = f_sub(a, b);
    }
  }
}

HGX_INLINE float norm_of(int width) {
  int log = 0;
  while (1 << log < width) ++log;
  const float half = log & 1 ? 0x1.6a09e6p-1f : 1.0f; /* sqrt(1/2), rounded */
  return half * s_power(-(log / 2));
}

/* One block of any width in memory, which holds at least 16 numbers. */
HGX_FUNCTION void transform_block(float *x, int width) {
  const F norm = f_set(norm_of(width));
  if (width <= 16) {
    f_store_n(x, f_mul(stages_of_lanes(f_load_n(x, width), width), norm), width);
    return;
  }
  for (int i = 0; i < width; i += 16) f_store(x + i, stages_of_lanes(f_load(x + i), 16));
  for (int stride = 16; stride < width; stride *= 2) {
    for (int i = 0; i < width; i += 16) {
      if (i & stride) continue;
      const F a = f_load(x + i), b = f_load(x + i + stride);
      f_store(x + i, f_add(a, b));
      f_store(x + i + stride, f_sub(a, b));
    }
  }
  for (int i = 0; i < width; i += 16) f_store(x + i, f_mul(f_load(x + i), norm));
}

/* A whole unit of blocks that are `width` = 16 to 128 wide. */
template <int COUNT>
HGX_INLINE void transform_unit(F (&t)[8], float norm) {
  HGX_UNROLL for (int i = 0; i < 8; ++i) t[i] = stages_of_lanes(t[i], 16);
  HGX_UNROLL for (int i = 0; i < 8; i += COUNT) stages_of_vectors<COUNT>(t + i);
  HGX_UNROLL for (int i = 0; i < 8; ++i) t[i] = f_mul(t[i], f_set(norm));
}

/* The block that was transformed last: neighbouring units may both need it. */
struct Butterfly {
  int64_t begin;
  float x[1024];
};

/* t of a unit, whatever blocks it cuts. */
HGX_FUNCTION void gather_unit(const hgx_matrix &m, const void *x, int dtype, int64_t begin, int64_t end,
                              Butterfly &cache, float *t) {
  for (int64_t at = begin; at < end;) {
    const Segment segment = segment_at(m, at);
    if (at >= segment.end) { /* not transformed */
      const int64_t stop = segment.next < end ? segment.next : end;
      for (; at < stop; at += 16) {
        const int n = stop - at < 16 ? static_cast<int>(stop - at) : 16;
        f_store_n(t + (at - begin), load_input(m, x, dtype, at, n), n);
      }
      at = stop;
      continue;
    }
    const int64_t first = segment.begin + (at - segment.begin) / m.width * m.width, last = first + m.width;
    if (cache.begin != first) {
      cache.begin = first;
      for (int i = 0; i < m.width; i += 16) {
        const int n = m.width - i < 16 ? m.width - i : 16;
        f_store_n(cache.x + i, load_input(m, x, dtype, first + i, n), n);
      }
      transform_block(cache.x, m.width);
    }
    const int64_t stop = last < end ? last : end;
    memcpy(t + (at - begin), cache.x + (at - first), static_cast<size_t>(stop - at) * 4);
    at = stop;
  }
}

/* Codes of a unit and their sums. */
HGX_INLINE void quantize_unit(const F (&t)[8], int modes, const Prepared &view, int64_t row) {
  I most = i_zero();
  HGX_UNROLL for (int i = 0; i < 8; ++i) most = i_max(most, f_bits(f_abs(t[i]))); /* NaN is above infinity */
  const int32_t bits = i_max_all(most);
  float m;
  memcpy(&m, &bits, 4);
  const bool finite = bits < 0x7f800000, live = finite && m >= 0x1p-100f;
  view.scale[row] = live ? m / 127.0f : finite ? 0.0f : __builtin_nanf("");
  const F inverse = f_set(live ? 127.0f / m : 0.0f);
  int8_t *const q1 = view.q1 + row * 128;
  int8_t *const q2 = modes & HGX_INT16 ? view.q2 + row * 128 : nullptr;
  if (!live) {
    memset(q1, 0, 128);
    memset(view.sum1 + row * 4, 0, 16);
    if (q2) {
      memset(q2, 0, 128);
      memset(view.sum2 + row * 4, 0, 16);
    }
    return;
  }
  HGX_UNROLL for (int i = 0; i < 8; i += 2) {
    const F y0 = f_mul(t[i], inverse), y1 = f_mul(t[i + 1], inverse);
    const F r0 = f_round(y0), r1 = f_round(y1);
    f_to_s8(q1 + 16 * i, r0);
    f_to_s8(q1 + 16 * i + 16, r1);
    view.sum1[row * 4 + i / 2] = i_sum(i_add(f_to_i(r0), f_to_i(r1)));
    if (!q2) continue;
    const F d0 = f_round(f_mul(f_sub(y0, r0), f_set(254.0f))), d1 = f_round(f_mul(f_sub(y1, r1), f_set(254.0f)));
    f_to_s8(q2 + 16 * i, d0);
    f_to_s8(q2 + 16 * i + 16, d1);
    view.sum2[row * 4 + i / 2] = i_sum(i_add(f_to_i(d0), f_to_i(d1)));
  }
}

HGX_INLINE void write_unit(const F (&t)[8], int modes, const Prepared &view, int64_t row) {
  if (modes & (HGX_INT8 | HGX_INT16)) quantize_unit(t, modes, view, row);
  if (modes & HGX_FLOAT) {
    HGX_UNROLL for (int i = 0; i < 8; ++i) f_store(view.x + row * 128 + 16 * i, t[i]);
    HGX_UNROLL for (int i = 0; i < 4; ++i) view.sumx[row * 4 + i] = f_sum(f_add(t[2 * i], t[2 * i + 1]));
  }
}

HGX_FUNCTION void prepare(const hgx_matrix &matrix, const void *x, int x_dtype, int modes, const Prepared &view,
                          int64_t token, int64_t unit_begin, int64_t unit_end) {
  const int64_t length = segment_of(&matrix);
  const bool fits = matrix.width <= 128 && (matrix.width >= 16 || matrix.width == 0) &&
                    (length == matrix.inputs || length % 128 == 0);
  const float norm = matrix.width ? norm_of(matrix.width) : 1.0f;
  Butterfly cache;
  cache.begin = -1;
  for (int64_t unit = unit_begin; unit < unit_end; ++unit) {
    const int64_t begin = unit * 128, end = begin + 128 < matrix.inputs ? begin + 128 : matrix.inputs;
    F t[8];
    /* whole: all of the unit is transformed, or nothing */
    const bool plain = matrix.width == 0;
    if (fits && end - begin == 128 && (plain || segment_at(matrix, begin).end >= begin + 128)) {
      HGX_UNROLL for (int i = 0; i < 8; ++i) t[i] = load_input(matrix, x, x_dtype, begin + 16 * i, 16);
      switch (matrix.width) {
        case 0: break;
        case 16: transform_unit<1>(t, norm); break;
        case 32: transform_unit<2>(t, norm); break;
        case 64: transform_unit<4>(t, norm); break;
        default: transform_unit<8>(t, norm);
      }
    } else {
      alignas(64) float rest[128 + 16];
      memset(rest, 0, sizeof rest);
      gather_unit(matrix, x, x_dtype, begin, end, cache, rest);
      HGX_UNROLL for (int i = 0; i < 8; ++i) t[i] = f_load(rest + 16 * i);
    }
    write_unit(t, modes, view, token * view.units + unit);
  }
}

HGX_FUNCTION int64_t prepare_units(const hgx_matrix &matrix) {
  return matrix.width > 128 ? matrix.width / 128 : 1;
}
