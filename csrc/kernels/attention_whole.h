// Attention with whole numbers of 16 bits, or of 8 for queries and keys (higgsx.h, hgx_attention): a multiply of
// pairs does twice the work of one of binary32, of quads four times. Every key, value and query has a scale of its
// own, every row of weights one for each chunk, so that a query's result depends on nothing but what it sees.
#pragma once

#include "attention_tile.h"

namespace decoder {

constexpr float VALUE_TOP = 8191.0f, WEIGHT_TOP = 4095.0f;  // 64 products of them fit 32 bits

// The largest magnitude of queries and keys: `dim` products fit 32 bits.
HGX_INLINE float score_top(int64_t dim) {
  float top = 1.0f;
  for (float step = 4096.0f; step >= 1.0f; step *= 0.5f) {
    const double next = double(top) + double(step);
    if (next <= double(VALUE_TOP) && next * next * double(dim) < 2147483648.0) top += step;
  }
  return top;
}

// x becomes round(x * inverse), and that times scale is x again. Nothing finite to hold: zeros, and NaN for NaN.
struct Rounding {
  float inverse, scale;
};

// most: the bits of the largest magnitude, of NaN if there is one.
HGX_INLINE Rounding rounding_of(int32_t most, float top) {
  float m;
  __builtin_memcpy(&m, &most, 4);
  const bool finite = most < 0x7f800000, live = finite && m >= 0x1p-100f;
  return {live ? top / m : 0.0f, live ? m / top : finite ? 0.0f : __builtin_nanf("")};
}

// The numbers themselves; what is not live is zero whatever it holds.
HGX_INLINE F rounded(F x, float inverse) { return inverse != 0.0f ? f_mul(x, f_set(inverse)) : f_zero(); }

HGX_INLINE I paired(F low, F high) { return i_or(i_and(f_to_i(low), i_set(0xffff)), i_shl(f_to_i(high), 16)); }

// How numbers of queries and keys lie in 32 bits, and their products.
struct Pairs {
  static constexpr int COUNT = 2;
  using Number = int16_t;
  using Lanes = I;
  static float top(int64_t dim) { return score_top(dim); }
  static void line(Number *to, F x) { f_to_s16(to, x); }
  static I part(F x) { return i_and(f_to_i(x), i_set(0xffff)); }
  static Lanes load(const int32_t *keys) { return i_load(keys); }
  static I dot(I sum, Lanes keys, int32_t q) { return i_dot_pairs(sum, keys, q); }
  static constexpr int32_t EXTRA = 0;
};

struct Quads {
  static constexpr int COUNT = 4;
  using Number = int8_t;
  using Lanes = B;
  static float top(int64_t) { return 127.0f; }
  static void line(Number *to, F x) { f_to_s8(to, x); }
  static I part(F x) { return i_and(i_add(f_to_i(x), i_set(EXTRA)), i_set(0xff)); }
  static Lanes load(const int32_t *keys) { return b_load(keys); }
  static I dot(I sum, Lanes keys, int32_t q) { return i_dot(sum, keys, q); }
  static constexpr int32_t EXTRA = 128 - DOT_BIAS;  // is added to keys where products take numbers from 0 to 255
};

// What one thread works on beside Work.
struct Whole {
  bool quads;          // else pairs
  int64_t groups;      // of head_dim: pairs or quads
  int32_t *q;          // [rows][groups]
  int32_t *q_start;    // [rows]: what a sum of products begins with
  float *q_scale;      // [rows]
  int32_t *keys;       // a chunk: blocks of 16 keys, [groups][16]
  int32_t *values;     // a chunk: [CHUNK / 2][out_row], pairs of neighbouring keys
  float *key_scale, *value_scale;  // [CHUNK]
};

HGX_INLINE Rounding rounding_of_row(const float *x, int64_t n, float top) {
  I most = i_zero();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) most = i_max(most, f_bits(f_abs(f_load(x + i))));
  if (i < n) most = i_max(most, f_bits(f_abs(f_load_n(x + i, static_cast<int>(n - i)))));
  return rounding_of(i_max_all(most), top);
}

// Row r of scaled queries.
template <class Group>
static void whole_query(const float *x, int64_t dim, int64_t r, const Whole &to) {
  const Rounding rounding = rounding_of_row(x, dim, Group::top(dim));
  int32_t *const at = to.q + r * to.groups;
  int32_t sum = 0;
  for (int64_t d = 0; d < dim; d += 16) {
    constexpr int64_t GROUPS = 16 / Group::COUNT;
    const int n = static_cast<int>(dim - d < 16 ? dim - d : 16);
    const int64_t first = d / Group::COUNT, left = to.groups - first;
    alignas(64) typename Group::Number line[16];
    Group::line(line, rounded(f_load_n(x + d, n), rounding.inverse));
    for (int i = 0; i < n; ++i) sum += line[i];
    __builtin_memcpy(at + first, line, static_cast<size_t>((left < GROUPS ? left : GROUPS) * 4));
  }
  to.q_scale[r] = rounding.scale;
  to.q_start[r] = -Group::EXTRA * sum;
}

// Keys of a chunk: blocks of 16, `x` [dim][16].
template <class Group>
static void whole_keys(const float *x, int blocks, int64_t dim, const Whole &to) {
  const float top = Group::top(dim);
  for (int block = 0; block < blocks; ++block, x += 16 * dim) {
    I most = i_zero();
    for (int64_t d = 0; d < dim; ++d) most = i_max(most, f_bits(f_abs(f_load(x + 16 * d))));
    alignas(64) int32_t bits[16];
    alignas(64) float inverse[16];
    i_store(bits, most);
    for (int key = 0; key < 16; ++key) {
      const Rounding r = rounding_of(bits[key], top);
      inverse[key] = r.inverse;
      to.key_scale[16 * block + key] = r.scale;
    }
    const F by = f_load(inverse);
    const auto part = [&](int64_t d) {
      if (d >= dim) return Group::part(f_zero());
      return Group::part(f_select(f_less(f_zero(), by), f_mul(f_load(x + 16 * d), by), f_zero()));
    };
    int32_t *const at = to.keys + block * 16 * to.groups;
    for (int64_t group = 0; group < to.groups; ++group) {
      const int64_t d = group * Group::COUNT;
      I lanes = part(d);
      HGX_UNROLL for (int i = 1; i < Group::COUNT; ++i) {
        lanes = i_or(lanes, i_shl(part(d + i), i * (32 / Group::COUNT)));
      }
      i_store(at + 16 * group, lanes);
    }
  }
}

// Values of a chunk, rows of whole vectors; to the end of a block of 16 zeros follow.
static void whole_values(const float *x, int count, int64_t out_row, const Whole &to) {
  const int all = (count + 15) / 16 * 16;
  for (int j = 0; j < all; j += 2) {
    Rounding r[2] = {{0.0f, 0.0f}, {0.0f, 0.0f}};
    for (int k = 0; k < 2; ++k) {
      if (j + k < count) r[k] = rounding_of_row(x + (j + k) * out_row, out_row, VALUE_TOP);
      to.value_scale[j + k] = r[k].scale;
    }
    const float *const low = x + j * out_row, *const high = j + 1 < count ? low + out_row : low;
    for (int64_t i = 0; i < out_row; i += 16) {
      const F a = j < count ? rounded(f_load(low + i), r[0].inverse) : f_zero();
      const F b = j < count ? rounded(f_load(high + i), r[1].inverse) : f_zero();
      i_store(to.values + j / 2 * out_row + i, paired(a, b));
    }
  }
}

template <class Group, int R, int C>
static void whole_scores(const Whole &whole, int block, int64_t first, float *s) {
  const int64_t groups = whole.groups, next = 16 * groups;
  const int32_t *const q = whole.q + first * groups, *k = whole.keys + block * next;
  I acc[R][C];
  HGX_UNROLL for (int r = 0; r < R; ++r) {
    const I start = i_set(whole.q_start[first + r]);
    HGX_UNROLL for (int c = 0; c < C; ++c) acc[r][c] = start;
  }
  for (int64_t group = 0; group < groups; ++group, k += 16) {
    typename Group::Lanes key[C];
    HGX_UNROLL for (int c = 0; c < C; ++c) key[c] = Group::load(k + c * next);
    HGX_UNROLL for (int r = 0; r < R; ++r) {
      HGX_UNROLL for (int c = 0; c < C; ++c) acc[r][c] = Group::dot(acc[r][c], key[c], q[r * groups + group]);
    }
    HGX_UNROLL for (int r = 0; r < R; ++r) HGX_UNROLL for (int c = 0; c < C; ++c) i_keep(acc[r][c]);
  }
  HGX_UNROLL for (int c = 0; c < C; ++c) {
    const F scale = f_load(whole.key_scale + 16 * (block + c));
    HGX_UNROLL for (int r = 0; r < R; ++r) {
      const F value = f_mul(f_from_i(acc[r][c]), f_mul(scale, f_set(whole.q_scale[first + r])));
      f_store(s + r * CHUNK + 16 * (block + c), value);
    }
  }
}

// Of rows `first` .. first + R - 1 with blocks low .. high - 1.
template <class Group, int R>
static void whole_scores_all(const Whole &whole, int low, int high, int64_t first, float *s) {
  constexpr int C = TILE_VECTORS<R>;
  int block = low;
  for (; block + C <= high; block += C) whole_scores<Group, R, C>(whole, block, first, s);
  for (; block < high; ++block) whole_scores<Group, R, 1>(whole, block, first, s);
}

// Scores become weights, and these times their values' scales whole numbers p with the scale *step. A weight of 0 may
// belong to a key that is not seen, whose scale means nothing.
struct WholeSoftened {
  Row *row;
  const float *s, *scale;
  int16_t *p;
  float *step;

  template <int N>
  float over(int first) const {
    F x[N];
    HGX_UNROLL for (int c = 0; c < N; ++c) x[c] = f_load(s + 16 * (first + c));
    const float factor = soften_vectors(row, x);
    I most = i_zero();
    HGX_UNROLL for (int c = 0; c < N; ++c) {
      const F scaled = f_mul(x[c], f_load(scale + 16 * (first + c)));
      x[c] = f_select(f_less(f_zero(), x[c]), scaled, f_zero());
      most = i_max(most, f_bits(f_abs(x[c])));
    }
    const Rounding r = rounding_of(i_max_all(most), WEIGHT_TOP);
    HGX_UNROLL for (int c = 0; c < N; ++c) f_to_s16(p + 16 * (first + c), rounded(x[c], r.inverse));
    *step = r.scale;
    return factor;
  }
};

// out[r] += scale[r] * sum of p[r][j] times value j, over pairs of j from .. to - 1.
template <int R, int C>
static void whole_weigh(const Whole &whole, int from, int to, const int16_t *p, const float *scale, int64_t column,
                        float *out, int64_t out_row) {
  I acc[R][C];
  HGX_UNROLL for (int r = 0; r < R; ++r) HGX_UNROLL for (int c = 0; c < C; ++c) acc[r][c] = i_zero();
  const int32_t *v = whole.values + from * out_row + column;
  for (int j = from; j < to; ++j, v += out_row) {
    I value[C];
    HGX_UNROLL for (int c = 0; c < C; ++c) value[c] = i_load(v + 16 * c);
    HGX_UNROLL for (int r = 0; r < R; ++r) {
      int32_t weights;
      __builtin_memcpy(&weights, p + r * CHUNK + 2 * j, 4);
      HGX_UNROLL for (int c = 0; c < C; ++c) acc[r][c] = i_dot_pairs(acc[r][c], value[c], weights);
    }
    HGX_UNROLL for (int r = 0; r < R; ++r) HGX_UNROLL for (int c = 0; c < C; ++c) i_keep(acc[r][c]);
  }
  HGX_UNROLL for (int r = 0; r < R; ++r) {
    HGX_UNROLL for (int c = 0; c < C; ++c) {
      float *const at = out + r * out_row + column + 16 * c;
      f_store(at, f_fma(f_from_i(acc[r][c]), f_set(scale[r]), f_load(at)));
    }
  }
}

template <int R>
static void whole_weigh_all(const Whole &whole, int from, int to, const int16_t *p, const float *scale, float *out,
                            int64_t out_row) {
  constexpr int C = TILE_VECTORS<R>;
  int64_t column = 0;
  for (; column + 16 * C <= out_row; column += 16 * C) {
    whole_weigh<R, C>(whole, from, to, p, scale, column, out, out_row);
  }
  for (; column < out_row; column += 16) whole_weigh<R, 1>(whole, from, to, p, scale, column, out, out_row);
}

template <int R>
static void tile(const Whole &whole, int64_t begin, int count, const Work &work, int64_t first) {
  const int64_t out_row = work.out_row;
  const Seen<R> seen = seen_by<R>(work.spans + first, begin, count);
  if (seen.least >= seen.most) return;
  const int low = seen.least / 16, high = (seen.most + 15) / 16;
  float *const out = work.part + first * out_row;
  alignas(64) float s[R * CHUNK];
  alignas(64) int16_t p[R * CHUNK];
  float scale[R];
  if (whole.quads) whole_scores_all<Quads, R>(whole, low, high, first, s);
  else whole_scores_all<Pairs, R>(whole, low, high, first, s);
  bool all = true;
  for (int r = 0; r < R; ++r) {
    const int from = seen.from[r], to = seen.to[r];
    if (from >= to) {
      all = false;
      continue;
    }
    float *const scores = s + r * CHUNK;
    int16_t *const numbers = p + r * CHUNK;
    hide(from, to, work.limit, scores);
    const WholeSoftened row = {work.state + first + r, scores, whole.value_scale, numbers, scale + r};
    const float factor = over_blocks(from, to, row);
    if (factor != 1.0f) scale_row(out + r * out_row, out_row, factor);
    for (int c = low; c < from / 16; ++c) __builtin_memset(numbers + 16 * c, 0, 32);
    for (int c = (to + 15) / 16; c < high; ++c) __builtin_memset(numbers + 16 * c, 0, 32);
  }
  if (all) return whole_weigh_all<R>(whole, 8 * low, 8 * high, p, scale, out, out_row);
  for (int r = 0; r < R; ++r) {
    if (seen.from[r] >= seen.to[r]) continue;
    whole_weigh_all<1>(whole, 8 * low, 8 * high, p + r * CHUNK, scale + r, out + r * out_row, out_row);
  }
}

}  // namespace decoder
