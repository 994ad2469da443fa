/* Products in binary32: levels of a unit are unpacked once, then used by every token. */
#pragma once

/* Operands of one unit to levels 2 u - centre: [128][panels][16] from lines [32][64]; panel `p` of them. */
template <bool SMALL>
HGX_FUNCTION void levels_of(const Plan &plan, const uint8_t *lines, int quads, int panels, int p, float *levels) {
  const F two = f_set(2.0f), lift = f_set(plan.lift);
  constexpr bool is_signed = !SMALL && DOT_BIAS != 0;
  for (int quad = 0; quad < quads; ++quad) {
    const B w = b_load(lines + quad * 64);
    float *const place = levels + (quad * 4 * panels + p) * 16;
    const I i0 = is_signed ? b_signed<0>(w) : b_unsigned<0>(w), i1 = is_signed ? b_signed<1>(w) : b_unsigned<1>(w);
    const I i2 = is_signed ? b_signed<2>(w) : b_unsigned<2>(w), i3 = is_signed ? b_signed<3>(w) : b_unsigned<3>(w);
    f_store(place, f_fma(f_from_i(i0), two, lift));
    f_store(place + panels * 16, f_fma(f_from_i(i1), two, lift));
    f_store(place + panels * 32, f_fma(f_from_i(i2), two, lift));
    f_store(place + panels * 48, f_fma(f_from_i(i3), two, lift));
  }
}

struct FloatTile {
  const float *levels; /* [128][panels][16] */
  const float *scales; /* [blocks][panels][16] */
  const float *zeros;  /* likewise; NULL: none */
  const float *x;      /* first token, this unit; rows `stride` apart */
  int64_t stride;
  const float *sums; /* first token, this unit; rows terms_stride apart */
  int64_t terms_stride;
  float *acc; /* [tokens][panels][16] */
  int64_t unit;
};

/* Sum over the inputs of a block with one remainder modulo 4. */
template <int P, int T>
HGX_INLINE void sum_quarter(F (&sum)[P][T], const float *levels, const float *x, int64_t stride, int quads) {
  HGX_UNROLL for (int p = 0; p < P; ++p) HGX_UNROLL for (int t = 0; t < T; ++t) sum[p][t] = f_zero();
  int64_t quad = 0;
  do {
    F w[P];
    HGX_UNROLL for (int p = 0; p < P; ++p) w[p] = f_load(levels + quad * 4 * P * 16 + p * 16);
    HGX_UNROLL for (int t = 0; t < T; ++t) {
      const F value = f_set(x[t * stride + quad * 4]);
      HGX_UNROLL for (int p = 0; p < P; ++p) sum[p][t] = f_fma(w[p], value, sum[p][t]);
    }
  } while (++quad < quads);
}

template <int P, int T>
HGX_FUNCTION void float_tile(const Plan &plan, const FloatTile &of) {
  const int width = unit_width(plan, of.unit), groups = (width + 31) / 32;
  const int blocks = blocks_of(plan, width);
  F s1[P][T];
  HGX_TILE(s1[p][t] = f_zero());
  for (int block = 0; block < blocks; ++block) {
    const int rest = groups * 8 - block * plan.block / 4, most = plan.block / 4, quads = rest < most ? rest : most;
    const float *const levels = of.levels + block * plan.block * P * 16, *const x = of.x + block * plan.block;
    F quarter[P][T], first[P][T], second[P][T];
    sum_quarter<P, T>(first, levels, x, of.stride, quads);
    sum_quarter<P, T>(quarter, levels + P * 16, x + 1, of.stride, quads);
    HGX_TILE(first[p][t] = f_add(first[p][t], quarter[p][t]));
    sum_quarter<P, T>(second, levels + P * 32, x + 2, of.stride, quads);
    sum_quarter<P, T>(quarter, levels + P * 48, x + 3, of.stride, quads);
    HGX_UNROLL for (int p = 0; p < P; ++p) {
      const F scale = f_load(of.scales + (block * P + p) * 16);
      HGX_UNROLL for (int t = 0; t < T; ++t) {
        F n = f_add(first[p][t], f_add(second[p][t], quarter[p][t]));
        if (of.zeros) {
          n = f_fnma(f_load(of.zeros + (block * P + p) * 16), f_set(of.sums[block + t * of.terms_stride]), n);
        }
        s1[p][t] = f_fma(n, scale, s1[p][t]);
      }
    }
  }
  HGX_UNROLL for (int t = 0; t < T; ++t) {
    HGX_UNROLL for (int p = 0; p < P; ++p) {
      float *const acc = of.acc + (t * P + p) * 16;
      f_store(acc, f_add(f_load(acc), s1[p][t]));
    }
  }
}

typedef void (*FloatTiles)(const Plan &, const FloatTile &);
