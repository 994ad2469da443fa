// Attention: query rows over sections of keys, each in chunks; sections are joined in order.
#pragma once

#include "attention_whole.h"
#include "transpose.h"

namespace decoder {

constexpr int64_t SCRATCH_ALIGN = 64;
HGX_INLINE int64_t whole(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

HGX_INLINE int64_t work_bytes(int64_t rows, int64_t dim) {
  const int64_t out_row = whole(dim, 16), sizes[] = {
    rows * dim * 4, rows * int64_t(sizeof(Span)), rows * int64_t(sizeof(Row)), rows * out_row * 4,
    rows * int64_t(sizeof(Sums)), rows * out_row * 4, CHUNK * dim * 4, CHUNK * out_row * 4};
  int64_t bytes = 0;
  for (const int64_t size : sizes) bytes += whole(size, SCRATCH_ALIGN);
  return bytes;
}

HGX_INLINE void *carve(char **scratch, int64_t bytes) {
  char *const at = *scratch;
  *scratch += whole(bytes, SCRATCH_ALIGN);
  return at;
}

static Work work_in(void *memory, int64_t rows, int64_t dim, float limit) {
  char *scratch = static_cast<char *>(memory);
  Work work;
  work.rows = rows;
  work.dim = dim;
  work.out_row = whole(dim, 16);
  work.limit = limit;
  work.q = static_cast<float *>(carve(&scratch, rows * dim * 4));
  work.spans = static_cast<Span *>(carve(&scratch, rows * int64_t(sizeof(Span))));
  work.state = static_cast<Row *>(carve(&scratch, rows * int64_t(sizeof(Row))));
  work.part = static_cast<float *>(carve(&scratch, rows * work.out_row * 4));
  work.sums = static_cast<Sums *>(carve(&scratch, rows * int64_t(sizeof(Sums))));
  work.out = static_cast<float *>(carve(&scratch, rows * work.out_row * 4));
  work.keys = static_cast<float *>(carve(&scratch, CHUNK * dim * 4));
  work.values = static_cast<float *>(carve(&scratch, CHUNK * work.out_row * 4));
  return work;
}

// Beside work_bytes, for whole numbers.
HGX_INLINE int64_t whole_bytes(int64_t rows, int64_t dim) {
  const int64_t groups = (dim + 1) / 2, sizes[] = {
    rows * groups * 4, rows * 4, rows * 4, CHUNK * groups * 4, CHUNK / 2 * whole(dim, 16) * 4, CHUNK * 4, CHUNK * 4};
  int64_t bytes = 0;
  for (const int64_t size : sizes) bytes += whole(size, SCRATCH_ALIGN);
  return bytes;
}

template <class Group>
static void whole_queries(const Work &work, const Whole &to) {
  for (int64_t r = 0; r < work.rows; ++r) whole_query<Group>(work.q + r * work.dim, work.dim, r, to);
}

// memory: what follows that of `work`, whose queries are scaled.
static Whole whole_in(void *memory, const Work &work, bool quads) {
  char *scratch = static_cast<char *>(memory) + work_bytes(work.rows, work.dim);
  const int64_t count = quads ? Quads::COUNT : Pairs::COUNT;
  Whole made;
  made.quads = quads;
  made.groups = (work.dim + count - 1) / count;
  made.q = static_cast<int32_t *>(carve(&scratch, work.rows * made.groups * 4));
  made.q_start = static_cast<int32_t *>(carve(&scratch, work.rows * 4));
  made.q_scale = static_cast<float *>(carve(&scratch, work.rows * 4));
  made.keys = static_cast<int32_t *>(carve(&scratch, CHUNK * made.groups * 4));
  made.values = static_cast<int32_t *>(carve(&scratch, CHUNK / 2 * work.out_row * 4));
  made.key_scale = static_cast<float *>(carve(&scratch, CHUNK * 4));
  made.value_scale = static_cast<float *>(carve(&scratch, CHUNK * 4));
  if (quads) whole_queries<Quads>(work, made);
  else whole_queries<Pairs>(work, made);
  return made;
}

// Keys that any row sees.
static Span all_of(const Work &work) {
  Span all = work.spans[0];
  for (int64_t r = 1; r < work.rows; ++r) {
    if (work.spans[r].from < all.from) all.from = work.spans[r].from;
    if (work.spans[r].to > all.to) all.to = work.spans[r].to;
  }
  return all;
}

HGX_INLINE float *row_of(const Work &work, float *out, int64_t r) { return out + r * work.out_row; }

// Sums of one section into state and part. `source.over(work, begin, count)` goes over one chunk.
template <class Source>
static void section_of(const Work &work, const Source &source, Span all, int64_t section) {
  const int64_t begin = section * section_keys, end = begin + section_keys;
  for (int64_t r = 0; r < work.rows; ++r) {
    work.state[r].reference = -__builtin_inff();
    f_store(work.state[r].weight, f_zero());
    for (int64_t i = 0; i < work.out_row; i += 16) f_store(row_of(work, work.part, r) + i, f_zero());
  }
  const int64_t last = all.to < end ? all.to : end;
  for (int64_t key = begin; key < last; key += CHUNK) {
    if (key + CHUNK <= all.from) continue;
    source.over(work, key, static_cast<int>(last - key < CHUNK ? last - key : CHUNK));
  }
}

HGX_INLINE float weight_of(const Row &row) { return f_sum(f_load(row.weight)); }

// Adds a section's sums to those before it. first: there are none before.
static void join(bool first, Sums section, const float *part, int64_t n, Sums *sums, float *out) {
  if (first) {
    *sums = section;
    for (int64_t i = 0; i < n; i += 16) f_store(out + i, f_load(part + i));
    return;
  }
  const float larger = sums->reference < section.reference ? section.reference : sums->reference;
  const float before = power_of(sums->reference - larger), now = power_of(section.reference - larger);
  sums->weight = __builtin_fmaf(section.weight, now, sums->weight * before);
  sums->reference = larger;
  for (int64_t i = 0; i < n; i += 16) {
    f_store(out + i, f_fma(f_load(part + i), f_set(now), f_mul(f_load(out + i), f_set(before))));
  }
}

// All sections, into work.sums and work.out (only of rows that see something).
template <class Source>
static void attend_rows(const Work &work, const Source &source) {
  const Span all = all_of(work);
  const int64_t first = all.from / section_keys, last = all.to > 0 ? (all.to - 1) / section_keys : -1;
  for (int64_t section = first; section <= last; ++section) {
    section_of(work, source, all, section);
    const int64_t begin = section * section_keys, end = begin + section_keys;
    for (int64_t r = 0; r < work.rows; ++r) {
      const Span span = work.spans[r];
      if (span.from >= end || span.to <= begin || span.from >= span.to) continue;
      const Sums sums = {work.state[r].reference, weight_of(work.state[r])};
      const float *const part = row_of(work, work.part, r);
      join(span.from >= begin, sums, part, work.out_row, work.sums + r, row_of(work, work.out, r));
    }
  }
}

HGX_INLINE F widen_n(const float *x, int n) { return f_load_n(x, n); }
HGX_INLINE F widen_n(const Half *x, int n) { return f_from_f16_n(&x->bits, n); }
HGX_INLINE F widen_n(const Brain *x, int n) { return f_from_bf16_n(&x->bits, n); }

// Rows of values as binary32, filled with zeros to whole vectors.
template <class T>
static void copy_values(const T *v, int64_t stride, int count, int64_t dim, int64_t out_row, float *to) {
  for (int j = 0; j < count; ++j, v += stride, to += out_row) {
    int64_t i = 0;
    for (; i + 16 <= dim; i += 16) f_store(to + i, widen16(v + i));
    if (i < dim) f_store(to + i, widen_n(v + i, static_cast<int>(dim - i)));
  }
}

// One head of one sequence in the cache.
template <class T>
struct Cached {
  const T *keys, *values;

  void over(const Work &work, int64_t begin, int count) const {
    const T *const k = keys + begin * work.dim, *const v = values + begin * work.dim;
    if constexpr (sizeof(T) == 4 || WIDENS_WELL) {
      if (work.dim % 16 == 0 && (sizeof(T) == 4 || work.rows <= 2 * TILE_ROWS)) {
        const Piece<T> piece = {k, v, 16 * work.dim, work.dim};
        tiles(piece, begin, count, work);
        return;
      }
    }
    for (int64_t i = 0; i < whole(count, 16) * work.dim; i += 16) f_store(work.keys + i, widen16(k + i));
    copy_values(v, work.dim, count, work.dim, work.out_row, work.values);
    const Piece<float> piece = {work.keys, work.values, 16 * work.dim, work.out_row};
    tiles(piece, begin, count, work);
  }
};

// One head of strided keys and values.
template <class T>
struct Strided {
  const T *keys, *values;
  int64_t key_row, value_row, count_of_keys;
  const Whole *whole_numbers;  // NULL: binary32

  void over(const Work &work, int64_t begin, int count) const {
    for (int j = 0; j < count; j += 16) {
      const int rows = count - j < 16 ? count - j : 16;
      for (int64_t i = 0; i < work.dim; i += 16) {
        const int columns = static_cast<int>(work.dim - i < 16 ? work.dim - i : 16);
        F x[16];
        for (int r = 0; r < rows; ++r) x[r] = widen_n(keys + (begin + j + r) * key_row + i, columns);
        for (int r = rows; r < 16; ++r) x[r] = f_zero();
        transpose16(x);
        for (int c = 0; c < columns; ++c) f_store(work.keys + j * work.dim + 16 * (i + c), x[c]);
      }
    }
    // values are copied even where they are binary32: rows far apart share few places in the nearest cache
    copy_values(values + begin * value_row, value_row, count, work.dim, work.out_row, work.values);
    announce(begin + count, work.dim);
    if (whole_numbers != nullptr) {
      const int blocks = (count + 15) / 16;
      if (whole_numbers->quads) whole_keys<Quads>(work.keys, blocks, work.dim, *whole_numbers);
      else whole_keys<Pairs>(work.keys, blocks, work.dim, *whole_numbers);
      whole_values(work.values, count, work.out_row, *whole_numbers);
      return tiles(*whole_numbers, begin, count, work);
    }
    const Piece<float> piece = {work.keys, work.values, 16 * work.dim, work.out_row};
    tiles(piece, begin, count, work);
  }

  // The next chunk, into the nearer caches while this one is worked on.
  void announce(int64_t key, int64_t dim) const {
    const int64_t end = key + CHUNK < count_of_keys ? key + CHUNK : count_of_keys, line = 64 / int64_t(sizeof(T));
    for (; key < end; ++key) {
      for (int64_t i = 0; i < dim; i += line) {
        __builtin_prefetch(keys + key * key_row + i, 0, 2);
        __builtin_prefetch(values + key * value_row + i, 0, 2);
      }
    }
  }
};

// A row of queries times factor.
template <class T>
static void scaled_query(const T *q, int64_t dim, float factor, float *to) {
  for (int64_t i = 0; i < dim; i += 16) {
    const int lanes = static_cast<int>(dim - i < 16 ? dim - i : 16);
    f_store_n(to + i, f_mul(widen_n(q + i, lanes), f_set(factor)), lanes);
  }
}

// Scores are kept in powers of two: log2(e) belongs to the queries' factor, or comes after the cap.
HGX_INLINE float query_factor(float scale, float limit) { return limit != 0.0f ? scale : scale * 0x1.715476p+0f; }

}  // namespace decoder
