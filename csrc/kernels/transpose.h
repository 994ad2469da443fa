/* 16 vectors to 16 vectors: lane l of row k becomes lane k of row l. */
#pragma once

#if defined(__AVX512F__)
HGX_INLINE __m512 tr_low(__m512 a, __m512 b) { return _mm512_unpacklo_ps(a, b); }
HGX_INLINE __m512 tr_high(__m512 a, __m512 b) { return _mm512_unpackhi_ps(a, b); }
HGX_INLINE __m512 tr_pairs_low(__m512 a, __m512 b) { return _mm512_shuffle_ps(a, b, 0x44); }
HGX_INLINE __m512 tr_pairs_high(__m512 a, __m512 b) { return _mm512_shuffle_ps(a, b, 0xee); }
HGX_INLINE __m512 tr_even(__m512 a, __m512 b) { return _mm512_shuffle_f32x4(a, b, 0x88); }
HGX_INLINE __m512 tr_odd(__m512 a, __m512 b) { return _mm512_shuffle_f32x4(a, b, 0xdd); }

HGX_INLINE void transpose16(F (&v)[16]) {
  F t[16];
  HGX_UNROLL
  for (int i = 0; i < 16; i += 2) {
    t[i] = tr_low(v[i], v[i + 1]);
    t[i + 1] = tr_high(v[i], v[i + 1]);
  }
  /* v[i + j]: columns j, 4 + j, 8 + j, 12 + j of rows i .. i + 3, one quarter each */
  HGX_UNROLL
  for (int i = 0; i < 16; i += 4) {
    v[i] = tr_pairs_low(t[i], t[i + 2]);
    v[i + 1] = tr_pairs_high(t[i], t[i + 2]);
    v[i + 2] = tr_pairs_low(t[i + 1], t[i + 3]);
    v[i + 3] = tr_pairs_high(t[i + 1], t[i + 3]);
  }
  HGX_UNROLL
  for (int j = 0; j < 4; ++j) {
    const F a = tr_even(v[j], v[4 + j]), b = tr_odd(v[j], v[4 + j]);
    const F c = tr_even(v[8 + j], v[12 + j]), d = tr_odd(v[8 + j], v[12 + j]);
    t[j] = tr_even(a, c);
    t[8 + j] = tr_odd(a, c);
    t[4 + j] = tr_even(b, d);
    t[12 + j] = tr_odd(b, d);
  }
  HGX_UNROLL
  for (int i = 0; i < 16; ++i) v[i] = t[i];
}
#elif defined(__AVX2__)
HGX_INLINE void transpose8(__m256 (&v)[8]) {
  __m256 t[8];
  HGX_UNROLL
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
  HGX_UNROLL
  for (int i = 0; i < 8; i += 4) {
    v[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    v[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    v[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    v[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  HGX_UNROLL
  for (int j = 0; j < 4; ++j) {
    t[j] = _mm256_permute2f128_ps(v[j], v[4 + j], 0x20);
    t[4 + j] = _mm256_permute2f128_ps(v[j], v[4 + j], 0x31);
  }
  HGX_UNROLL
  for (int i = 0; i < 8; ++i) v[i] = t[i];
}

HGX_INLINE void transpose16(F (&v)[16]) {
  __m256 lines[4][8];
  HGX_UNROLL
  for (int i = 0; i < 8; ++i) {
    lines[0][i] = v[i].a;
    lines[1][i] = v[i].b;
    lines[2][i] = v[i + 8].a;
    lines[3][i] = v[i + 8].b;
  }
  transpose8(lines[0]);
  transpose8(lines[1]);
  transpose8(lines[2]);
  transpose8(lines[3]);
  HGX_UNROLL
  for (int i = 0; i < 8; ++i) {
    v[i] = F{lines[0][i], lines[2][i]};
    v[i + 8] = F{lines[1][i], lines[3][i]};
  }
}
#else
HGX_INLINE void transpose16(F (&v)[16]) {
  float from[16][16], to[16][16];
  for (int i = 0; i < 16; ++i) f_store(from[i], v[i]);
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) to[j][i] = from[i][j];
  }
  for (int i = 0; i < 16; ++i) v[i] = f_load(to[i]);
}
#endif
