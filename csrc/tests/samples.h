// Random matrices: every format, any bytes, arrays of exactly the size that the format says.
#ifndef HIGGSX_TESTS_SAMPLES_H
#define HIGGSX_TESTS_SAMPLES_H

#include "check.h"

namespace check {

struct Sample {
  hgx_matrix matrix{};
  Bytes data, rows, multiplier;
  int64_t skipped = 0;  // bytes of data and rows before what the matrix uses: it need not be aligned
  std::string name;
};

inline int64_t panel_bytes(const hgx_matrix &m) {
  static const int scale_bytes[] = {0, 1, 2};
  static const int zero_bytes[] = {0, 1, 2, 2};
  int64_t bytes = 0;
  for (int64_t begin = 0; begin < m.inputs; begin += 128) {
    const int64_t width = m.inputs - begin < 128 ? m.inputs - begin : 128;
    bytes += (width + 31) / 32 * 32 * 2 * m.bits;
    if (m.block > 0) bytes += (width + m.block - 1) / m.block * 16 * (scale_bytes[m.scale] + zero_bytes[m.zero]);
  }
  return bytes;
}

inline int64_t row_bytes(const hgx_matrix &m) {
  static const int zero_bytes[] = {0, 1, 2, 2};
  if (m.block > 0) return m.scale == HGX_SCALE_U8 ? 32 : 0;
  return 32 + 16 * zero_bytes[m.zero];
}

inline void attach(Sample &sample) {
  sample.matrix.data = sample.data.data() + sample.skipped;
  sample.matrix.data_bytes = sample.data.size() - sample.skipped;
  sample.matrix.rows = sample.rows.size() > sample.skipped ? sample.rows.data() + sample.skipped : nullptr;
  sample.matrix.rows_bytes = sample.rows.size() - sample.skipped;
  sample.matrix.multiplier = sample.multiplier.size() > 0 ? sample.multiplier.as<float>() : nullptr;
}

// An ordinary float16 between 2^-14 and 4 of either sign.
inline uint16_t half(Random &random) {
  return static_cast<uint16_t>((random.next() & 0x83FFu) | static_cast<uint64_t>((1 + random.below(16)) << 10));
}

inline void halves(Bytes &bytes, Random &random, int64_t skipped = 0) {
  for (int64_t at = skipped; at + 2 <= bytes.size(); at += 2) {
    const uint16_t value = half(random);
    std::memcpy(bytes.data() + at, &value, 2);
  }
}

inline Sample panels(Random &random, int64_t outputs, int64_t inputs) {
  static const int32_t bits[] = {2, 3, 4, 5, 6, 8};
  static const int32_t blocks[] = {0, 32, 64, 128};
  static const int32_t widths[] = {0, 2, 16, 32, 64, 128, 256, 1024};
  Sample sample;
  hgx_matrix &m = sample.matrix;
  m.kind = HGX_PANELS;
  m.outputs = outputs;
  m.inputs = inputs;
  m.bits = random.pick(bits);
  m.block = random.pick(blocks);
  m.scale = m.block == 0 ? HGX_SCALE_ROW : random.below(2) ? HGX_SCALE_U8 : HGX_SCALE_F16;
  m.table = m.bits <= 5 && random.below(2) ? 1 : 0;
  m.zero = m.table ? HGX_ZERO_NONE : static_cast<int32_t>(random.below(4));
  m.centre = m.table ? 256 : m.zero == HGX_ZERO_NONE ? (1 << m.bits) - 1 : 0;
  m.exponent = static_cast<int32_t>(random.below(9)) - 4;
  m.width = random.pick(widths);
  m.segment = random.below(4) == 0 && inputs > 3 ? 1 + random.below(inputs) : 0;
  for (int i = 0; i < 32; ++i) m.entries[i] = static_cast<int8_t>(random.next());
  const int64_t count = (outputs + 15) / 16;
  sample.skipped = random.below(4) == 0 ? 1 : 0;
  sample.data = Bytes(sample.skipped + count * panel_bytes(m));
  sample.rows = Bytes(sample.skipped + count * row_bytes(m));
  sample.data.fill_random(random);
  if (random.below(4) == 0) {
    sample.rows.fill_random(random);  // scales may be infinite or NaN
  } else {
    halves(sample.rows, random, sample.skipped);
  }
  if (m.width > 0) {
    sample.multiplier = Bytes(4 * inputs);
    for (int64_t i = 0; i < inputs; ++i) sample.multiplier.as<float>()[i] = random.below(2) ? 1.0f : -1.0f;
  }
  attach(sample);
  sample.name = std::to_string(outputs) + "x" + std::to_string(inputs) + " bits " + std::to_string(m.bits) +
                " block " + std::to_string(m.block) + " scale " + std::to_string(m.scale) + " zero " +
                std::to_string(m.zero) + " table " + std::to_string(m.table) + " width " + std::to_string(m.width) +
                " segment " + std::to_string(m.segment);
  return sample;
}

inline Sample dense(Random &random, int64_t outputs, int64_t inputs) {
  Sample sample;
  hgx_matrix &m = sample.matrix;
  m.kind = HGX_DENSE;
  m.dtype = static_cast<int32_t>(random.below(3));
  m.outputs = outputs;
  m.inputs = inputs;
  m.transposed = static_cast<int32_t>(random.below(2));
  sample.data = Bytes(outputs * inputs * item(m.dtype));
  if (m.dtype == HGX_F32) {
    sample.data.fill_numbers(random, 1.0f);
  } else {
    halves(sample.data, random);
  }
  attach(sample);
  sample.name = std::to_string(outputs) + "x" + std::to_string(inputs) + " dense dtype " + std::to_string(m.dtype) +
                " transposed " + std::to_string(m.transposed);
  return sample;
}

inline Sample any(Random &random, int64_t outputs, int64_t inputs) {
  return random.below(5) == 0 ? dense(random, outputs, inputs) : panels(random, outputs, inputs);
}

}  // namespace check

#endif
