// Attention of a tile of query rows over one chunk of keys. The order of operations of a row (higgsx.h) depends on
// neither the tile's height nor its neighbours.
#pragma once

#include "activation.h"

namespace decoder {

constexpr int CHUNK = 64;            // keys between two looks at the largest score
constexpr float SLACK = 8.0f;        // weights stay below 2^8
constexpr int TILE_ROWS = 6;
#if defined(__AVX512F__)
template <int R> constexpr int TILE_VECTORS = 4;
#else  // room for a quarter or half of the vectors
template <int R> constexpr int TILE_VECTORS = R > 2 ? 1 : 2;
#endif
#if defined(__AVX512F__) || defined(__AVX2__) || defined(__ARM_NEON)
constexpr bool WIDENS_WELL = true;  // 16-bit elements can be read as fast as they are needed, for a tile or two
#else
constexpr bool WIDENS_WELL = false;
#endif

HGX_INLINE F widen16(const float *x) { return f_load(x); }

// Elements of a cache, to tell the two formats of 16 bits apart.
struct Half { uint16_t bits; };
struct Brain { uint16_t bits; };
HGX_INLINE F widen16(const Half *x) { return f_from_f16(&x->bits); }
HGX_INLINE F widen16(const Brain *x) { return f_from_bf16(&x->bits); }

// Keys and values of one chunk. Keys: blocks of 16, [head_dim][16]; values: rows, whole vectors of 16.
template <class T>
struct Piece {
  const T *keys, *values;
  int64_t key_block, value_row;
};

// Scores of R query rows (`q_row` apart) with blocks of 16 keys: one fma after another over head_dim.
template <int R, int C, class T>
static void scores(const Piece<T> &piece, int block, const float *q, int64_t q_row, int64_t dim, float *s) {
  F acc[R][C];
  for (int r = 0; r < R; ++r) for (int c = 0; c < C; ++c) acc[r][c] = f_zero();
  const T *k = piece.keys + block * piece.key_block;
  const int64_t next = piece.key_block;
  for (int64_t d = 0; d < dim; ++d, k += 16, ++q) {
    F key[C];
    for (int c = 0; c < C; ++c) key[c] = widen16(k + c * next);
    for (int r = 0; r < R; ++r) {
      const F x = f_set(q[r * q_row]);
      for (int c = 0; c < C; ++c) acc[r][c] = f_fma(x, key[c], acc[r][c]);
    }
  }
  for (int r = 0; r < R; ++r) for (int c = 0; c < C; ++c) f_store(s + r * CHUNK + 16 * (block + c), acc[r][c]);
}

// out[r] += sum of p[r][j] times row j of values, j from `from` to `to`, one fma after another.
template <int R, int C, class T>
static void weigh(const Piece<T> &piece, int from, int to, const float *p, int64_t column, float *out,
                  int64_t out_row) {
  F acc[R][C];
  for (int r = 0; r < R; ++r) for (int c = 0; c < C; ++c) acc[r][c] = f_load(out + r * out_row + column + 16 * c);
  const T *v = piece.values + from * piece.value_row + column;
  for (int j = from; j < to; ++j, v += piece.value_row) {
    F value[C];
    for (int c = 0; c < C; ++c) value[c] = widen16(v + 16 * c);
    for (int r = 0; r < R; ++r) {
      const F x = f_set(p[r * CHUNK + j]);
      for (int c = 0; c < C; ++c) acc[r][c] = f_fma(x, value[c], acc[r][c]);
    }
  }
  for (int r = 0; r < R; ++r) for (int c = 0; c < C; ++c) f_store(out + r * out_row + column + 16 * c, acc[r][c]);
}

template <int R, class T>
static void weigh_all(const Piece<T> &piece, int from, int to, const float *p, float *out, int64_t out_row) {
  constexpr int C = TILE_VECTORS<R>;
  int64_t column = 0;
  for (; column + 16 * C <= out_row; column += 16 * C) weigh<R, C>(piece, from, to, p, column, out, out_row);
  for (; column < out_row; column += 16) weigh<R, 1>(piece, from, to, p, column, out, out_row);
}

// Whether a < b in any lane.
HGX_INLINE bool any_less(F a, F b) {
#if defined(__AVX512F__)
  return f_less(a, b) != 0;
#elif defined(__AVX2__)
  const M less = f_less(a, b);
  return _mm256_movemask_ps(_mm256_or_ps(less.a, less.b)) != 0;
#else
  return f_max_all(f_select(f_less(a, b), f_set(1.0f), f_zero())) > 0.0f;
#endif
}

HGX_INLINE float power_of(float x) {
  alignas(64) float lanes[16];
  f_store(lanes, exp2_of(f_set(x)));
  return lanes[0];
}

// What one row has summed: weights in 16 partial sums (weighted values lie elsewhere), and the score whose weight
// is 1.
struct alignas(64) Row {
  float weight[16];
  float reference;
};

// Scores in blocks first .. last - 1 become weights 2^(score - reference). The reference becomes the chunk's maximum
// where that is more than SLACK above it. Returns what the row's earlier sums are to be multiplied by.
HGX_INLINE float soften_blocks(Row *row, int first, int last, float *s) {
  F top = f_load(s + 16 * first);
  for (int c = first + 1; c < last; ++c) top = f_max(top, f_load(s + 16 * c));
  F base = f_set(row->reference), weight = f_load(row->weight);
  float factor = 1.0f;
  if (any_less(f_add(base, f_set(SLACK)), top)) {
    const float now = f_max_all(top);
    factor = power_of(row->reference - now);
    weight = f_mul(weight, f_set(factor));
    row->reference = now;
    base = f_set(now);
  }
  for (int c = first; c < last; ++c) {
    const F p = exp2_of(f_sub(f_load(s + 16 * c), base));
    f_store(s + 16 * c, p);
    weight = f_add(weight, p);
  }
  f_store(row->weight, weight);
  return factor;
}

// The same for keys from .. to - 1 of the chunk; others in their blocks get the weight 0.
static float soften(Row *row, int from, int to, float limit, float *s) {
  if (from == 0 && to == CHUNK && limit == 0.0f) return soften_blocks(row, 0, CHUNK / 16, s);
  const int first = from / 16, last = (to + 15) / 16;
  if (limit != 0.0f) {
    for (int c = first; c < last; ++c) {
      f_store(s + 16 * c, f_mul(cap_of(f_load(s + 16 * c), limit), f_set(0x1.715476p+0f)));
    }
  }
  for (int j = 16 * first; j < from; ++j) s[j] = -__builtin_inff();
  for (int j = to; j < 16 * last; ++j) s[j] = -__builtin_inff();
  return soften_blocks(row, first, last, s);
}

// A row's sums over one section, or over several.
struct Sums {
  float reference, weight;
};

// Keys that a row sees: from .. to - 1.
struct Span {
  int64_t from, to;
};

// What one thread works on: `rows` query rows, all over the keys of one head.
struct Work {
  int64_t rows, dim, out_row;
  float limit;      // of the scores, 0: none
  float *q;         // [rows][dim], scaled
  Span *spans;      // [rows]
  Row *state;       // [rows], of the section at work
  float *part;      // [rows][out_row], likewise
  Sums *sums;       // [rows], of the sections before
  float *out;       // [rows][out_row], likewise
  float *keys;      // one chunk as binary32, if it has to be copied
  float *values;
};

HGX_INLINE int inside(int64_t key, int64_t begin, int count) {
  const int64_t offset = key - begin;
  return offset < 0 ? 0 : offset > count ? count : static_cast<int>(offset);
}

// R rows from row `first` on, over `count` keys that begin at `begin`.
template <int R, class T>
static void tile(const Piece<T> &piece, int64_t begin, int count, const Work &work, int64_t first) {
  const int64_t dim = work.dim, out_row = work.out_row;
  const Span *const spans = work.spans + first;
  const float *const q = work.q + first * dim;
  float *const out = work.part + first * out_row;
  int from[R], to[R], least = count, most = 0, common_from = 0, common_to = count;
  for (int r = 0; r < R; ++r) {
    from[r] = inside(spans[r].from, begin, count);
    to[r] = inside(spans[r].to, begin, count);
    common_from = from[r] > common_from ? from[r] : common_from;
    common_to = to[r] < common_to ? to[r] : common_to;
    if (from[r] >= to[r]) continue;
    least = from[r] < least ? from[r] : least;
    most = to[r] > most ? to[r] : most;
  }
  if (least >= most) return;
  alignas(64) float s[R * CHUNK];
  constexpr int C = TILE_VECTORS<R>;
  int block = least / 16;
  const int blocks = (most + 15) / 16;
  for (; block + C <= blocks; block += C) scores<R, C>(piece, block, q, dim, dim, s);
  for (; block < blocks; ++block) scores<R, 1>(piece, block, q, dim, dim, s);
  for (int r = 0; r < R; ++r) {
    if (from[r] >= to[r]) continue;
    const float factor = soften(work.state + first + r, from[r], to[r], work.limit, s + r * CHUNK);
    if (factor == 1.0f) continue;
    for (int64_t i = 0; i < out_row; i += 16) {
      f_store(out + r * out_row + i, f_mul(f_load(out + r * out_row + i), f_set(factor)));
    }
  }
  if (common_from >= common_to) {
    for (int r = 0; r < R; ++r) {
      if (from[r] < to[r]) weigh_all<1>(piece, from[r], to[r], s + r * CHUNK, out + r * out_row, out_row);
    }
    return;
  }
  for (int r = 0; r < R; ++r) {
    if (from[r] < common_from) weigh_all<1>(piece, from[r], common_from, s + r * CHUNK, out + r * out_row, out_row);
  }
  weigh_all<R>(piece, common_from, common_to, s, out, out_row);
  for (int r = 0; r < R; ++r) {
    if (common_to < to[r]) weigh_all<1>(piece, common_to, to[r], s + r * CHUNK, out + r * out_row, out_row);
  }
}

// All rows over one chunk, in tiles.
template <class T>
static void tiles(const Piece<T> &piece, int64_t begin, int count, const Work &work) {
  for (int64_t r = 0; r < work.rows;) {
    const int64_t left = work.rows - r;
    const int height = static_cast<int>(left <= TILE_ROWS ? left : left < TILE_ROWS + 3 ? 4 : TILE_ROWS);
    switch (height) {
      case 1: tile<1>(piece, begin, count, work, r); break;
      case 2: tile<2>(piece, begin, count, work, r); break;
      case 3: tile<3>(piece, begin, count, work, r); break;
      case 4: tile<4>(piece, begin, count, work, r); break;
      case 5: tile<5>(piece, begin, count, work, r); break;
      default: tile<6>(piece, begin, count, work, r);
    }
    r += height;
  }
}

}  // namespace decoder
