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

// N vectors of scores become weights 2^(score - reference). The reference becomes their maximum where that is more
// than SLACK above it. Returns what the row's earlier sums are to be multiplied by.
template <int N>
HGX_INLINE float soften_vectors(Row *row, F (&s)[N]) {
  F top = s[0];
  HGX_UNROLL for (int c = 1; c < N; ++c) top = f_max(top, s[c]);
  F base = f_set(row->reference), weight = f_load(row->weight);
  float factor = 1.0f;
  if (any_less(f_add(base, f_set(SLACK)), top)) {
    const float now = f_max_all(top);
    factor = power_of(row->reference - now);
    weight = f_mul(weight, f_set(factor));
    row->reference = now;
    base = f_set(now);
  }
  HGX_UNROLL for (int c = 0; c < N; ++c) {
    s[c] = exp2_of(f_sub(s[c], base));
    weight = f_add(weight, s[c]);
  }
  f_store(row->weight, weight);
  return factor;
}

// The scores of keys outside from .. to - 1, in the blocks that these touch, become -infinity; limit caps the others.
HGX_INLINE void hide(int from, int to, float limit, float *s) {
  const int first = from / 16 * 16, last = (to + 15) / 16 * 16;
  if (limit != 0.0f) {
    for (int j = first; j < last; j += 16) {
      f_store(s + j, f_mul(cap_of(f_load(s + j), limit), f_set(0x1.715476p+0f)));
    }
  }
  for (int j = first; j < from; ++j) s[j] = -__builtin_inff();
  for (int j = to; j < last; ++j) s[j] = -__builtin_inff();
}

// `job.over<N>(first block)` for the N blocks of a chunk with keys from .. to - 1.
template <class Job>
HGX_INLINE float over_blocks(int from, int to, const Job &job) {
  const int first = from / 16;
  switch ((to + 15) / 16 - first) {
    case 1: return job.template over<1>(first);
    case 2: return job.template over<2>(first);
    case 3: return job.template over<3>(first);
    default: return job.template over<4>(first);
  }
}

struct Softened {
  Row *row;
  float *s;

  template <int N>
  float over(int first) const {
    F x[N];
    HGX_UNROLL for (int c = 0; c < N; ++c) x[c] = f_load(s + 16 * (first + c));
    const float factor = soften_vectors(row, x);
    HGX_UNROLL for (int c = 0; c < N; ++c) f_store(s + 16 * (first + c), x[c]);
    return factor;
  }
};

// Scores of keys from .. to - 1 of the chunk become weights; others in their blocks get the weight 0.
static float soften(Row *row, int from, int to, float limit, float *s) {
  hide(from, to, limit, s);
  return over_blocks(from, to, Softened{row, s});
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

// What R rows see of a chunk: keys from[r] .. to[r] - 1 each, least .. most - 1 any, common_from .. common_to - 1 all.
template <int R>
struct Seen {
  int from[R], to[R], least, most, common_from, common_to;
};

template <int R>
HGX_INLINE Seen<R> seen_by(const Span *spans, int64_t begin, int count) {
  Seen<R> seen;
  seen.least = seen.common_to = count;
  seen.most = seen.common_from = 0;
  for (int r = 0; r < R; ++r) {
    const int from = inside(spans[r].from, begin, count), to = inside(spans[r].to, begin, count);
    seen.from[r] = from;
    seen.to[r] = to;
    seen.common_from = from > seen.common_from ? from : seen.common_from;
    seen.common_to = to < seen.common_to ? to : seen.common_to;
    if (from >= to) continue;
    seen.least = from < seen.least ? from : seen.least;
    seen.most = to > seen.most ? to : seen.most;
  }
  return seen;
}

HGX_INLINE void scale_row(float *x, int64_t n, float factor) {
  for (int64_t i = 0; i < n; i += 16) f_store(x + i, f_mul(f_load(x + i), f_set(factor)));
}

// R rows from row `first` on, over `count` keys that begin at `begin`.
template <int R, class T>
static void tile(const Piece<T> &piece, int64_t begin, int count, const Work &work, int64_t first) {
  const int64_t dim = work.dim, out_row = work.out_row;
  const float *const q = work.q + first * dim;
  float *const out = work.part + first * out_row;
  const Seen<R> seen = seen_by<R>(work.spans + first, begin, count);
  if (seen.least >= seen.most) return;
  alignas(64) float s[R * CHUNK];
  constexpr int C = TILE_VECTORS<R>;
  int block = seen.least / 16;
  const int blocks = (seen.most + 15) / 16;
  for (; block + C <= blocks; block += C) scores<R, C>(piece, block, q, dim, dim, s);
  for (; block < blocks; ++block) scores<R, 1>(piece, block, q, dim, dim, s);
  for (int r = 0; r < R; ++r) {
    if (seen.from[r] >= seen.to[r]) continue;
    const float factor = soften(work.state + first + r, seen.from[r], seen.to[r], work.limit, s + r * CHUNK);
    if (factor != 1.0f) scale_row(out + r * out_row, out_row, factor);
  }
  const auto alone = [&](int r, int from, int to) {
    if (from < to) weigh_all<1>(piece, from, to, s + r * CHUNK, out + r * out_row, out_row);
  };
  if (seen.common_from >= seen.common_to) {
    for (int r = 0; r < R; ++r) alone(r, seen.from[r], seen.to[r]);
    return;
  }
  for (int r = 0; r < R; ++r) alone(r, seen.from[r], seen.common_from);
  weigh_all<R>(piece, seen.common_from, seen.common_to, s, out, out_row);
  for (int r = 0; r < R; ++r) alone(r, seen.common_to, seen.to[r]);
}

// All rows over one chunk, in tiles. chunk: a Piece, or Whole.
template <class Chunk>
static void tiles(const Chunk &chunk, int64_t begin, int count, const Work &work) {
  for (int64_t r = 0; r < work.rows;) {
    const int64_t left = work.rows - r;
    const int height = static_cast<int>(left <= TILE_ROWS ? left : left < TILE_ROWS + 3 ? 4 : TILE_ROWS);
    switch (height) {
      case 1: tile<1>(chunk, begin, count, work, r); break;
      case 2: tile<2>(chunk, begin, count, work, r); break;
      case 3: tile<3>(chunk, begin, count, work, r); break;
      case 4: tile<4>(chunk, begin, count, work, r); break;
      case 5: tile<5>(chunk, begin, count, work, r); break;
      default: tile<6>(chunk, begin, count, work, r);
    }
    r += height;
  }
}

}  // namespace decoder
