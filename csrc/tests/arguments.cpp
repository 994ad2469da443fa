// Bad arguments: whatever the numbers in a matrix or a call say, the answer is a status and nothing is touched.
#include "samples.h"

using check::Bytes;
using check::Random;
using check::Sample;

namespace {

int64_t odd_number(Random &random) {
  static const int64_t values[] = {-1, 0, 1, 2, 3, 5, 7, 16, 31, 32, 33, 64, 100, 127, 128, 129, 256, 512, 1024, 2048,
                                   -64, 64, 65, 1 << 20, INT32_MAX, INT32_MIN, int64_t{1} << 33, int64_t{1} << 62,
                                   INT64_MAX, INT64_MIN};
  return random.below(8) == 0 ? static_cast<int64_t>(random.next()) : random.pick(values);
}

// A matrix of any numbers: hgx_check reads no array.
void any_matrix(Random &random) {
  hgx_matrix m{};
  int32_t *fields[] = {&m.kind, &m.dtype, &m.bits, &m.block, &m.scale, &m.zero, &m.centre, &m.table,
                       &m.exponent, &m.width, &m.transposed, &m.reserved};
  for (int32_t *field : fields) *field = static_cast<int32_t>(odd_number(random));
  if (random.below(2)) {  // closer to a true one
    m.kind = static_cast<int32_t>(random.below(2));
    m.dtype = static_cast<int32_t>(random.below(3));
    m.bits = 4;
    m.block = 32;
    m.scale = 1;
    m.zero = m.table = m.width = 0;
    m.exponent = 0;
    m.centre = 15;
    m.reserved = 0;
    *fields[random.below(12)] = static_cast<int32_t>(odd_number(random));
  }
  m.outputs = odd_number(random);
  m.inputs = odd_number(random);
  m.segment = random.below(2) ? 0 : odd_number(random);
  static const uint8_t nothing[1] = {0};
  m.data = random.below(8) ? nothing : nullptr;
  m.rows = random.below(2) ? nothing : nullptr;
  m.data_bytes = odd_number(random);
  m.rows_bytes = odd_number(random);
  (void)hgx_check(&m);
}

// One field of a good matrix made bad; every call must refuse it, or work within what the arrays hold.
void spoiled_matrix(Random &random) {
  Sample s = check::any(random, 1 + random.below(40), 1 + random.below(200));
  hgx_matrix m = s.matrix;
  const int64_t outputs = m.outputs, inputs = m.inputs;
  int32_t *fields[] = {&m.kind, &m.dtype, &m.bits, &m.block, &m.scale, &m.zero, &m.centre, &m.table,
                       &m.exponent, &m.width, &m.transposed};
  switch (random.below(8)) {
    case 0: m.outputs = random.below(2) ? -1 - random.below(100) : outputs + 16 + random.below(100); break;
    case 1: m.inputs = random.below(2) ? INT64_MAX - random.below(300) : inputs + 128 + random.below(100); break;
    case 2: m.data_bytes = random.below(m.data_bytes); break;
    case 3: m.rows_bytes = random.below(m.rows_bytes + 1); break;
    case 4: m.data = nullptr; break;
    case 5: m.rows = nullptr; break;
    case 6: m.segment = odd_number(random); break;
    default: *fields[random.below(11)] = static_cast<int32_t>(odd_number(random));
  }
  if (hgx_check(&m) == HGX_OK && (m.outputs > outputs || m.inputs > inputs))
    check::fail(__FILE__, __LINE__, "a matrix larger than its arrays was accepted", s.name);
  const int mode = m.kind == HGX_DENSE ? HGX_FLOAT : HGX_INT8;
  const int64_t tokens = 2;
  Bytes x(4 * tokens * inputs), y(4 * tokens * outputs), scratch(hgx_prepared_bytes(inputs, tokens, HGX_INT8 | HGX_FLOAT));
  x.fill_numbers(random, 1.0f);
  const int checked = hgx_check(&m);
  const int status = hgx_linear(&m, tokens, x.data(), HGX_F32, inputs, mode, nullptr, y.data(), HGX_F32, outputs,
                                scratch.data(), scratch.size());
  if (checked != HGX_OK) {
    CHECK(status == checked, s.name);
    for (int64_t i = 0; i < y.size(); ++i) CHECK(y.data()[i] == 0xFF, s.name + ": written in spite of an error");
  }
  Bytes out(4 * inputs);
  const int64_t ids[] = {outputs - 1};
  (void)hgx_decode(&m, 0, 1, out.data(), HGX_F32, inputs);
  (void)hgx_lookup(&m, ids, 1, out.data(), HGX_F32, inputs);
}

// Good matrix, bad call.
void spoiled_call(Random &random) {
  Sample s = check::any(random, 1 + random.below(40), 1 + random.below(200));
  const hgx_matrix &m = s.matrix;
  const int mode = m.kind == HGX_DENSE ? HGX_FLOAT : HGX_INT8;
  const int64_t size = hgx_prepared_bytes(m.inputs, 2, mode);
  Bytes x(4 * 2 * m.inputs), y(4 * 2 * m.outputs), prepared(size), out(4 * m.inputs);
  x.fill_numbers(random, 1.0f);
  CHECK_OK(hgx_prepare(&m, 2, x.data(), HGX_F32, m.inputs, mode, prepared.data(), size), s.name);
  const int64_t bad_id[] = {m.outputs}, low_id[] = {-1};
  int status = HGX_OK;
  switch (random.below(20)) {
    case 0: status = hgx_linear(&m, -1, x.data(), 0, m.inputs, mode, nullptr, y.data(), 0, m.outputs, prepared.data(), size); break;
    case 1: status = hgx_linear(&m, 2, nullptr, 0, m.inputs, mode, nullptr, y.data(), 0, m.outputs, prepared.data(), size); break;
    case 2: status = hgx_linear(&m, 2, x.data(), 3, m.inputs, mode, nullptr, y.data(), 0, m.outputs, prepared.data(), size); break;
    case 3: status = hgx_linear(&m, 2, x.data(), 0, m.inputs, 3, nullptr, y.data(), 0, m.outputs, prepared.data(), size); break;
    case 4: status = hgx_linear(&m, 2, x.data(), 0, m.inputs, mode, nullptr, y.data(), 9, m.outputs, prepared.data(), size); break;
    case 5: status = hgx_linear(&m, 2, x.data(), 0, m.inputs, mode, nullptr, y.data(), 0, m.outputs, prepared.data(), size - 1); break;
    case 6: status = hgx_linear(&m, 2, x.data(), 0, m.inputs, mode, nullptr, nullptr, 0, m.outputs, prepared.data(), size); break;
    case 7: status = hgx_prepare(&m, 2, x.data(), 0, m.inputs, 0, prepared.data(), size); break;
    case 8: status = hgx_prepare(&m, 2, x.data(), 0, m.inputs, 8, prepared.data(), size); break;
    case 9: status = hgx_prepare(&m, 2, x.data(), 0, m.inputs, mode, nullptr, size); break;
    case 10: status = hgx_prepare(nullptr, 2, x.data(), 0, m.inputs, mode, prepared.data(), size); break;
    case 11: status = hgx_multiply(&m, 2, prepared.data(), size - 1, mode, mode, nullptr, y.data(), 0, m.outputs, 0); break;
    case 12: status = hgx_multiply(&m, INT64_MAX / 2, prepared.data(), size, mode, mode, nullptr, y.data(), 0, m.outputs, 0); break;
    case 13: status = hgx_multiply(&m, 2, prepared.data(), size, mode, 6, nullptr, y.data(), 0, m.outputs, 0); break;
    case 14: status = hgx_decode(&m, -1, 1, out.data(), 0, m.inputs); break;
    case 15: status = hgx_decode(&m, m.outputs, 1, out.data(), 0, m.inputs); break;
    case 16: status = hgx_decode(&m, 1, INT64_MAX, out.data(), 0, m.inputs); break;
    case 17: status = hgx_lookup(&m, bad_id, 1, out.data(), 0, m.inputs); break;
    case 18: status = hgx_lookup(&m, low_id, 1, out.data(), 0, m.inputs); break;
    default: status = hgx_decode(&m, 0, 1, out.data(), 7, m.inputs); break;
  }
  CHECK(status != HGX_OK, s.name + ": a bad call was accepted");
  for (int64_t i = 0; i < y.size(); ++i) CHECK(y.data()[i] == 0xFF, s.name);
  for (int64_t i = 0; i < out.size(); ++i) CHECK(out.data()[i] == 0xFF, s.name);
}

}  // namespace

void drive_arguments(int rounds) {
  Random random(7);
  CHECK(hgx_abi() == HGX_ABI, "abi");
  for (int status = -2; status < 12; ++status) CHECK(hgx_message(status) != nullptr, "message");
  CHECK(hgx_set_tier("no such tier") == HGX_NO_TIER, "tier");
  CHECK(hgx_set_threads(0) == HGX_BAD_ARGUMENT && hgx_set_threads(-3) == HGX_BAD_ARGUMENT, "threads");
  CHECK(hgx_tier_name(-1) == nullptr && hgx_tier_name(1000) == nullptr, "tier names");
  CHECK(hgx_check(nullptr) != HGX_OK, "no matrix");
  CHECK(hgx_run(nullptr, 1, nullptr, 1, nullptr, nullptr, nullptr, nullptr, 0) != HGX_OK, "no program");
  for (int round = 0; round < rounds; ++round) {
    for (int i = 0; i < 50; ++i) any_matrix(random);
    spoiled_matrix(random);
    spoiled_call(random);
  }
}
