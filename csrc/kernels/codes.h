/* Bit planes (docs/format.md 4.3) to operand bytes: lines of 64 bytes, 16 outputs times a quad of inputs. */
#pragma once

/* Codes of BITS bits, looked up in a table or levels themselves. Operands are numbers u(c) - BIAS. */
template <int BITS_, bool TABLE_>
struct Codes {
  static constexpr int BITS = BITS_;
  static constexpr bool TABLE = TABLE_;
  static constexpr bool SMALL = !TABLE && BITS < 8; /* operands from 0 to 127 */
  static constexpr int BIAS = SMALL ? 0 : DOT_BIAS;
  static constexpr int HIGH = BITS == 3 ? 2 : BITS == 5 || BITS == 6 ? 4 : BITS; /* width of the first plane */
  static constexpr int LOW = BITS - HIGH;                                        /* of the second, if there is one */
};

/* Index of the code in the low bits; what is above them is not defined. */
template <class C, int Q>
HGX_INLINE B c_index(const B *high, const B *low) {
  constexpr int at_high = C::HIGH * (Q % (8 / C::HIGH)), line_high = Q / (8 / C::HIGH);
  if constexpr (C::LOW == 0) {
    return b_shift<at_high>(high[line_high]);
  } else {
    constexpr int at_low = C::LOW * (Q % (8 / C::LOW)), line_low = Q / (8 / C::LOW);
    constexpr uint8_t mask = uint8_t(((1 << C::HIGH) - 1) << C::LOW);
    return b_merge(b_shift<at_high - C::LOW>(high[line_high]), b_shift<at_low>(low[line_low]), mask);
  }
}

template <class C, int Q>
HGX_INLINE B c_quad(const Table &table, const B *high, const B *low) {
  const B index = c_index<C, Q>(high, low);
  if constexpr (C::TABLE) return b_lookup<C::BITS>(table, index);
  if constexpr (C::BITS < 8) return b_and(index, uint8_t((1 << C::BITS) - 1));
  if constexpr (C::BIAS != 0) return b_xor(index, 0x80);
  return index;
}

#ifdef HGX_VBMI
/* The 8 operands of 32 inputs, with as few shifts as lookups of 6 bits anywhere allow (t_places). The table of codes
 * that are levels themselves holds these. */
template <int BITS>
HGX_INLINE void c_lookups(const Table &t, const B *h, const B *l, B (&w)[8]) {
  if constexpr (BITS == 2) {
    HGX_UNROLL for (int i = 0; i < 2; ++i) {
      w[4 * i] = b_lookup_at<0>(t, h[i]);
      w[4 * i + 1] = b_lookup_at<1>(t, h[i]);
      w[4 * i + 2] = b_lookup_at<2>(t, h[i]);
      w[4 * i + 3] = b_lookup_at<2>(t, b_shift<2>(h[i]));
    }
  } else if constexpr (BITS == 3) {
    const B down = b_shift<4>(l[0]), up = b_shift<-4>(l[0]);
    w[0] = b_lookup_at<4>(t, b_merge(h[0], up, 0x03));
    w[1] = b_lookup_at<1>(t, b_merge(h[0], l[0], 0x0c));
    w[2] = b_lookup_at<2>(t, b_merge(h[0], l[0], 0x30));
    w[3] = b_lookup_at<3>(t, b_merge(b_shift<2>(h[0]), l[0], 0x30));
    w[4] = b_lookup_at<4>(t, b_merge(h[1], l[0], 0x03));
    w[5] = b_lookup_at<5>(t, b_merge(h[1], l[0], 0x0c));
    w[6] = b_lookup_at<2>(t, b_merge(h[1], down, 0x30));
    w[7] = b_lookup_at<3>(t, b_merge(b_shift<2>(h[1]), down, 0x30));
  } else {
    const B up4 = b_shift<-4>(l[0]), up2 = b_shift<-2>(l[0]), down = b_shift<2>(l[0]);
    w[0] = b_lookup_at<1>(t, b_merge(h[0], up4, 0x0f));
    w[1] = b_lookup_at<2>(t, b_merge(b_shift<4>(h[0]), up4, 0x0f));
    w[2] = b_lookup_at<1>(t, b_merge(h[1], up2, 0x0f));
    w[3] = b_lookup_at<2>(t, b_merge(b_shift<4>(h[1]), up2, 0x0f));
    w[4] = b_lookup_at<1>(t, b_merge(h[2], l[0], 0x0f));
    w[5] = b_lookup_at<2>(t, b_merge(b_shift<4>(h[2]), l[0], 0x0f));
    w[6] = b_lookup_at<1>(t, b_merge(h[3], down, 0x0f));
    w[7] = b_lookup_at<2>(t, b_merge(b_shift<4>(h[3]), down, 0x0f));
  }
}
#endif

/* The 8 operands of 32 inputs. high, low: where the planes of these inputs begin. */
template <class C>
HGX_INLINE void c_eight(const Table &table, const uint8_t *high, const uint8_t *low, B (&w)[8]) {
  B h[8], l[8];
  HGX_UNROLL for (int i = 0; i < C::HIGH; ++i) {
    h[i] = b_load(high + 64 * i);
    if (C::HIGH < 8) b_keep(h[i]);
  }
  HGX_UNROLL for (int i = 0; i < C::LOW; ++i) {
    l[i] = b_load(low + 64 * i);
    b_keep(l[i]);
  }
#ifdef HGX_VBMI
  if constexpr (C::BITS == 2 || C::BITS == 3 || C::BITS == 5) return c_lookups<C::BITS>(table, h, l, w);
#endif
  w[0] = c_quad<C, 0>(table, h, l);
  w[1] = c_quad<C, 1>(table, h, l);
  w[2] = c_quad<C, 2>(table, h, l);
  w[3] = c_quad<C, 3>(table, h, l);
  w[4] = c_quad<C, 4>(table, h, l);
  w[5] = c_quad<C, 5>(table, h, l);
  w[6] = c_quad<C, 6>(table, h, l);
  w[7] = c_quad<C, 7>(table, h, l);
}

/* Codes of `groups` times 32 inputs of a unit to lines. ahead: where as many bytes will be read later; beyond the
 * end of the array that does nothing. */
template <class C>
HGX_FUNCTION void unpack_unit(const Table &given, const uint8_t *unit, int groups, const uint8_t *ahead,
                              uint8_t *lines) {
  const Table table = given;
  const uint8_t *high = unit, *low = unit + groups * C::HIGH * 64;
  for (int group = 0; group < groups; ++group) {
    B w[8];
    HGX_UNROLL for (int i = 0; i < C::BITS; ++i) prefetch(ahead + 64 * i);
    c_eight<C>(table, high, low, w);
    HGX_UNROLL for (int i = 0; i < 8; ++i) b_store(lines + 64 * i, w[i]);
    ahead += 64 * C::BITS;
    high += 64 * C::HIGH;
    low += 64 * C::LOW;
    lines += 512;
  }
}

typedef void (*Unpack)(const Table &table, const uint8_t *unit, int groups, const uint8_t *ahead, uint8_t *lines);

/* `work(Codes<..>())` for the codes of a matrix. */
template <class Work>
HGX_INLINE void with_codes(int bits, bool table, Work work) {
  if (table) {
    switch (bits) {
      case 2: return work(Codes<2, true>());
      case 3: return work(Codes<3, true>());
      case 4: return work(Codes<4, true>());
      default: return work(Codes<5, true>());
    }
  }
  switch (bits) {
    case 2: return work(Codes<2, false>());
    case 3: return work(Codes<3, false>());
    case 4: return work(Codes<4, false>());
    case 5: return work(Codes<5, false>());
    case 6: return work(Codes<6, false>());
    default: return work(Codes<8, false>());
  }
}
