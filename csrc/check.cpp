#include "check.h"

#include "layout.h"

namespace higgsx {
namespace {

using Wide = unsigned __int128;

bool is_size(int64_t size) { return size >= 1 && size < kMaxSize; }

bool is_power(int64_t value) { return value > 0 && (value & (value - 1)) == 0; }

bool bits_are_known(int bits) { return (bits >= 2 && bits <= 6) || bits == 8; }

bool centre_fits(const hgx_matrix *m) {
  if (m->table == 1) return m->bits <= 5 && m->zero == HGX_ZERO_NONE && m->centre == 256;
  return m->centre >= 0 && m->centre <= (m->zero == HGX_ZERO_NONE ? 2 << m->bits : 0);
}

bool transform_fits(const hgx_matrix *m) {
  if (m->segment < 0 || m->segment >= kMaxSize) return false;
  return m->width == 0 || (m->width >= 2 && m->width <= 1024 && is_power(m->width));
}

int check_panels(const hgx_matrix *m) {
  const bool block = m->block == 0 || m->block == 32 || m->block == 64 || m->block == 128;
  const bool scale = m->block == 0 ? m->scale == HGX_SCALE_ROW
                                   : m->scale == HGX_SCALE_U8 || m->scale == HGX_SCALE_F16;
  const bool zero = m->zero >= HGX_ZERO_NONE && m->zero <= HGX_ZERO_MIN;
  if (!bits_are_known(m->bits) || !block || !scale || !zero || (m->table != 0 && m->table != 1) ||
      !centre_fits(m) || m->exponent < -64 || m->exponent > 64 || m->transposed != 0 || !transform_fits(m)) {
    return HGX_BAD_MATRIX;
  }
  const Wide panels = static_cast<Wide>(panels_of(m->outputs));
  const Wide rows = panels * static_cast<Wide>(row_bytes(m));
  if (m->data == nullptr || (rows != 0 && m->rows == nullptr)) return HGX_BAD_MATRIX;
  if (panels * static_cast<Wide>(panel_bytes(m)) > static_cast<Wide>(m->data_bytes)) return HGX_BAD_SIZE;
  return rows > static_cast<Wide>(m->rows_bytes) ? HGX_BAD_SIZE : HGX_OK;
}

int check_dense(const hgx_matrix *m) {
  if (!is_dtype(m->dtype) || (m->transposed != 0 && m->transposed != 1) || m->width != 0 ||
      m->multiplier != nullptr || m->data == nullptr) {
    return HGX_BAD_MATRIX;
  }
  const Wide need = static_cast<Wide>(m->outputs) * static_cast<Wide>(m->inputs) *
                    static_cast<Wide>(dtype_bytes(m->dtype));
  return need > static_cast<Wide>(m->data_bytes) ? HGX_BAD_SIZE : HGX_OK;
}

int check(const hgx_matrix *m) {
  if (m == nullptr) return HGX_BAD_ARGUMENT;
  if ((m->kind != HGX_DENSE && m->kind != HGX_PANELS) || m->reserved != 0 || !is_size(m->outputs) ||
      !is_size(m->inputs) || m->data_bytes < 0 || m->rows_bytes < 0) {
    return HGX_BAD_MATRIX;
  }
  return m->kind == HGX_DENSE ? check_dense(m) : check_panels(m);
}

// Bytes of prepared activations; 0 where they are more than an int64_t holds.
Wide prepared(int64_t inputs, int64_t tokens, int modes) {
  const Wide t = static_cast<Wide>(tokens), units = static_cast<Wide>(units_of(inputs));
  const auto section = [](Wide bytes) { return (bytes + 63) / 64 * 64; };
  const Wide codes = section(t * units * kUnit), sums = section(t * units * 16);
  Wide bytes = 0;
  if ((modes & (HGX_INT8 | HGX_INT16)) != 0) bytes += codes + section(t * units * 4) + sums;
  if ((modes & HGX_INT16) != 0) bytes += codes + sums;
  if ((modes & HGX_FLOAT) != 0) bytes += section(t * units * kUnit * 4) + sums;
  return bytes;
}

}  // namespace

bool fits(int64_t rows, int64_t columns, int64_t stride, int64_t element_bytes) {
  if (rows < 0 || columns < 0 || element_bytes < 1) return false;
  if (rows <= 1) return static_cast<Wide>(columns) * static_cast<Wide>(element_bytes) < Wide{1} << 62;
  if (stride < columns) return false;
  return static_cast<Wide>(rows) * static_cast<Wide>(stride) * static_cast<Wide>(element_bytes) < Wide{1} << 62;
}

}  // namespace higgsx

extern "C" {

int hgx_check(const hgx_matrix *matrix) { return higgsx::check(matrix); }

int64_t hgx_prepared_bytes(int64_t inputs, int64_t tokens, int modes) {
  using namespace higgsx;
  if (!is_size(inputs) || tokens < 0 || tokens >= kMaxSize || !are_modes(modes)) return -1;
  const Wide bytes = prepared(inputs, tokens, modes);
  return bytes >= Wide{1} << 62 ? -1 : static_cast<int64_t>(bytes);
}

}
