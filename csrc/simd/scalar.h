/* 16 lanes in plain C++: what every other header of simd/ must equal to the bit. */
#pragma once

/* The lanes are loops already, and what is small is the compiler's choice. */
#define HGX_TILES_ONLY /* no copy of the one-token kernel for each kind of code */
#undef HGX_UNROLL
#define HGX_UNROLL
#undef HGX_INLINE
#define HGX_INLINE static inline __attribute__((unused))

struct F { float v[16]; };
struct I { int32_t v[16]; };
struct B { uint8_t v[64]; };
typedef uint32_t M; /* bit l: lane l */

constexpr int DOT_BIAS = 0;
constexpr int TILE_PANELS = 1, TILE_TOKENS = 4;
constexpr int FLOAT_PANELS = 1, FLOAT_TOKENS = 4;

#define HGX_LANES(type, expression)       \
  type r;                                 \
  for (int l = 0; l < 16; ++l) r.v[l] = (expression); \
  return r

HGX_INLINE M m_first(int n) { return (1u << n) - 1u; }

HGX_INLINE uint32_t s_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
HGX_INLINE float s_of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
HGX_INLINE float s_from_f16(uint16_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 0x3ffu;
  if (exponent == 31) return s_of_bits(sign | 0x7f800000u | (fraction ? 0x400000u : 0u) | fraction << 13);
  if (exponent) return s_of_bits(sign | (exponent + 112u) << 23 | fraction << 13);
  const float small = static_cast<float>(fraction) * 0x1p-24f;
  return s_of_bits(sign | s_bits(small));
}
HGX_INLINE uint16_t s_to_f16(float x) {
  const uint32_t bits = s_bits(x), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return uint16_t(sign | 0x7e00u | (size >> 13 & 0x3ffu));
  if (size >= 0x477ff000u) return uint16_t(sign | 0x7c00u);
  if (size < 0x38800000u) {
    const float shifted = s_of_bits(size) + 0.5f; /* ulp of 0.5 is 2^-24: rounds as a subnormal does */
    return uint16_t(sign | (s_bits(shifted) - s_bits(0.5f)));
  }
  return uint16_t(sign | ((size + 0xfffu + (size >> 13 & 1u) - (112u << 23)) >> 13));
}
HGX_INLINE uint16_t s_to_bf16(float x) {
  const uint32_t bits = s_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t(bits >> 16 | 0x40u);
  return uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
HGX_INLINE int32_t s_to_i(float x) {
  return x >= -2147483648.0f && x < 2147483648.0f ? static_cast<int32_t>(__builtin_rintf(x)) : INT32_MIN;
}
HGX_INLINE int32_t s_wrap(uint32_t x) {
  int32_t r;
  memcpy(&r, &x, 4);
  return r;
}

/* binary32 */
HGX_INLINE F f_set(float x) { HGX_LANES(F, x); }
HGX_INLINE F f_zero() { return f_set(0.0f); }
HGX_INLINE F f_load(const float *p) {
  F r;
  memcpy(&r, p, 64);
  return r;
}
HGX_INLINE F f_load_n(const float *p, int n) { HGX_LANES(F, l < n ? p[l] : 0.0f); }
HGX_INLINE void f_store(float *p, F x) { memcpy(p, &x, 64); }
HGX_INLINE void f_store_n(float *p, F x, int n) {
  for (int l = 0; l < n; ++l) p[l] = x.v[l];
}
HGX_INLINE F f_add(F a, F b) { HGX_LANES(F, a.v[l] + b.v[l]); }
HGX_INLINE F f_sub(F a, F b) { HGX_LANES(F, a.v[l] - b.v[l]); }
HGX_INLINE F f_mul(F a, F b) { HGX_LANES(F, a.v[l] * b.v[l]); }
HGX_INLINE F f_div(F a, F b) { HGX_LANES(F, a.v[l] / b.v[l]); }
HGX_INLINE F f_fma(F a, F b, F c) { HGX_LANES(F, __builtin_fmaf(a.v[l], b.v[l], c.v[l])); }
HGX_INLINE F f_fnma(F a, F b, F c) { HGX_LANES(F, __builtin_fmaf(-a.v[l], b.v[l], c.v[l])); }
HGX_INLINE F f_max(F a, F b) { HGX_LANES(F, a.v[l] > b.v[l] ? a.v[l] : b.v[l]); }
HGX_INLINE F f_min(F a, F b) { HGX_LANES(F, a.v[l] < b.v[l] ? a.v[l] : b.v[l]); }
HGX_INLINE F f_abs(F a) { HGX_LANES(F, s_of_bits(s_bits(a.v[l]) & 0x7fffffffu)); }
HGX_INLINE F f_neg(F a) { HGX_LANES(F, s_of_bits(s_bits(a.v[l]) ^ 0x80000000u)); }
HGX_INLINE F f_sqrt(F a) { HGX_LANES(F, __builtin_sqrtf(a.v[l])); }
HGX_INLINE F f_round(F a) { HGX_LANES(F, __builtin_rintf(a.v[l])); }
HGX_INLINE F f_from_i(I a) { HGX_LANES(F, static_cast<float>(a.v[l])); }
HGX_INLINE I f_to_i(F a) { HGX_LANES(I, s_to_i(a.v[l])); }
HGX_INLINE I f_bits(F a) { HGX_LANES(I, s_wrap(s_bits(a.v[l]))); }
HGX_INLINE F f_of_bits(I a) { HGX_LANES(F, s_of_bits(static_cast<uint32_t>(a.v[l]))); }
HGX_INLINE F f_scale2(F a, I e) {
  HGX_LANES(F, a.v[l] * s_of_bits(static_cast<uint32_t>(e.v[l] + 127) << 23));
}
HGX_INLINE M f_less(F a, F b) {
  M m = 0;
  for (int l = 0; l < 16; ++l) m |= static_cast<M>(a.v[l] < b.v[l]) << l;
  return m;
}
HGX_INLINE F f_select(M m, F a, F b) { HGX_LANES(F, m >> l & 1u ? a.v[l] : b.v[l]); }
HGX_INLINE F f_from_f16_n(const uint16_t *p, int n) {
  F r = f_zero();
  for (int l = 0; l < n; ++l) {
    uint16_t h;
    memcpy(&h, p + l, 2);
    r.v[l] = s_from_f16(h);
  }
  return r;
}
HGX_INLINE F f_from_f16(const uint16_t *p) { return f_from_f16_n(p, 16); }
HGX_INLINE F f_from_bf16_n(const uint16_t *p, int n) {
  F r = f_zero();
  for (int l = 0; l < n; ++l) {
    uint16_t h;
    memcpy(&h, p + l, 2);
    r.v[l] = s_of_bits(static_cast<uint32_t>(h) << 16);
  }
  return r;
}
HGX_INLINE F f_from_bf16(const uint16_t *p) { return f_from_bf16_n(p, 16); }
HGX_INLINE void f_to_f16_n(uint16_t *p, F x, int n) {
  for (int l = 0; l < n; ++l) {
    const uint16_t h = s_to_f16(x.v[l]);
    memcpy(p + l, &h, 2);
  }
}
HGX_INLINE void f_to_f16(uint16_t *p, F x) { f_to_f16_n(p, x, 16); }
HGX_INLINE void f_to_bf16_n(uint16_t *p, F x, int n) {
  for (int l = 0; l < n; ++l) {
    const uint16_t h = s_to_bf16(x.v[l]);
    memcpy(p + l, &h, 2);
  }
}
HGX_INLINE void f_to_bf16(uint16_t *p, F x) { f_to_bf16_n(p, x, 16); }
HGX_INLINE F f_from_u8(const uint8_t *p) { HGX_LANES(F, static_cast<float>(p[l])); }
/* Rounded to nearest even and narrowed; |x| <= 127. */
HGX_INLINE void f_to_s8(int8_t *p, F x) {
  for (int l = 0; l < 16; ++l) p[l] = static_cast<int8_t>(s_to_i(x.v[l]));
}
/* The same to 16 bits; |x| <= 32767. */
HGX_INLINE void f_to_s16(int16_t *p, F x) {
  for (int l = 0; l < 16; ++l) p[l] = static_cast<int16_t>(s_to_i(x.v[l]));
}
HGX_INLINE float f_sum(F x) {
  for (int half = 8; half; half /= 2) {
    for (int l = 0; l < half; ++l) x.v[l] = x.v[l] + x.v[l + half];
  }
  return x.v[0];
}
HGX_INLINE float f_max_all(F x) {
  for (int half = 8; half; half /= 2) {
    for (int l = 0; l < half; ++l) x.v[l] = x.v[l] > x.v[l + half] ? x.v[l] : x.v[l + half];
  }
  return x.v[0];
}
/* One stage of butterflies between lanes l and l + stride (1, 2, 4, 8): sums below, differences above. */
HGX_INLINE F f_stage(F x, int s) { HGX_LANES(F, l & s ? x.v[l - s] - x.v[l] : x.v[l] + x.v[l + s]); }
HGX_INLINE F f_pair1(F x) { return f_stage(x, 1); }
HGX_INLINE F f_pair2(F x) { return f_stage(x, 2); }
HGX_INLINE F f_pair4(F x) { return f_stage(x, 4); }
HGX_INLINE F f_pair8(F x) { return f_stage(x, 8); }

/* int32, wrapping */
#define HGX_WRAP(expression) HGX_LANES(I, s_wrap(expression))
#define HGX_U(x) static_cast<uint32_t>((x).v[l])
HGX_INLINE I i_set(int32_t x) { HGX_LANES(I, x); }
HGX_INLINE I i_zero() { return i_set(0); }
HGX_INLINE I i_load(const int32_t *p) {
  I r;
  memcpy(&r, p, 64);
  return r;
}
HGX_INLINE void i_store(int32_t *p, I x) { memcpy(p, &x, 64); }
HGX_INLINE I i_add(I a, I b) { HGX_WRAP(HGX_U(a) + HGX_U(b)); }
HGX_INLINE I i_sub(I a, I b) { HGX_WRAP(HGX_U(a) - HGX_U(b)); }
HGX_INLINE I i_mul(I a, I b) { HGX_WRAP(HGX_U(a) * HGX_U(b)); }
HGX_INLINE I i_shl(I a, int n) { HGX_WRAP(HGX_U(a) << n); }
HGX_INLINE I i_shr(I a, int n) { HGX_WRAP(HGX_U(a) >> n); }
HGX_INLINE I i_sar(I a, int n) { HGX_LANES(I, a.v[l] >> n); }
HGX_INLINE I i_and(I a, I b) { HGX_LANES(I, a.v[l] & b.v[l]); }
HGX_INLINE I i_or(I a, I b) { HGX_LANES(I, a.v[l] | b.v[l]); }
HGX_INLINE I i_xor(I a, I b) { HGX_LANES(I, a.v[l] ^ b.v[l]); }
HGX_INLINE I i_max(I a, I b) { HGX_LANES(I, a.v[l] > b.v[l] ? a.v[l] : b.v[l]); }
HGX_INLINE I i_min(I a, I b) { HGX_LANES(I, a.v[l] < b.v[l] ? a.v[l] : b.v[l]); }
HGX_INLINE I i_from_s8(const int8_t *p) { HGX_LANES(I, p[l]); }
HGX_INLINE int32_t i_sum(I x) {
  uint32_t sum = 0;
  for (int l = 0; l < 16; ++l) sum += static_cast<uint32_t>(x.v[l]);
  return s_wrap(sum);
}
HGX_INLINE int32_t i_max_all(I x) {
  int32_t most = x.v[0];
  for (int l = 1; l < 16; ++l) most = x.v[l] > most ? x.v[l] : most;
  return most;
}

/* Bytes: 16 lanes of 4 */
#define HGX_BYTES(expression)                                                 \
  B r;                                                                        \
  for (int l = 0; l < 64; ++l) r.v[l] = static_cast<uint8_t>(expression); \
  return r
HGX_INLINE B b_set(uint8_t x) { HGX_BYTES(x); }
HGX_INLINE B b_load(const void *p) {
  B r;
  memcpy(&r, p, 64);
  return r;
}
HGX_INLINE B b_load_n(const void *p, int n) {
  B r = b_set(0);
  memcpy(&r, p, static_cast<size_t>(n < 64 ? n : 64));
  return r;
}
HGX_INLINE void b_keep(B &) {}
HGX_INLINE void i_keep(I &) {}
HGX_INLINE void f_keep(F &) {}
HGX_INLINE void b_store(void *p, B x) { memcpy(p, &x, 64); }
HGX_INLINE B b_and(B a, uint8_t mask) { HGX_BYTES(a.v[l] & mask); }
HGX_INLINE B b_or(B a, B b) { HGX_BYTES(a.v[l] | b.v[l]); }
HGX_INLINE B b_xor(B a, uint8_t mask) { HGX_BYTES(a.v[l] ^ mask); }
HGX_INLINE B b_shr(B a, int n) { HGX_BYTES(a.v[l] >> n); }
HGX_INLINE B b_shl(B a, int n) { HGX_BYTES(a.v[l] << n); }
/* Shift right by S, or left by -S; other headers let bits of the neighbouring byte come in. */
template <int S>
HGX_INLINE B b_shift(B a) {
  return S >= 0 ? b_shr(a, S >= 0 ? S : 0) : b_shl(a, S < 0 ? -S : 0);
}
/* (a & mask) | (b & ~mask) */
HGX_INLINE B b_merge(B a, B b, uint8_t mask) { HGX_BYTES((a.v[l] & mask) | (b.v[l] & ~mask)); }
/* Byte j of each lane, as an unsigned or a signed number. */
template <int J>
HGX_INLINE I b_unsigned(B a) { HGX_LANES(I, a.v[4 * l + J]); }
template <int J>
HGX_INLINE I b_signed(B a) { HGX_LANES(I, static_cast<int8_t>(a.v[4 * l + J])); }

/* Entries for codes of 2 to 5 bits; bits of the index above that are ignored. */
struct Table { uint8_t v[32]; };
HGX_INLINE Table t_make(const int8_t *entries, int bits, uint8_t flip) {
  Table table;
  for (int i = 0; i < 32; ++i) {
    table.v[i] = static_cast<uint8_t>(static_cast<uint8_t>(entries[i & ((1 << bits) - 1)]) ^ flip);
  }
  return table;
}
template <int BITS>
HGX_INLINE B b_lookup(const Table &t, B index) { HGX_BYTES(t.v[index.v[l] & ((1 << BITS) - 1)]); }

/* acc[lane] += sum_j w[lane][j] * q[j]. i_dot: bytes of w are numbers from 0 to 255 minus DOT_BIAS; i_dot_small:
 * numbers from 0 to 127. */
HGX_INLINE I i_dot(I acc, B w, int32_t quad) {
  int8_t q[4];
  memcpy(q, &quad, 4);
  HGX_LANES(I, acc.v[l] + w.v[4 * l] * q[0] + w.v[4 * l + 1] * q[1] + w.v[4 * l + 2] * q[2] + w.v[4 * l + 3] * q[3]);
}
HGX_INLINE I i_dot_small(I acc, B w, int32_t quad) { return i_dot(acc, w, quad); }

/* acc[lane] += low w[lane] * low q + high w[lane] * high q: halves of 16 bits, no sum beyond 32. */
HGX_INLINE I i_dot_pairs(I acc, I w, int32_t pair) {
  const int32_t low = static_cast<int16_t>(pair & 0xffff), high = pair >> 16;
  HGX_LANES(I, acc.v[l] + static_cast<int16_t>(w.v[l] & 0xffff) * low + (w.v[l] >> 16) * high);
}

HGX_INLINE void prefetch(const void *p) { __builtin_prefetch(p); }
HGX_INLINE void prefetch_near(const void *) {}
HGX_INLINE void prefetch_write(const void *p) { __builtin_prefetch(p, 1); }
