/* 16 lanes as four registers on 64-bit Arm; uses the 4-way dot product where the compiler has it.
 * Where x86 and Arm differ (minimum and maximum with NaN, numbers beyond int32) it does what x86 does. */
#pragma once

struct F { float32x4_t v[4]; };
struct I { int32x4_t v[4]; };
struct B { uint8x16_t v[4]; };
struct M { uint32x4_t v[4]; };

constexpr int DOT_BIAS = 128;
/* Register tiles of products with many tokens: panels x tokens. */
constexpr int TILE_PANELS = 1, TILE_TOKENS = 4;
constexpr int FLOAT_PANELS = 1, FLOAT_TOKENS = 4;

/* `expression` for each of the four registers k. */
#define HGX_EACH(type, expression) \
  do { \
    type r; \
    HGX_UNROLL for (int k = 0; k < 4; ++k) r.v[k] = expression; \
    return r; \
  } while (0)

HGX_INLINE M m_first(int n) {
  const int32_t from[4] = {0, 1, 2, 3};
  HGX_EACH(M, vcltq_s32(vaddq_s32(vld1q_s32(from), vdupq_n_s32(4 * k)), vdupq_n_s32(n)));
}
/* The same lanes of every register. */
HGX_INLINE uint32x4_t m_lanes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  const uint32_t lanes[4] = {a, b, c, d};
  return vld1q_u32(lanes);
}

/* binary32 */
HGX_INLINE F f_set(float x) { HGX_EACH(F, vdupq_n_f32(x)); }
HGX_INLINE F f_zero() { return f_set(0.0f); }
HGX_INLINE F f_load(const float *p) { HGX_EACH(F, vld1q_f32(p + 4 * k)); }
HGX_INLINE F f_load_n(const float *p, int n) {
  float line[16] = {0};
  memcpy(line, p, sizeof(float) * static_cast<size_t>(n));
  return f_load(line);
}
HGX_INLINE void f_store(float *p, F x) {
  for (int k = 0; k < 4; ++k) vst1q_f32(p + 4 * k, x.v[k]);
}
HGX_INLINE void f_store_n(float *p, F x, int n) {
  float line[16];
  f_store(line, x);
  memcpy(p, line, sizeof(float) * static_cast<size_t>(n));
}
HGX_INLINE F f_add(F a, F b) { HGX_EACH(F, vaddq_f32(a.v[k], b.v[k])); }
HGX_INLINE F f_sub(F a, F b) { HGX_EACH(F, vsubq_f32(a.v[k], b.v[k])); }
HGX_INLINE F f_mul(F a, F b) { HGX_EACH(F, vmulq_f32(a.v[k], b.v[k])); }
HGX_INLINE F f_div(F a, F b) { HGX_EACH(F, vdivq_f32(a.v[k], b.v[k])); }
HGX_INLINE F f_fma(F a, F b, F c) { HGX_EACH(F, vfmaq_f32(c.v[k], a.v[k], b.v[k])); }
HGX_INLINE F f_fnma(F a, F b, F c) { HGX_EACH(F, vfmsq_f32(c.v[k], a.v[k], b.v[k])); }
HGX_INLINE float32x4_t f_max4(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
HGX_INLINE float32x4_t f_min4(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
HGX_INLINE F f_max(F a, F b) { HGX_EACH(F, f_max4(a.v[k], b.v[k])); }
HGX_INLINE F f_min(F a, F b) { HGX_EACH(F, f_min4(a.v[k], b.v[k])); }
HGX_INLINE F f_abs(F a) { HGX_EACH(F, vabsq_f32(a.v[k])); }
HGX_INLINE F f_neg(F a) { HGX_EACH(F, vnegq_f32(a.v[k])); }
HGX_INLINE F f_sqrt(F a) { HGX_EACH(F, vsqrtq_f32(a.v[k])); }
HGX_INLINE F f_round(F a) { HGX_EACH(F, vrndnq_f32(a.v[k])); }
HGX_INLINE F f_from_i(I a) { HGX_EACH(F, vcvtq_f32_s32(a.v[k])); }
HGX_INLINE int32x4_t f_to_i4(float32x4_t a) {
  const uint32x4_t fits = vcltq_f32(vabsq_f32(a), vdupq_n_f32(2147483648.0f));
  return vbslq_s32(fits, vcvtnq_s32_f32(a), vdupq_n_s32(INT32_MIN));
}
HGX_INLINE I f_to_i(F a) { HGX_EACH(I, f_to_i4(a.v[k])); }
HGX_INLINE I f_bits(F a) { HGX_EACH(I, vreinterpretq_s32_f32(a.v[k])); }
HGX_INLINE F f_of_bits(I a) { HGX_EACH(F, vreinterpretq_f32_s32(a.v[k])); }
HGX_INLINE F f_scale2(F a, I e) {
  HGX_EACH(F, vmulq_f32(a.v[k], vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(e.v[k], vdupq_n_s32(127)), 23))));
}
HGX_INLINE M f_less(F a, F b) { HGX_EACH(M, vcltq_f32(a.v[k], b.v[k])); }
HGX_INLINE F f_select(M m, F a, F b) { HGX_EACH(F, vbslq_f32(m.v[k], a.v[k], b.v[k])); }
HGX_INLINE F f_from_f16(const uint16_t *p) {
  HGX_EACH(F, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * k))));
}
HGX_INLINE F f_from_bf16(const uint16_t *p) {
  HGX_EACH(F, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * k), 16)));
}
HGX_INLINE F f_from_f16_n(const uint16_t *p, int n) {
  uint16_t line[16] = {0};
  memcpy(line, p, sizeof(uint16_t) * static_cast<size_t>(n));
  return f_from_f16(line);
}
HGX_INLINE F f_from_bf16_n(const uint16_t *p, int n) {
  uint16_t line[16] = {0};
  memcpy(line, p, sizeof(uint16_t) * static_cast<size_t>(n));
  return f_from_bf16(line);
}
HGX_INLINE void f_to_f16(uint16_t *p, F x) {
  for (int k = 0; k < 4; ++k) vst1_u16(p + 4 * k, vreinterpret_u16_f16(vcvt_f16_f32(x.v[k])));
}
HGX_INLINE uint16x4_t f_narrow_bf16(float32x4_t x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t near = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), near, quiet), 16);
}
HGX_INLINE void f_to_bf16(uint16_t *p, F x) {
  for (int k = 0; k < 4; ++k) vst1_u16(p + 4 * k, f_narrow_bf16(x.v[k]));
}
HGX_INLINE void f_to_f16_n(uint16_t *p, F x, int n) {
  uint16_t line[16];
  f_to_f16(line, x);
  memcpy(p, line, sizeof(uint16_t) * static_cast<size_t>(n));
}
HGX_INLINE void f_to_bf16_n(uint16_t *p, F x, int n) {
  uint16_t line[16];
  f_to_bf16(line, x);
  memcpy(p, line, sizeof(uint16_t) * static_cast<size_t>(n));
}
HGX_INLINE F f_from_u8(const uint8_t *p) {
  const uint8x16_t bytes = vld1q_u8(p);
  const uint16x8_t half[2] = {vmovl_u8(vget_low_u8(bytes)), vmovl_u8(vget_high_u8(bytes))};
  HGX_EACH(F, vcvtq_f32_u32(vmovl_u16(k & 1 ? vget_high_u16(half[k / 2]) : vget_low_u16(half[k / 2]))));
}
/* Rounded to nearest even and narrowed; |x| <= 127. */
HGX_INLINE void f_to_s8(int8_t *p, F x) {
  const I whole = f_to_i(x);
  const int16x8_t low = vcombine_s16(vmovn_s32(whole.v[0]), vmovn_s32(whole.v[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(whole.v[2]), vmovn_s32(whole.v[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
/* The same to 16 bits; |x| <= 32767. */
HGX_INLINE void f_to_s16(int16_t *p, F x) {
  const I whole = f_to_i(x);
  for (int k = 0; k < 4; ++k) vst1_s16(p + 4 * k, vmovn_s32(whole.v[k]));
}
HGX_INLINE float f_sum(F x) {
  const float32x4_t q = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
  const float32x2_t d = vadd_f32(vget_low_f32(q), vget_high_f32(q));
  return vget_lane_f32(d, 0) + vget_lane_f32(d, 1);
}
HGX_INLINE float f_max_all(F x) {
  const float32x4_t q = f_max4(f_max4(x.v[0], x.v[2]), f_max4(x.v[1], x.v[3]));
  const float32x4_t d = f_max4(q, vextq_f32(q, q, 2));
  return vgetq_lane_f32(f_max4(d, vdupq_laneq_f32(d, 1)), 0);
}
/* One stage of butterflies between lanes l and l + stride (1, 2, 4, 8): sums below, differences above. */
HGX_INLINE float32x4_t f_stage(float32x4_t x, float32x4_t other, uint32x4_t upper) {
  return vbslq_f32(upper, vsubq_f32(other, x), vaddq_f32(x, other));
}
HGX_INLINE F f_pair1(F x) { HGX_EACH(F, f_stage(x.v[k], vrev64q_f32(x.v[k]), m_lanes(0, ~0u, 0, ~0u))); }
HGX_INLINE F f_pair2(F x) { HGX_EACH(F, f_stage(x.v[k], vextq_f32(x.v[k], x.v[k], 2), m_lanes(0, 0, ~0u, ~0u))); }
HGX_INLINE F f_pair4(F x) { HGX_EACH(F, f_stage(x.v[k], x.v[k ^ 1], vdupq_n_u32(k & 1 ? ~0u : 0))); }
HGX_INLINE F f_pair8(F x) { HGX_EACH(F, f_stage(x.v[k], x.v[k ^ 2], vdupq_n_u32(k & 2 ? ~0u : 0))); }

/* int32, wrapping */
HGX_INLINE I i_set(int32_t x) { HGX_EACH(I, vdupq_n_s32(x)); }
HGX_INLINE I i_zero() { return i_set(0); }
HGX_INLINE I i_load(const int32_t *p) { HGX_EACH(I, vld1q_s32(p + 4 * k)); }
HGX_INLINE void i_store(int32_t *p, I x) {
  for (int k = 0; k < 4; ++k) vst1q_s32(p + 4 * k, x.v[k]);
}
HGX_INLINE I i_add(I a, I b) { HGX_EACH(I, vaddq_s32(a.v[k], b.v[k])); }
HGX_INLINE I i_sub(I a, I b) { HGX_EACH(I, vsubq_s32(a.v[k], b.v[k])); }
HGX_INLINE I i_mul(I a, I b) { HGX_EACH(I, vmulq_s32(a.v[k], b.v[k])); }
HGX_INLINE I i_shl(I a, int n) { HGX_EACH(I, vshlq_s32(a.v[k], vdupq_n_s32(n))); }
HGX_INLINE int32x4_t i_shr4(int32x4_t a, int n) {
  return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-n)));
}
HGX_INLINE I i_shr(I a, int n) { HGX_EACH(I, i_shr4(a.v[k], n)); }
HGX_INLINE I i_sar(I a, int n) { HGX_EACH(I, vshlq_s32(a.v[k], vdupq_n_s32(-n))); }
HGX_INLINE I i_and(I a, I b) { HGX_EACH(I, vandq_s32(a.v[k], b.v[k])); }
HGX_INLINE I i_or(I a, I b) { HGX_EACH(I, vorrq_s32(a.v[k], b.v[k])); }
HGX_INLINE I i_xor(I a, I b) { HGX_EACH(I, veorq_s32(a.v[k], b.v[k])); }
HGX_INLINE I i_max(I a, I b) { HGX_EACH(I, vmaxq_s32(a.v[k], b.v[k])); }
HGX_INLINE I i_min(I a, I b) { HGX_EACH(I, vminq_s32(a.v[k], b.v[k])); }
HGX_INLINE I i_from_s8(const int8_t *p) {
  const int8x16_t bytes = vld1q_s8(p);
  const int16x8_t half[2] = {vmovl_s8(vget_low_s8(bytes)), vmovl_s8(vget_high_s8(bytes))};
  HGX_EACH(I, vmovl_s16(k & 1 ? vget_high_s16(half[k / 2]) : vget_low_s16(half[k / 2])));
}
HGX_INLINE int32_t i_sum(I x) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(x.v[0], x.v[1]), vaddq_s32(x.v[2], x.v[3])));
}
HGX_INLINE int32_t i_max_all(I x) {
  return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.v[0], x.v[1]), vmaxq_s32(x.v[2], x.v[3])));
}

/* Bytes: 16 lanes of 4 */
HGX_INLINE B b_set(uint8_t x) { HGX_EACH(B, vdupq_n_u8(x)); }
HGX_INLINE B b_load(const void *p) { HGX_EACH(B, vld1q_u8(static_cast<const uint8_t *>(p) + 16 * k)); }
HGX_INLINE B b_load_n(const void *p, int n) {
  uint8_t line[64] = {0};
  memcpy(line, p, static_cast<size_t>(n < 64 ? n : 64));
  return b_load(line);
}
HGX_INLINE void b_store(void *p, B x) {
  for (int k = 0; k < 4; ++k) vst1q_u8(static_cast<uint8_t *>(p) + 16 * k, x.v[k]);
}
HGX_INLINE B b_and(B a, uint8_t mask) { HGX_EACH(B, vandq_u8(a.v[k], vdupq_n_u8(mask))); }
HGX_INLINE B b_or(B a, B b) { HGX_EACH(B, vorrq_u8(a.v[k], b.v[k])); }
HGX_INLINE B b_xor(B a, uint8_t mask) { HGX_EACH(B, veorq_u8(a.v[k], vdupq_n_u8(mask))); }
HGX_INLINE B b_shr(B a, int n) { HGX_EACH(B, vshlq_u8(a.v[k], vdupq_n_s8(static_cast<int8_t>(-n)))); }
HGX_INLINE B b_shl(B a, int n) { HGX_EACH(B, vshlq_u8(a.v[k], vdupq_n_s8(static_cast<int8_t>(n)))); }
/* Shift right by S, or left by -S; what comes in from beside is not to be used. */
template <int S>
HGX_INLINE B b_shift(B a) {
  return S == 0 ? a : S > 0 ? b_shr(a, S) : b_shl(a, -S);
}
/* (a & mask) | (b & ~mask) */
HGX_INLINE B b_merge(B a, B b, uint8_t mask) { HGX_EACH(B, vbslq_u8(vdupq_n_u8(mask), a.v[k], b.v[k])); }
/* Nothing, but the compiler must have the value in registers here. */
HGX_INLINE void b_keep(B &x) { __asm__("" : "+w"(x.v[0]), "+w"(x.v[1]), "+w"(x.v[2]), "+w"(x.v[3])); }
HGX_INLINE void f_keep(F &x) { __asm__("" : "+w"(x.v[0]), "+w"(x.v[1]), "+w"(x.v[2]), "+w"(x.v[3])); }
HGX_INLINE void i_keep(I &x) { __asm__("" : "+w"(x.v[0]), "+w"(x.v[1]), "+w"(x.v[2]), "+w"(x.v[3])); }
/* Byte j of each lane, as an unsigned or a signed number. */
HGX_INLINE I b_lanes(B a) { HGX_EACH(I, vreinterpretq_s32_u8(a.v[k])); }
template <int J>
HGX_INLINE I b_unsigned(B a) { return i_and(i_shr(b_lanes(a), 8 * J), i_set(255)); }
template <int J>
HGX_INLINE I b_signed(B a) { return i_sar(i_shl(b_lanes(a), 24 - 8 * J), 24); }

/* Entries for codes of 2 to 5 bits; bits of the index above that are ignored. */
struct Table { uint8x16x2_t all; };
HGX_INLINE Table t_make(const int8_t *entries, int bits, uint8_t flip) {
  uint8_t line[32];
  for (int i = 0; i < 32; ++i) line[i] = uint8_t(uint8_t(entries[i & ((1 << bits) - 1)]) ^ flip);
  Table table;
  table.all.val[0] = vld1q_u8(line);
  table.all.val[1] = vld1q_u8(line + 16);
  return table;
}
template <int BITS>
HGX_INLINE B b_lookup(const Table &t, B index) {
  if (BITS < 5) HGX_EACH(B, vqtbl1q_u8(t.all.val[0], vandq_u8(index.v[k], vdupq_n_u8(15))));
  HGX_EACH(B, vqtbl2q_u8(t.all, vandq_u8(index.v[k], vdupq_n_u8(31))));
}

/* acc[lane] += sum_j w[lane][j] * q[j], exact for q from -127 to 127. i_dot: bytes of w are numbers from 0 to 255
 * minus DOT_BIAS; i_dot_small: numbers from 0 to 127. */
HGX_INLINE int32x4_t i_dot4(int32x4_t acc, int8x16_t w, int8x16_t q) {
#ifdef __ARM_FEATURE_DOTPROD
  return vdotq_s32(acc, w, q);
#else
  const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(q)), high = vmull_high_s8(w, q);
  return vaddq_s32(acc, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
}
HGX_INLINE I i_dot(I acc, B w, int32_t q) {
  const int8x16_t value = vreinterpretq_s8_s32(vdupq_n_s32(q));
  HGX_EACH(I, i_dot4(acc.v[k], vreinterpretq_s8_u8(w.v[k]), value));
}
HGX_INLINE I i_dot_small(I acc, B w, int32_t q) { return i_dot(acc, w, q); }

/* acc[lane] += low w[lane] * low q + high w[lane] * high q: halves of 16 bits, no sum beyond 32. */
HGX_INLINE int32x4_t i_dot2(int32x4_t acc, int16x8_t w, int16x8_t q) {
  const int32x4_t low = vmull_s16(vget_low_s16(w), vget_low_s16(q)), high = vmull_high_s16(w, q);
  return vaddq_s32(acc, vpaddq_s32(low, high));
}
HGX_INLINE I i_dot_pairs(I acc, I w, int32_t q) {
  const int16x8_t value = vreinterpretq_s16_s32(vdupq_n_s32(q));
  HGX_EACH(I, i_dot2(acc.v[k], vreinterpretq_s16_s32(w.v[k]), value));
}

HGX_INLINE void prefetch(const void *p) { __builtin_prefetch(p); }
HGX_INLINE void prefetch_near(const void *) {}
HGX_INLINE void prefetch_write(const void *p) { __builtin_prefetch(p, 1); }
