// exp, tanh, erf in binary32: the same bits in every tier, at most 2 units in the last place from the true value.
// The polynomials are minimax fits whose coefficients were rounded one by one, lowest power first.
#pragma once

namespace decoder {

// 2^x for x up to 126, as attention needs it: 0 for x <= -126.5 (-infinity too), NaN for NaN.
HGX_INLINE F exp2_of(F x) {
  const F shift = f_set(12583039.0f);  // 1.5 * 2^23 + 127: the sum's low bits are the exponent field of 2^n
  x = f_max(f_set(-127.0f), x);        // in this order a NaN stays; 2^-127 has the exponent field 0 and reads as 0
  const F sum = f_add(x, shift);
  const F r = f_sub(x, f_sub(sum, shift));
  F p = f_fma(r, f_set(0x1.5cd8b8p-10f), f_set(0x1.3cf732p-7f));
  p = f_fma(p, r, f_set(0x1.c6b576p-5f));
  p = f_fma(p, r, f_set(0x1.ebf99cp-3f));
  p = f_fma(p, r, f_set(0x1.62e42ap-1f));
  p = f_fma(p, r, f_set(1.0f));
  return f_mul(p, f_of_bits(i_shl(f_bits(sum), 23)));
}

// e^x: 0 below -104, infinity above 89, subnormal results rounded once.
HGX_INLINE F exp_of(F x) {
  const F low = f_set(-104.0f), high = f_set(89.0f), shift = f_set(12582912.0f);
  F c = f_select(f_less(x, low), low, x);
  c = f_select(f_less(high, c), high, c);
  const F n = f_sub(f_add(f_mul(c, f_set(0x1.715476p+0f)), shift), shift);  // rounded to nearest
  F r = f_fma(n, f_set(-0x1.62e43p-1f), c);
  r = f_fma(n, f_set(0x1.05c61p-29f), r);
  F q = f_fma(r, f_set(0x1.6cedp-10f), f_set(0x1.12406ap-7f));
  q = f_fma(q, r, f_set(0x1.55552ap-5f));
  q = f_fma(q, r, f_set(0x1.555488p-3f));
  q = f_fma(q, r, f_set(0.5f));
  const F p = f_add(f_fma(f_mul(r, r), q, r), f_set(1.0f));
  // 2^n as a product of two powers that are normal numbers
  const F half_shift = f_set(12583039.0f);
  const F half = f_add(f_mul(n, f_set(0.5f)), half_shift);
  const F rest = f_add(f_sub(n, f_sub(half, half_shift)), half_shift);
  return f_mul(f_mul(p, f_of_bits(i_shl(f_bits(half), 23))), f_of_bits(i_shl(f_bits(rest), 23)));
}

HGX_INLINE F with_sign_of(F magnitude, F x) {
  return f_of_bits(i_or(f_bits(magnitude), i_and(f_bits(x), i_set(INT32_MIN))));
}

HGX_INLINE F tanh_of(F x) {
  const F a = f_abs(x), u = f_mul(x, x);
  F q = f_fma(u, f_set(-0x1.6f2656p-8f), f_set(0x1.50b052p-6f));
  q = f_fma(q, u, f_set(-0x1.b80532p-5f));
  q = f_fma(q, u, f_set(0x1.110596p-3f));
  q = f_fma(q, u, f_set(-0x1.55552cp-2f));
  const F small = f_fma(f_mul(q, u), x, x);
  const F large = f_sub(f_set(1.0f), f_div(f_set(2.0f), f_add(exp_of(f_add(a, a)), f_set(1.0f))));
  return f_select(f_less(a, f_set(0.625f)), small, with_sign_of(large, x));
}

HGX_INLINE F erf_of(F x) {
  const F a = f_abs(x), u = f_mul(x, x);
  F p = f_fma(u, f_set(0x1.4e459cp-14f), f_set(-0x1.a5ba96p-11f));
  p = f_fma(p, u, f_set(0x1.54426ep-8f));
  p = f_fma(p, u, f_set(-0x1.b80080p-6f));
  p = f_fma(p, u, f_set(0x1.ce2d60p-4f));
  p = f_fma(p, u, f_set(-0x1.812740p-2f));
  p = f_fma(p, u, f_set(0x1.06eba8p-3f));
  const F small = f_fma(p, x, x);
  // 1 - e^-q(a), q = -log(erfc a); beyond 4 the result is 1
  const F four = f_set(4.0f);
  const F b = f_select(f_less(four, a), four, a);
  F q = f_fma(b, f_set(0x1.5fbbbap-16f), f_set(-0x1.c5fca4p-12f));
  q = f_fma(q, b, f_set(0x1.10e074p-8f));
  q = f_fma(q, b, f_set(-0x1.9b3e30p-6f));
  q = f_fma(q, b, f_set(0x1.bb64fcp-4f));
  q = f_fma(q, b, f_set(0x1.44498ap-1f));
  q = f_fma(q, b, f_set(0x1.212708p+0f));
  q = f_fma(q, b, f_set(-0x1.68a7c4p-13f));
  const F large = f_sub(f_set(1.0f), exp_of(f_neg(q)));
  return f_select(f_less(a, f_set(0.921875f)), small, with_sign_of(large, x));
}

// x / (1 + e^-cx): silu for c = 1; with 2 u in place of cx half of 1 + tanh u.
HGX_INLINE F gated(F x, F cx) { return f_div(x, f_add(f_set(1.0f), exp_of(f_neg(cx)))); }

HGX_INLINE F gelu_tanh_of(F x) {
  const F u = f_fma(f_mul(f_mul(x, x), x), f_set(0.044715f), x);
  return gated(x, f_mul(u, f_set(1.5957691216057308f)));
}

HGX_INLINE F gelu_erf_of(F x) {
  const F e = f_add(f_set(1.0f), erf_of(f_mul(x, f_set(0.70710678118654752f))));
  return f_mul(f_mul(f_set(0.5f), x), e);
}

}  // namespace decoder
