/* 16 lanes as two halves on AVX2, with FMA and F16C (HGX_AVXVNNI: + AVX-VNNI). */
#pragma once

struct F { __m256 a, b; };
struct I { __m256i a, b; };
struct B { __m256i a, b; };
struct M { __m256 a, b; };

#ifdef HGX_AVXVNNI
constexpr int DOT_BIAS = 0;
#else
constexpr int DOT_BIAS = 128;
#endif
/* Register tiles of products with many tokens: panels x tokens. */
constexpr int TILE_PANELS = 1, TILE_TOKENS = 4;
constexpr int FLOAT_PANELS = 1, FLOAT_TOKENS = 5;

#define HGX_EACH(type, f, x, y) type { f((x).a, (y).a), f((x).b, (y).b) }

HGX_INLINE __m256i h_first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
HGX_INLINE M m_first(int n) { return M{_mm256_castsi256_ps(h_first(n)), _mm256_castsi256_ps(h_first(n - 8))}; }
/* n <= 16 numbers of 16 bits, in memory of our own so that none is read or written beyond n. */
struct Words { alignas(32) uint16_t v[16]; };
HGX_INLINE Words w_load_n(const uint16_t *p, int n) {
  Words words;
  memset(&words, 0, sizeof words);
  memcpy(words.v, p, static_cast<size_t>(n) * 2);
  return words;
}

/* binary32 */
HGX_INLINE F f_zero() { return F{_mm256_setzero_ps(), _mm256_setzero_ps()}; }
HGX_INLINE F f_set(float x) { return F{_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
HGX_INLINE F f_load(const float *p) { return F{_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
HGX_INLINE F f_load_n(const float *p, int n) {
  const __m256 low = _mm256_maskload_ps(p, h_first(n));
  return F{low, n > 8 ? _mm256_maskload_ps(p + 8, h_first(n - 8)) : _mm256_setzero_ps()};
}
HGX_INLINE void f_store(float *p, F x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
HGX_INLINE void f_store_n(float *p, F x, int n) {
  _mm256_maskstore_ps(p, h_first(n), x.a);
  if (n > 8) _mm256_maskstore_ps(p + 8, h_first(n - 8), x.b);
}
HGX_INLINE F f_add(F x, F y) { return HGX_EACH(F, _mm256_add_ps, x, y); }
HGX_INLINE F f_sub(F x, F y) { return HGX_EACH(F, _mm256_sub_ps, x, y); }
HGX_INLINE F f_mul(F x, F y) { return HGX_EACH(F, _mm256_mul_ps, x, y); }
HGX_INLINE F f_div(F x, F y) { return HGX_EACH(F, _mm256_div_ps, x, y); }
HGX_INLINE F f_fma(F x, F y, F z) { return F{_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
HGX_INLINE F f_fnma(F x, F y, F z) { return F{_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)}; }
HGX_INLINE F f_max(F x, F y) { return HGX_EACH(F, _mm256_max_ps, x, y); }
HGX_INLINE F f_min(F x, F y) { return HGX_EACH(F, _mm256_min_ps, x, y); }
HGX_INLINE F f_neg(F x) { return HGX_EACH(F, _mm256_xor_ps, x, f_set(-0.0f)); }
HGX_INLINE F f_abs(F x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return F{_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
HGX_INLINE F f_sqrt(F x) { return F{_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }
HGX_INLINE F f_round(F x) { return F{_mm256_round_ps(x.a, 8), _mm256_round_ps(x.b, 8)}; }
HGX_INLINE F f_from_i(I x) { return F{_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
HGX_INLINE I f_to_i(F x) { return I{_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
HGX_INLINE I f_bits(F x) { return I{_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
HGX_INLINE F f_of_bits(I x) { return F{_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
HGX_INLINE __m256 h_power(__m256i e) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(127)), 23));
}
HGX_INLINE F f_scale2(F x, I e) { return F{_mm256_mul_ps(x.a, h_power(e.a)), _mm256_mul_ps(x.b, h_power(e.b))}; }
HGX_INLINE M f_less(F x, F y) {
  return M{_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)};
}
HGX_INLINE F f_select(M m, F x, F y) { return F{_mm256_blendv_ps(y.a, x.a, m.a), _mm256_blendv_ps(y.b, x.b, m.b)}; }
HGX_INLINE F f_from_f16(const uint16_t *p) {
  const __m128i low = _mm_loadu_si128((const __m128i *)p), high = _mm_loadu_si128((const __m128i *)(p + 8));
  return F{_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)};
}
HGX_INLINE F f_from_f16_n(const uint16_t *p, int n) {
  const Words words = w_load_n(p, n);
  return f_from_f16(words.v);
}
HGX_INLINE __m256 h_from_bf16(const uint16_t *p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
HGX_INLINE F f_from_bf16(const uint16_t *p) { return F{h_from_bf16(p), h_from_bf16(p + 8)}; }
HGX_INLINE F f_from_bf16_n(const uint16_t *p, int n) {
  const Words words = w_load_n(p, n);
  return f_from_bf16(words.v);
}
HGX_INLINE void f_to_f16(uint16_t *p, F x) {
  _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
HGX_INLINE void f_to_f16_n(uint16_t *p, F x, int n) {
  Words words;
  f_to_f16(words.v, x);
  memcpy(p, words.v, static_cast<size_t>(n) * 2);
}
HGX_INLINE __m128i h_to_bf16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i near = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i r = _mm256_srli_epi32(_mm256_blendv_epi8(near, quiet, nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}
HGX_INLINE void f_to_bf16(uint16_t *p, F x) {
  _mm_storeu_si128((__m128i *)p, h_to_bf16(x.a));
  _mm_storeu_si128((__m128i *)(p + 8), h_to_bf16(x.b));
}
HGX_INLINE void f_to_bf16_n(uint16_t *p, F x, int n) {
  Words words;
  f_to_bf16(words.v, x);
  memcpy(p, words.v, static_cast<size_t>(n) * 2);
}
HGX_INLINE __m256i h_from_u8(const uint8_t *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)); }
HGX_INLINE F f_from_u8(const uint8_t *p) { return f_from_i(I{h_from_u8(p), h_from_u8(p + 8)}); }
/* Rounded to nearest even and narrowed; |x| <= 127. */
HGX_INLINE void f_to_s8(int8_t *p, F x) {
  const I i = f_to_i(x);
  const __m128i low = _mm_packs_epi32(_mm256_castsi256_si128(i.a), _mm256_extracti128_si256(i.a, 1));
  const __m128i high = _mm_packs_epi32(_mm256_castsi256_si128(i.b), _mm256_extracti128_si256(i.b, 1));
  _mm_storeu_si128((__m128i *)p, _mm_packs_epi16(low, high));
}
/* The same to 16 bits; |x| <= 32767. */
HGX_INLINE void f_to_s16(int16_t *p, F x) {
  const I i = f_to_i(x);
  const __m256i pairs = _mm256_packs_epi32(i.a, i.b);
  _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(pairs, 0xd8));
}
HGX_INLINE float f_sum(F x) {
  const __m256 h = _mm256_add_ps(x.a, x.b);
  const __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps(d, d, 1)));
}
HGX_INLINE float f_max_all(F x) {
  const __m256 h = _mm256_max_ps(x.a, x.b);
  const __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  const __m128 d = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(d, _mm_shuffle_ps(d, d, 1)));
}
/* One stage of butterflies between lanes l and l + stride (1, 2, 4, 8): sums below, differences above. */
#define HGX_STAGE(x, other, upper) _mm256_blend_ps(_mm256_add_ps(x, other), _mm256_sub_ps(other, x), upper)
HGX_INLINE __m256 h_pair1(__m256 x) { return HGX_STAGE(x, _mm256_permute_ps(x, 0xb1), 0xaa); }
HGX_INLINE __m256 h_pair2(__m256 x) { return HGX_STAGE(x, _mm256_permute_ps(x, 0x4e), 0xcc); }
HGX_INLINE __m256 h_pair4(__m256 x) { return HGX_STAGE(x, _mm256_permute2f128_ps(x, x, 1), 0xf0); }
HGX_INLINE F f_pair1(F x) { return F{h_pair1(x.a), h_pair1(x.b)}; }
HGX_INLINE F f_pair2(F x) { return F{h_pair2(x.a), h_pair2(x.b)}; }
HGX_INLINE F f_pair4(F x) { return F{h_pair4(x.a), h_pair4(x.b)}; }
HGX_INLINE F f_pair8(F x) { return F{_mm256_add_ps(x.a, x.b), _mm256_sub_ps(x.a, x.b)}; }

/* int32, wrapping */
HGX_INLINE I i_zero() { return I{_mm256_setzero_si256(), _mm256_setzero_si256()}; }
HGX_INLINE I i_set(int32_t x) { return I{_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
HGX_INLINE I i_load(const int32_t *p) {
  return I{_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 8))};
}
HGX_INLINE void i_store(int32_t *p, I x) {
  _mm256_storeu_si256((__m256i *)p, x.a);
  _mm256_storeu_si256((__m256i *)(p + 8), x.b);
}
HGX_INLINE I i_add(I x, I y) { return HGX_EACH(I, _mm256_add_epi32, x, y); }
HGX_INLINE I i_sub(I x, I y) { return HGX_EACH(I, _mm256_sub_epi32, x, y); }
HGX_INLINE I i_mul(I x, I y) { return HGX_EACH(I, _mm256_mullo_epi32, x, y); }
HGX_INLINE I i_shl(I x, int n) {
  const __m128i count = _mm_cvtsi32_si128(n);
  return I{_mm256_sll_epi32(x.a, count), _mm256_sll_epi32(x.b, count)};
}
HGX_INLINE I i_shr(I x, int n) {
  const __m128i count = _mm_cvtsi32_si128(n);
  return I{_mm256_srl_epi32(x.a, count), _mm256_srl_epi32(x.b, count)};
}
HGX_INLINE I i_sar(I x, int n) {
  const __m128i count = _mm_cvtsi32_si128(n);
  return I{_mm256_sra_epi32(x.a, count), _mm256_sra_epi32(x.b, count)};
}
HGX_INLINE I i_and(I x, I y) { return HGX_EACH(I, _mm256_and_si256, x, y); }
HGX_INLINE I i_or(I x, I y) { return HGX_EACH(I, _mm256_or_si256, x, y); }
HGX_INLINE I i_xor(I x, I y) { return HGX_EACH(I, _mm256_xor_si256, x, y); }
HGX_INLINE I i_max(I x, I y) { return HGX_EACH(I, _mm256_max_epi32, x, y); }
HGX_INLINE I i_min(I x, I y) { return HGX_EACH(I, _mm256_min_epi32, x, y); }
HGX_INLINE __m256i h_from_s8(const int8_t *p) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)); }
HGX_INLINE I i_from_s8(const int8_t *p) { return I{h_from_s8(p), h_from_s8(p + 8)}; }
HGX_INLINE int32_t i_sum(I x) {
  const __m256i h = _mm256_add_epi32(x.a, x.b);
  const __m128i q = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  const __m128i d = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(d, _mm_shuffle_epi32(d, 0xb1)));
}
HGX_INLINE int32_t i_max_all(I x) {
  const __m256i h = _mm256_max_epi32(x.a, x.b);
  const __m128i q = _mm_max_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  const __m128i d = _mm_max_epi32(q, _mm_shuffle_epi32(q, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(d, _mm_shuffle_epi32(d, 0xb1)));
}

/* Bytes: 16 lanes of 4 */
HGX_INLINE __m256i h_set(uint8_t x) { return _mm256_set1_epi8(static_cast<char>(x)); }
HGX_INLINE B b_set(uint8_t x) { return B{h_set(x), h_set(x)}; }
HGX_INLINE B b_load(const void *p) {
  return B{_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)p + 1)};
}
HGX_INLINE B b_load_n(const void *p, int n) {
  alignas(32) uint8_t line[64] = {0};
  memcpy(line, p, static_cast<size_t>(n < 64 ? n : 64));
  return b_load(line);
}
/* In registers from here on: an unaligned line that is used several times is then loaded once. */
HGX_INLINE void b_keep(B &x) { __asm__("" : "+x"(x.a), "+x"(x.b)); }
HGX_INLINE void i_keep(I &x) { __asm__("" : "+x"(x.a), "+x"(x.b)); }
HGX_INLINE void f_keep(F &x) { __asm__("" : "+x"(x.a), "+x"(x.b)); }
HGX_INLINE void b_store(void *p, B x) {
  _mm256_storeu_si256((__m256i *)p, x.a);
  _mm256_storeu_si256((__m256i *)p + 1, x.b);
}
HGX_INLINE B b_and(B x, uint8_t mask) { return HGX_EACH(B, _mm256_and_si256, x, b_set(mask)); }
HGX_INLINE B b_or(B x, B y) { return HGX_EACH(B, _mm256_or_si256, x, y); }
HGX_INLINE B b_xor(B x, uint8_t mask) { return HGX_EACH(B, _mm256_xor_si256, x, b_set(mask)); }
HGX_INLINE B b_shr(B x, int n) {
  const __m128i count = _mm_cvtsi32_si128(n);
  return b_and(B{_mm256_srl_epi16(x.a, count), _mm256_srl_epi16(x.b, count)}, uint8_t(0xff >> n));
}
HGX_INLINE B b_shl(B x, int n) {
  const __m128i count = _mm_cvtsi32_si128(n);
  return b_and(B{_mm256_sll_epi16(x.a, count), _mm256_sll_epi16(x.b, count)}, uint8_t(0xff << n));
}
/* Shift right by S, or left by -S, within 16 bits: bits of the neighbour come in. */
template <int S>
HGX_INLINE B b_shift(B x) {
  if (S > 0) return B{_mm256_srli_epi16(x.a, S > 0 ? S : 0), _mm256_srli_epi16(x.b, S > 0 ? S : 0)};
  if (S < 0) return B{_mm256_slli_epi16(x.a, S < 0 ? -S : 0), _mm256_slli_epi16(x.b, S < 0 ? -S : 0)};
  return x;
}
/* (x & mask) | (y & ~mask) */
HGX_INLINE B b_merge(B x, B y, uint8_t mask) { return b_or(b_and(x, mask), b_and(y, uint8_t(~mask))); }
/* Byte j of each lane, as an unsigned or a signed number. */
template <int J>
HGX_INLINE I b_unsigned(B x) {
  const I shifted = J ? I{_mm256_srli_epi32(x.a, 8 * J), _mm256_srli_epi32(x.b, 8 * J)} : I{x.a, x.b};
  return J == 3 ? shifted : i_and(shifted, i_set(255));
}
template <int J>
HGX_INLINE I b_signed(B x) {
  constexpr int up = 24 - 8 * J;
  return I{_mm256_srai_epi32(_mm256_slli_epi32(x.a, up), 24), _mm256_srai_epi32(_mm256_slli_epi32(x.b, up), 24)};
}

/* Entries for codes of 2 to 5 bits; bits of the index above that are ignored. */
struct Table { __m256i low, high; };
HGX_INLINE Table t_make(const int8_t *entries, int bits, uint8_t flip) {
  alignas(32) uint8_t line[64];
  for (int i = 0; i < 32; ++i) {
    line[i] = uint8_t(uint8_t(entries[i & 15 & ((1 << bits) - 1)]) ^ flip);
    line[32 + i] = uint8_t(uint8_t(entries[bits == 5 ? 16 + (i & 15) : 0]) ^ flip);
  }
  const B both = b_load(line);
  return Table{both.a, both.b};
}
template <int BITS>
HGX_INLINE __m256i h_lookup(const Table &t, __m256i index) {
  const __m256i nibble = _mm256_and_si256(index, h_set(15));
  const __m256i low = _mm256_shuffle_epi8(t.low, nibble);
  if (BITS < 5) return low;
  return _mm256_blendv_epi8(low, _mm256_shuffle_epi8(t.high, nibble), _mm256_slli_epi16(index, 3));
}
template <int BITS>
HGX_INLINE B b_lookup(const Table &t, B index) { return B{h_lookup<BITS>(t, index.a), h_lookup<BITS>(t, index.b)}; }

/* acc[lane] += sum_j w[lane][j] * q[j], exact for q from -127 to 127. i_dot: bytes of w are numbers from 0 to 255
 * minus DOT_BIAS; i_dot_small: numbers from 0 to 127. */
#ifdef HGX_AVXVNNI
HGX_INLINE I i_dot(I acc, B w, int32_t q) {
  const __m256i value = _mm256_set1_epi32(q);
  return I{_mm256_dpbusd_avx_epi32(acc.a, w.a, value), _mm256_dpbusd_avx_epi32(acc.b, w.b, value)};
}
HGX_INLINE I i_dot_small(I acc, B w, int32_t q) { return i_dot(acc, w, q); }
#else
HGX_INLINE __m256i h_dot(__m256i acc, __m256i w, __m256i q) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, q), _mm256_set1_epi16(1)));
}
HGX_INLINE I i_dot_small(I acc, B w, int32_t q) {
  const __m256i value = _mm256_set1_epi32(q);
  return I{h_dot(acc.a, w.a, value), h_dot(acc.b, w.b, value)};
}
/* |w| times q with the sign of w: 128 * 127 * 2 fits 16 bits. */
HGX_INLINE I i_dot(I acc, B w, int32_t q) {
  const __m256i value = _mm256_set1_epi32(q);
  return I{h_dot(acc.a, _mm256_abs_epi8(w.a), _mm256_sign_epi8(value, w.a)),
           h_dot(acc.b, _mm256_abs_epi8(w.b), _mm256_sign_epi8(value, w.b))};
}
#endif

/* acc[lane] += low w[lane] * low q + high w[lane] * high q: halves of 16 bits, no sum beyond 32. */
HGX_INLINE I i_dot_pairs(I acc, I w, int32_t q) {
  const __m256i value = _mm256_set1_epi32(q);
#ifdef HGX_AVXVNNI
  return I{_mm256_dpwssd_avx_epi32(acc.a, w.a, value), _mm256_dpwssd_avx_epi32(acc.b, w.b, value)};
#else
  return I{_mm256_add_epi32(acc.a, _mm256_madd_epi16(w.a, value)),
           _mm256_add_epi32(acc.b, _mm256_madd_epi16(w.b, value))};
#endif
}

HGX_INLINE void prefetch(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T1); }
HGX_INLINE void prefetch_near(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }
HGX_INLINE void prefetch_write(const void *p) { __builtin_prefetch(p, 1); }
