/* 16 lanes on AVX-512 (F, BW, VL, DQ; HGX_VNNI: + VNNI; HGX_VBMI: + VBMI), with AVX2, FMA and F16C. */
#pragma once

typedef __m512 F;
typedef __m512i I;
typedef __m512i B;
typedef __mmask16 M;

#ifdef HGX_VNNI
constexpr int DOT_BIAS = 0;
#else
constexpr int DOT_BIAS = 128;
#endif
/* Register tiles of products with many tokens: panels x tokens. */
constexpr int TILE_PANELS = 2, TILE_TOKENS = 8;
constexpr int FLOAT_PANELS = 4, FLOAT_TOKENS = 6;

HGX_INLINE M m_first(int n) { return static_cast<M>((1u << n) - 1u); }

/* binary32 */
HGX_INLINE F f_zero() { return _mm512_setzero_ps(); }
HGX_INLINE F f_set(float x) { return _mm512_set1_ps(x); }
HGX_INLINE F f_load(const float *p) { return _mm512_loadu_ps(p); }
HGX_INLINE F f_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps(m_first(n), p); }
HGX_INLINE void f_store(float *p, F x) { _mm512_storeu_ps(p, x); }
HGX_INLINE void f_store_n(float *p, F x, int n) { _mm512_mask_storeu_ps(p, m_first(n), x); }
HGX_INLINE F f_add(F a, F b) { return _mm512_add_ps(a, b); }
HGX_INLINE F f_sub(F a, F b) { return _mm512_sub_ps(a, b); }
HGX_INLINE F f_mul(F a, F b) { return _mm512_mul_ps(a, b); }
HGX_INLINE F f_div(F a, F b) { return _mm512_div_ps(a, b); }
HGX_INLINE F f_fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
HGX_INLINE F f_fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
HGX_INLINE F f_max(F a, F b) { return _mm512_max_ps(a, b); }
HGX_INLINE F f_min(F a, F b) { return _mm512_min_ps(a, b); }
HGX_INLINE F f_abs(F a) { return _mm512_abs_ps(a); }
HGX_INLINE F f_neg(F a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
HGX_INLINE F f_sqrt(F a) { return _mm512_sqrt_ps(a); }
HGX_INLINE F f_round(F a) { return _mm512_roundscale_ps(a, 8); }
HGX_INLINE F f_from_i(I a) { return _mm512_cvtepi32_ps(a); }
HGX_INLINE I f_to_i(F a) { return _mm512_cvtps_epi32(a); }
HGX_INLINE I f_bits(F a) { return _mm512_castps_si512(a); }
HGX_INLINE F f_of_bits(I a) { return _mm512_castsi512_ps(a); }
HGX_INLINE F f_scale2(F a, I e) {
  const I power = _mm512_slli_epi32(_mm512_add_epi32(e, _mm512_set1_epi32(127)), 23);
  return _mm512_mul_ps(a, _mm512_castsi512_ps(power));
}
HGX_INLINE M f_less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
HGX_INLINE F f_select(M m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }
HGX_INLINE F f_from_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
HGX_INLINE F f_from_f16_n(const uint16_t *p, int n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m_first(n), p)); }
HGX_INLINE F f_wide_bf16(__m256i x) { return f_of_bits(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
HGX_INLINE F f_from_bf16(const uint16_t *p) { return f_wide_bf16(_mm256_loadu_si256((const __m256i *)p)); }
HGX_INLINE F f_from_bf16_n(const uint16_t *p, int n) { return f_wide_bf16(_mm256_maskz_loadu_epi16(m_first(n), p)); }
HGX_INLINE __m256i f_narrow_f16(F x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
HGX_INLINE void f_to_f16(uint16_t *p, F x) { _mm256_storeu_si256((__m256i *)p, f_narrow_f16(x)); }
HGX_INLINE void f_to_f16_n(uint16_t *p, F x, int n) { _mm256_mask_storeu_epi16(p, m_first(n), f_narrow_f16(x)); }
HGX_INLINE __m256i f_narrow_bf16(F x) {
  const I bits = f_bits(x);
  const I odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const I near = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const I quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const M nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(nan, near, quiet), 16));
}
HGX_INLINE void f_to_bf16(uint16_t *p, F x) { _mm256_storeu_si256((__m256i *)p, f_narrow_bf16(x)); }
HGX_INLINE void f_to_bf16_n(uint16_t *p, F x, int n) { _mm256_mask_storeu_epi16(p, m_first(n), f_narrow_bf16(x)); }
HGX_INLINE F f_from_u8(const uint8_t *p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
/* Rounded to nearest even and narrowed; |x| <= 127. */
HGX_INLINE void f_to_s8(int8_t *p, F x) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(f_to_i(x))); }
/* The same to 16 bits; |x| <= 32767. */
HGX_INLINE void f_to_s16(int16_t *p, F x) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(f_to_i(x))); }
HGX_INLINE float f_sum8(__m256 h) {
  const __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps(d, d, 1)));
}
HGX_INLINE float f_sum(F x) { return f_sum8(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1))); }
HGX_INLINE float f_max_all(F x) {
  const __m256 h = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  const __m128 d = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(d, _mm_shuffle_ps(d, d, 1)));
}
/* One stage of butterflies between lanes l and l + stride (1, 2, 4, 8): sums below, differences above. */
HGX_INLINE F f_stage(F x, F other, M upper) { return _mm512_mask_sub_ps(_mm512_add_ps(x, other), upper, other, x); }
HGX_INLINE F f_pair1(F x) { return f_stage(x, _mm512_permute_ps(x, 0xb1), 0xaaaa); }
HGX_INLINE F f_pair2(F x) { return f_stage(x, _mm512_permute_ps(x, 0x4e), 0xcccc); }
HGX_INLINE F f_pair4(F x) { return f_stage(x, _mm512_shuffle_f32x4(x, x, 0xb1), 0xf0f0); }
HGX_INLINE F f_pair8(F x) { return f_stage(x, _mm512_shuffle_f32x4(x, x, 0x4e), 0xff00); }

/* int32, wrapping */
HGX_INLINE I i_zero() { return _mm512_setzero_si512(); }
HGX_INLINE I i_set(int32_t x) { return _mm512_set1_epi32(x); }
HGX_INLINE I i_load(const int32_t *p) { return _mm512_loadu_si512(p); }
HGX_INLINE void i_store(int32_t *p, I x) { _mm512_storeu_si512(p, x); }
HGX_INLINE I i_add(I a, I b) { return _mm512_add_epi32(a, b); }
HGX_INLINE I i_sub(I a, I b) { return _mm512_sub_epi32(a, b); }
HGX_INLINE I i_mul(I a, I b) { return _mm512_mullo_epi32(a, b); }
HGX_INLINE I i_shl(I a, int n) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(n)); }
HGX_INLINE I i_shr(I a, int n) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(n)); }
HGX_INLINE I i_sar(I a, int n) { return _mm512_sra_epi32(a, _mm_cvtsi32_si128(n)); }
HGX_INLINE I i_and(I a, I b) { return _mm512_and_si512(a, b); }
HGX_INLINE I i_or(I a, I b) { return _mm512_or_si512(a, b); }
HGX_INLINE I i_xor(I a, I b) { return _mm512_xor_si512(a, b); }
HGX_INLINE I i_max(I a, I b) { return _mm512_max_epi32(a, b); }
HGX_INLINE I i_min(I a, I b) { return _mm512_min_epi32(a, b); }
HGX_INLINE I i_from_s8(const int8_t *p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)); }
HGX_INLINE int32_t i_sum(I x) { return _mm512_reduce_add_epi32(x); }
HGX_INLINE int32_t i_max_all(I x) { return _mm512_reduce_max_epi32(x); }

/* Bytes: 16 lanes of 4 */
HGX_INLINE B b_set(uint8_t x) { return _mm512_set1_epi8(static_cast<char>(x)); }
HGX_INLINE B b_load(const void *p) { return _mm512_loadu_si512(p); }
HGX_INLINE B b_load_n(const void *p, int n) {
  return _mm512_maskz_loadu_epi8(n >= 64 ? ~0ull : (1ull << n) - 1ull, p);
}
/* In a register from here on: an unaligned line that is used several times is then loaded once. */
HGX_INLINE void b_keep(B &x) { __asm__("" : "+v"(x)); }
HGX_INLINE void i_keep(I &x) { __asm__("" : "+v"(x)); }
HGX_INLINE void f_keep(F &x) { __asm__("" : "+v"(x)); }
HGX_INLINE void b_store(void *p, B x) { _mm512_storeu_si512(p, x); }
HGX_INLINE B b_and(B a, uint8_t mask) { return _mm512_and_si512(a, b_set(mask)); }
HGX_INLINE B b_or(B a, B b) { return _mm512_or_si512(a, b); }
HGX_INLINE B b_xor(B a, uint8_t mask) { return _mm512_xor_si512(a, b_set(mask)); }
HGX_INLINE B b_shr(B a, int n) { return b_and(_mm512_srl_epi16(a, _mm_cvtsi32_si128(n)), uint8_t(0xff >> n)); }
HGX_INLINE B b_shl(B a, int n) { return b_and(_mm512_sll_epi16(a, _mm_cvtsi32_si128(n)), uint8_t(0xff << n)); }
/* Shift right by S, or left by -S, within 16 bits: bits of the neighbour come in. */
template <int S>
HGX_INLINE B b_shift(B a) {
  if (S > 0) return _mm512_srli_epi16(a, S > 0 ? S : 0);
  if (S < 0) return _mm512_slli_epi16(a, S < 0 ? -S : 0);
  return a;
}
/* (a & mask) | (b & ~mask) */
HGX_INLINE B b_merge(B a, B b, uint8_t mask) { return _mm512_ternarylogic_epi32(b_set(mask), a, b, 0xca); }
/* Byte j of each lane, as an unsigned or a signed number. */
template <int J>
HGX_INLINE I b_unsigned(B a) {
  return J == 3 ? _mm512_srli_epi32(a, 24) : _mm512_and_si512(_mm512_srli_epi32(a, 8 * J), i_set(255));
}
template <int J>
HGX_INLINE I b_signed(B a) { return _mm512_srai_epi32(J == 3 ? a : _mm512_slli_epi32(a, 24 - 8 * J), 24); }

/* Entries for codes of 2 to 5 bits; bits of the index above that are ignored. */
#ifdef HGX_VBMI
/* One lookup sees 6 bits of an index, wherever among them the parts of a code are: at[i] expects the high and the
 * low plane's bits at PLACES[i], so that most planes need no shift (codes.h). at[0]: the code in the low bits. */
struct Table { B at[6]; };
struct Places { int high, low; };
HGX_INLINE Places t_places(int bits, int i) {
  constexpr Places of3[6] = {{1, 0}, {2, 1}, {4, 2}, {4, 3}, {0, 4}, {2, 5}};
  constexpr Places of5[6] = {{1, 0}, {0, 4}, {0, 5}, {1, 0}, {1, 0}, {1, 0}};
  return bits == 3 ? of3[i] : bits == 5 ? of5[i] : Places{2 * i % 6, 0};
}
HGX_INLINE Table t_make(const int8_t *entries, int bits, uint8_t flip) {
  alignas(64) static constexpr uint8_t numbers[64] = {
      0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
      16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
      32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47,
      48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
  const int width = bits & 1; /* of the low plane */
  const uint8_t high = uint8_t((1 << (bits - width)) - 1), low = uint8_t(width);
  const B index = b_load(numbers), values = b_xor(b_load_n(entries, 32), flip);
  Table table;
  for (int i = 0; i < 6; ++i) {
    const Places places = t_places(bits, bits == 4 ? 0 : i);
    const B code = b_or(b_shl(b_and(b_shr(index, places.high), high), width), b_and(b_shr(index, places.low), low));
    table.at[i] = _mm512_permutexvar_epi8(code, values);
  }
  return table;
}
template <int I>
HGX_INLINE B b_lookup_at(const Table &t, B index) { return _mm512_permutexvar_epi8(index, t.at[I]); }
template <int BITS>
HGX_INLINE B b_lookup(const Table &t, B index) { return b_lookup_at<0>(t, index); }
#else
struct Table { B low, high; };
HGX_INLINE Table t_make(const int8_t *entries, int bits, uint8_t flip) {
  alignas(64) uint8_t line[64];
  Table table;
  for (int i = 0; i < 64; ++i) line[i] = uint8_t(uint8_t(entries[i & 15 & ((1 << bits) - 1)]) ^ flip);
  table.low = b_load(line);
  for (int i = 0; i < 64; ++i) line[i] = uint8_t(uint8_t(entries[bits == 5 ? 16 + (i & 15) : 0]) ^ flip);
  table.high = b_load(line);
  return table;
}
template <int BITS>
HGX_INLINE B b_lookup(const Table &t, B index) {
  const B nibble = b_and(index, 15);
  const B low = _mm512_shuffle_epi8(t.low, nibble);
  if (BITS < 5) return low;
  return _mm512_mask_shuffle_epi8(low, _mm512_test_epi8_mask(index, b_set(16)), t.high, nibble);
}
#endif

/* acc[lane] += sum_j w[lane][j] * q[j], exact for q from -127 to 127. i_dot: bytes of w are numbers from 0 to 255
 * minus DOT_BIAS; i_dot_small: numbers from 0 to 127. */
#ifdef HGX_VNNI
HGX_INLINE I i_dot_quads(I acc, B w, B q) { return _mm512_dpbusd_epi32(acc, w, q); }
HGX_INLINE I i_dot(I acc, B w, int32_t q) { return i_dot_quads(acc, w, i_set(q)); }
HGX_INLINE I i_dot_small(I acc, B w, int32_t q) { return i_dot_quads(acc, w, i_set(q)); }
#else
HGX_INLINE I i_dot_small(I acc, B w, int32_t q) {
  const B pairs = _mm512_maddubs_epi16(w, i_set(q));
  return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
HGX_INLINE I i_dot(I acc, B w, int32_t q) {
  const B value = i_set(q);
  const B turned = _mm512_mask_sub_epi8(value, _mm512_movepi8_mask(w), _mm512_setzero_si512(), value);
  const B pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(w), turned);
  return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
#endif

/* acc[lane] += low w[lane] * low q + high w[lane] * high q: halves of 16 bits, no sum beyond 32. */
HGX_INLINE I i_dot_pairs(I acc, I w, int32_t q) {
#ifdef HGX_VNNI
  return _mm512_dpwssd_epi32(acc, w, i_set(q));
#else
  return _mm512_add_epi32(acc, _mm512_madd_epi16(w, i_set(q)));
#endif
}

/* Into the second-level cache: it holds more requests than the first, which a hardware prefetcher fills. */
HGX_INLINE void prefetch(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T1); }
HGX_INLINE void prefetch_near(const void *p) { _mm_prefetch((const char *)p, _MM_HINT_T0); }
HGX_INLINE void prefetch_write(const void *p) { __builtin_prefetch(p, 1); }
