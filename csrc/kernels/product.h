/* Integer products of panels: one token straight from the bit planes, and register tiles of several tokens
 * from unpacked lines. The arithmetic is that of higgsx.h; both ways give the same bits.
 *
 * Everything before the unit's activation scale is kept at half of what higgsx.h says, and the activation scale
 * doubled: nothing over- or underflows, so no bit differs. With X = q1, num / 2 = sum w q1 + start + half, where
 * start is whole and half is 0 or 1/2. With X = 254 q1 + q2, num / 2 = 254 (sum w q1 + start) + (sum w q2 + start2) +
 * half: both sums are below 2^23, so one fma rounds just as float(num) does. */
#pragma once

/* A matrix as the kernels need it. */
struct Plan {
  const hgx_matrix *matrix;
  int64_t units, unit_bytes, panel_bytes, row_bytes;
  int bits, block, blocks; /* inputs of a scale block (128 where it is the row), blocks of a whole unit */
  int log_block;
  int scale, zero, zero_bytes;
  int mode, passes;
  bool odd;        /* centre is */
  int32_t factor;  /* num = 2 sum w X + factor sum X */
  float lift;      /* float mode: level = 2 w + lift */
  Table table;
};

HGX_INLINE int unit_width(const Plan &plan, int64_t unit) {
  const int64_t rest = plan.matrix->inputs - unit * 128;
  return rest < 128 ? static_cast<int>(rest) : 128;
}

/* Of some tokens and some units: what the activations contribute besides themselves. */
struct Terms {
  int64_t token, unit, units; /* the first token, the first unit, how many units; -1: nothing yet */
  int32_t *starts, *starts2;  /* [tokens, units * blocks] */
  float *halves, *sums;       /* the same shape; sums: sum X, in float mode 2 sum x */
  float *gains;               /* [tokens, units]: activation scales, times 2 */
};

HGX_INLINE int32_t load_quad(const int8_t *q) {
  int32_t quad;
  memcpy(&quad, q, 4);
  return quad;
}

template <bool SMALL>
HGX_INLINE I dot(I acc, B w, int32_t quad) {
  return SMALL ? i_dot_small(acc, w, quad) : i_dot(acc, w, quad);
}

HGX_INLINE int blocks_of(const Plan &plan, int width) { return (width + plan.block - 1) >> plan.log_block; }

HGX_INLINE F load_scale(int kind, const uint8_t *p) {
  return kind == HGX_SCALE_U8 ? f_from_u8(p) : f_from_f16(reinterpret_cast<const uint16_t *>(p));
}
HGX_INLINE F load_zero(int kind, const uint8_t *p) {
  return kind == HGX_ZERO_U8 ? f_from_u8(p) : f_from_f16(reinterpret_cast<const uint16_t *>(p));
}

/* Where whole rows of a panel have theirs: the zero point. */
HGX_INLINE F row_zero(const Plan &plan, int64_t panel) {
  return load_zero(plan.zero, plan.matrix->rows + panel * plan.row_bytes + 32);
}

/* Units of one panel, for one token. */
struct Span {
  int64_t unit, units;
  const uint8_t *data; /* the first of these units */
  const int8_t *q1, *q2;
};

/* Bytes ahead of the reader that are asked of memory, and of the second-level cache. */
constexpr int64_t AHEAD = 4096, NEAR = 2048;

/* Sums of a block to half of num. Tables have an even centre. */
template <int PASSES, bool EVEN>
HGX_INLINE F half_of_num(I sum1, I sum2, const float *half) {
  const F last = f_from_i(PASSES == 2 ? sum2 : sum1), whole = EVEN ? last : f_add(last, f_set(*half));
  return PASSES == 2 ? f_fma(f_from_i(sum1), f_set(254.0f), whole) : whole;
}

/* One unit, perhaps a short one, whose lines are unpacked. */
template <class C, int PASSES>
HGX_FUNCTION F one_short(const Plan &plan, const Terms &terms, int64_t term, const uint8_t *lines, int width,
                         const uint8_t *scale, const int8_t *q1, const int8_t *q2) {
  F s1 = f_zero();
  const int quads = (width + 31) / 32 * 8;
  for (int quad = 0; quad < quads; ++term, scale += 16) {
    I sum1 = i_set(terms.starts[term]), sum2 = PASSES == 2 ? i_set(terms.starts2[term]) : i_zero();
    for (const int end = quad + plan.block / 4; quad < end && quad < quads; ++quad) {
      const B w = b_load(lines + 64 * quad);
      sum1 = dot<C::SMALL>(sum1, w, load_quad(q1 + 4 * quad));
      if (PASSES == 2) sum2 = dot<C::SMALL>(sum2, w, load_quad(q2 + 4 * quad));
    }
    const F n = half_of_num<PASSES, C::TABLE>(sum1, sum2, terms.halves + term);
    s1 = plan.matrix->block == 0 ? n : f_fma(n, f_from_u8(scale), s1);
  }
  return s1;
}

/* acc of 16 outputs, one token. Byte scales or whole rows (BLOCK 0), no zero points. */
template <class C, int PASSES, int BLOCK>
HGX_FUNCTION void one_token(const Plan &plan, const Terms &terms, const Span &span, float *accumulator) {
  constexpr int BLOCKS = BLOCK ? 128 / BLOCK : 1, GROUPS = 4 / BLOCKS, CODES = 256 * C::BITS;
  constexpr int CHAINS = PASSES == 2 ? 2 : 4; /* sums that do not wait for each other */
  const Table table = plan.table;
  const uint8_t *unit = span.data;
  const int8_t *q1 = span.q1, *q2 = span.q2;
  const int short_width = span.unit + span.units == plan.units ? unit_width(plan, plan.units - 1) : 128;
  const int64_t whole = short_width == 128 ? span.units : span.units - 1;
  F acc = f_load(accumulator);
  for (int64_t u = 0; u < whole; ++u) {
    F s1 = f_zero();
    HGX_UNROLL for (int block = 0; block < BLOCKS; ++block) {
      I sum1[CHAINS], sum2[CHAINS];
      HGX_UNROLL for (int j = 0; j < CHAINS; ++j) sum1[j] = sum2[j] = i_zero();
      const int64_t term = u * BLOCKS + block;
      sum1[0] = i_set(terms.starts[term]);
      if (PASSES == 2) sum2[0] = i_set(terms.starts2[term]);
      HGX_UNROLL for (int i = 0; i < GROUPS; ++i) {
        const int group = block * GROUPS + i;
        B w[8];
        HGX_UNROLL for (int k = 0; k < C::BITS; ++k) {
          prefetch(unit + AHEAD + 64 * (group * C::BITS + k));
          prefetch_near(unit + NEAR + 64 * (group * C::BITS + k));
        }
        c_eight<C>(table, unit + group * C::HIGH * 64, unit + (4 * C::HIGH + group * C::LOW) * 64, w);
        HGX_UNROLL for (int j = 0; j < 8; ++j) {
          sum1[j % CHAINS] = dot<C::SMALL>(sum1[j % CHAINS], w[j], load_quad(q1 + 32 * group + 4 * j));
          if (PASSES == 2) sum2[j % CHAINS] = dot<C::SMALL>(sum2[j % CHAINS], w[j], load_quad(q2 + 32 * group + 4 * j));
        }
      }
      HGX_UNROLL for (int half = CHAINS / 2; half; half /= 2) {
        HGX_UNROLL for (int j = 0; j < half; ++j) {
          sum1[j] = i_add(sum1[j], sum1[j + half]);
          if (PASSES == 2) sum2[j] = i_add(sum2[j], sum2[j + half]);
        }
      }
      const F n = half_of_num<PASSES, C::TABLE>(sum1[0], sum2[0], terms.halves + term);
      s1 = BLOCK == 0 ? n : f_fma(n, f_from_u8(unit + CODES + 16 * block), s1);
    }
    if (BLOCK) prefetch(unit + AHEAD + CODES);
    acc = f_fma(s1, f_set(terms.gains[u]), acc);
    unit += CODES + (BLOCK ? 16 * BLOCKS : 0);
    q1 += 128;
    if (PASSES == 2) q2 += 128;
  }
  if (whole < span.units) {
    alignas(64) uint8_t lines[2048];
    const int groups = (short_width + 31) / 32;
    unpack_unit<C>(table, unit, groups, unit + AHEAD, lines);
    const uint8_t *const scale = unit + groups * C::BITS * 64;
    const F s1 = one_short<C, PASSES>(plan, terms, whole * BLOCKS, lines, short_width, scale, q1, q2);
    acc = f_fma(s1, f_set(terms.gains[whole]), acc);
  }
  f_store(accumulator, acc);
}

typedef void (*OneToken)(const Plan &, const Terms &, const Span &, float *);

/* Some panels and tokens over some units whose lines are unpacked. */
struct Tile {
  const uint8_t *lines;  /* [units][panels][32][64] */
  const float *scales;   /* [units][blocks][panels][16] */
  const float *zeros;    /* likewise; NULL: none */
  const int8_t *q1, *q2; /* first token, first unit; rows `stride` apart */
  int64_t stride;
  const int32_t *starts, *starts2; /* first token, first unit; rows terms_stride apart */
  const float *halves, *sums;
  int64_t terms_stride;
  const float *gains;
  int64_t gains_stride;
  float *acc; /* [tokens][panels][16] */
  int64_t unit;
  int units;
};

template <int P, int T, bool SMALL>
HGX_INLINE void dot_lines(I (&sum)[P][T], const uint8_t *lines, const int8_t *q, int64_t stride, int quads) {
  const int8_t *row[T];
  HGX_UNROLL for (int t = 0; t < T; ++t) row[t] = q + t * stride;
  int64_t quad = 0;
  do {
    HGX_UNROLL for (int half = 0; half < 2; ++half) {
      B w[P];
      HGX_UNROLL for (int p = 0; p < P; ++p) w[p] = b_load(lines + p * 2048 + (quad + half) * 64);
      HGX_UNROLL for (int t = 0; t < T; ++t) {
        const int32_t value = load_quad(row[t] + (quad + half) * 4);
        HGX_UNROLL for (int p = 0; p < P; ++p) sum[p][t] = dot<SMALL>(sum[p][t], w[p], value);
      }
    }
    quad += 2;
    HGX_UNROLL for (int p = 0; p < P; ++p) HGX_UNROLL for (int t = 0; t < T; ++t) i_keep(sum[p][t]);
  } while (quad < quads);
}

#define HGX_TILE(statement) \
  HGX_UNROLL for (int p = 0; p < P; ++p) HGX_UNROLL for (int t = 0; t < T; ++t) statement

template <int P, int T>
HGX_INLINE void begin_sums(I (&sum)[P][T], const int32_t *starts, int64_t stride) {
  HGX_UNROLL for (int t = 0; t < T; ++t) {
    const I start = i_set(starts[t * stride]);
    HGX_UNROLL for (int p = 0; p < P; ++p) sum[p][t] = start;
  }
}

/* Even: halves are 0 and not looked at. */
enum Passes { ONE_EVEN, ONE_ODD, TWO };

/* n of a block, times scale, to s1. */
template <int P, int T>
HGX_INLINE void finish_tile(const Tile &of, const F (&n)[P][T], int term, const float *scales, const float *zeros,
                            float *s1) {
  F scale[P];
  HGX_UNROLL for (int p = 0; p < P; ++p) scale[p] = f_load(scales + p * 16);
  if (zeros) {
    HGX_UNROLL for (int p = 0; p < P; ++p) {
      const F zero = f_load(zeros + p * 16);
      HGX_UNROLL for (int t = 0; t < T; ++t) {
        const F moved = f_fnma(zero, f_set(of.sums[term + t * of.terms_stride]), n[p][t]);
        float *const place = s1 + (t * P + p) * 16;
        f_store(place, f_fma(moved, scale[p], f_load(place)));
      }
    }
    return;
  }
  HGX_UNROLL for (int p = 0; p < P; ++p) {
    HGX_UNROLL for (int t = 0; t < T; ++t) {
      float *const place = s1 + (t * P + p) * 16;
      f_store(place, f_fma(n[p][t], scale[p], f_load(place)));
    }
  }
}

template <int P, int T, Passes PASSES, bool SMALL>
HGX_FUNCTION void tile(const Plan &plan, const Tile &of) {
  const uint8_t *lines = of.lines;
  const float *scales = of.scales, *zeros = of.zeros;
  const int8_t *q1 = of.q1, *q2 = of.q2;
  alignas(64) float s1[P * T * 16];
  for (int u = 0; u < of.units; ++u) {
    const int width = unit_width(plan, of.unit + u), groups = (width + 31) / 32, blocks = blocks_of(plan, width);
    HGX_TILE(f_store(s1 + (t * P + p) * 16, f_zero()));
    for (int block = 0; block < blocks; ++block) {
      const int rest = groups * 8 - block * plan.block / 4, most = plan.block / 4, quads = rest < most ? rest : most;
      const int term = u * plan.blocks + block;
      const int64_t at = block * plan.block;
      I sum[P][T];
      F n[P][T];
      begin_sums<P, T>(sum, of.starts + term, of.terms_stride);
      dot_lines<P, T, SMALL>(sum, lines + at * 16, q1 + at, of.stride, quads);
      HGX_TILE(n[p][t] = f_from_i(sum[p][t]));
      if (PASSES == TWO) {
        alignas(64) float first[P * T * 16];
        HGX_TILE(f_store(first + (t * P + p) * 16, n[p][t]));
        begin_sums<P, T>(sum, of.starts2 + term, of.terms_stride);
        dot_lines<P, T, SMALL>(sum, lines + at * 16, q2 + at, of.stride, quads);
        HGX_UNROLL for (int t = 0; t < T; ++t) {
          const F half = f_set(of.halves[term + t * of.terms_stride]);
          HGX_UNROLL for (int p = 0; p < P; ++p) {
            n[p][t] = f_fma(f_load(first + (t * P + p) * 16), f_set(254.0f), f_add(f_from_i(sum[p][t]), half));
          }
        }
      } else if (PASSES == ONE_ODD) {
        HGX_UNROLL for (int t = 0; t < T; ++t) {
          const F half = f_set(of.halves[term + t * of.terms_stride]);
          HGX_UNROLL for (int p = 0; p < P; ++p) n[p][t] = f_add(n[p][t], half);
        }
      }
      const int place = block * P * 16;
      finish_tile<P, T>(of, n, term, scales + place, zeros ? zeros + place : nullptr, s1);
    }
    HGX_UNROLL for (int t = 0; t < T; ++t) {
      const F gain = f_set(of.gains[u + t * of.gains_stride]);
      HGX_UNROLL for (int p = 0; p < P; ++p) {
        float *const acc = of.acc + (t * P + p) * 16;
        f_store(acc, f_fma(f_load(s1 + (t * P + p) * 16), gain, f_load(acc)));
      }
    }
    lines += P * 2048;
    scales += plan.blocks * P * 16;
    if (zeros) zeros += plan.blocks * P * 16;
    q1 += 128;
    if (PASSES == TWO) q2 += 128;
  }
}

/* Sums of one block, BLOCK inputs of every token, to n. */
template <int P, int T, int BLOCK, bool SMALL>
HGX_INLINE void dot_block(I (&sum)[P][T], const int32_t *starts, int stride, const uint8_t *lines,
                          const int8_t *const *row, int64_t at) {
  HGX_UNROLL for (int t = 0; t < T; ++t) {
    const I start = i_set(starts[t * stride]);
    HGX_UNROLL for (int p = 0; p < P; ++p) sum[p][t] = start;
  }
  for (int group = 0; group < BLOCK; group += 32) {
    HGX_UNROLL for (int quad = 0; quad < 8; ++quad) {
      B w[P];
      HGX_UNROLL for (int p = 0; p < P; ++p) w[p] = b_load(lines + p * 2048 + group * 16 + quad * 64);
      HGX_UNROLL for (int t = 0; t < T; ++t) {
        const int32_t value = load_quad(row[t] + at + group + quad * 4);
        HGX_UNROLL for (int p = 0; p < P; ++p) sum[p][t] = dot<SMALL>(sum[p][t], w[p], value);
      }
    }
    HGX_UNROLL for (int p = 0; p < P; ++p) HGX_UNROLL for (int t = 0; t < T; ++t) i_keep(sum[p][t]);
  }
}

/* `tile` for whole units without zero points: ONE_EVEN and TWO. The same bits, fewer steps. */
template <int P, int T, Passes PASSES, int BLOCK, bool SMALL>
HGX_FUNCTION void whole_tile(const Plan &, const Tile &of) {
  constexpr int BLOCKS = 128 / BLOCK;
  alignas(64) float s1[P * T * 16], first[P * T * 16];
  alignas(64) int32_t starts[T * BLOCKS], starts2[T * BLOCKS];
  float halves[T * BLOCKS];
  const int8_t *row[T], *row2[T];
  HGX_UNROLL for (int t = 0; t < T; ++t) row[t] = of.q1 + t * of.stride;
  if (PASSES == TWO) HGX_UNROLL for (int t = 0; t < T; ++t) row2[t] = of.q2 + t * of.stride;
  for (int u = 0; u < of.units; ++u) {
    const uint8_t *const lines = of.lines + u * P * 2048;
    const float *const scales = of.scales + u * BLOCKS * P * 16;
    HGX_UNROLL for (int t = 0; t < T; ++t) {
      const int64_t from = t * of.terms_stride + u * BLOCKS;
      memcpy(starts + t * BLOCKS, of.starts + from, 4 * BLOCKS);
      if (PASSES == TWO) memcpy(starts2 + t * BLOCKS, of.starts2 + from, 4 * BLOCKS);
      if (PASSES == TWO) memcpy(halves + t * BLOCKS, of.halves + from, 4 * BLOCKS);
    }
    HGX_UNROLL for (int block = 0; block < BLOCKS; ++block) {
      I sum[P][T];
      dot_block<P, T, BLOCK, SMALL>(sum, starts + block, BLOCKS, lines + block * BLOCK * 16, row, u * 128 + block * BLOCK);
      if (PASSES == TWO) {
        HGX_TILE(f_store(first + (t * P + p) * 16, f_from_i(sum[p][t])));
        dot_block<P, T, BLOCK, SMALL>(sum, starts2 + block, BLOCKS, lines + block * BLOCK * 16, row2,
                                      u * 128 + block * BLOCK);
      }
      HGX_UNROLL for (int p = 0; p < P; ++p) {
        const F scale = f_load(scales + (block * P + p) * 16);
        HGX_UNROLL for (int t = 0; t < T; ++t) {
          float *const place = s1 + (t * P + p) * 16, *const acc = of.acc + (t * P + p) * 16;
          F n = f_from_i(sum[p][t]);
          if (PASSES == TWO) {
            const F rest = f_add(n, f_set(halves[t * BLOCKS + block]));
            n = f_fma(f_load(first + (t * P + p) * 16), f_set(254.0f), rest);
          }
          n = block == 0 ? f_mul(n, scale) : f_fma(n, scale, f_load(place));
          if (block + 1 < BLOCKS) f_store(place, n);
          else f_store(acc, f_fma(n, f_set(of.gains[u + t * of.gains_stride]), f_load(acc)));
        }
      }
    }
  }
}

/* `low` of zero points `min`: the same for every mode; gains are 1 in float mode. */
HGX_FUNCTION void add_lows(const Plan &plan, const Tile &of, int panels, int tokens, const float *minima, float *low) {
  for (int t = 0; t < tokens; ++t) {
    for (int p = 0; p < panels; ++p) {
      float *const place = low + (t * panels + p) * 16;
      F sum = f_load(place);
      for (int u = 0; u < of.units; ++u) {
        const int blocks = blocks_of(plan, unit_width(plan, of.unit + u));
        F m1 = f_zero();
        for (int block = 0; block < blocks; ++block) {
          const F a = f_set(of.sums[t * of.terms_stride + u * plan.blocks + block]);
          const float *const m = minima + ((u * plan.blocks + block) * panels + p) * 16;
          m1 = plan.matrix->block == 0 ? a : f_fma(f_load(m), a, m1);
        }
        const F gain = f_set(of.gains[t * of.gains_stride + u]);
        sum = plan.mode == HGX_FLOAT ? f_add(sum, m1) : f_fma(m1, gain, sum);
      }
      f_store(place, sum);
    }
  }
}

typedef void (*Tiles)(const Plan &, const Tile &);
