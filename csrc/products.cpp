// hgx_prepare, hgx_multiply and hgx_linear: checks, then the work is split over the threads. No split changes a
// result: every number is computed by one thread in the order that higgsx.h fixes.
#include "check.h"
#include "cpu.h"
#include "layout.h"
#include "pool.h"
#include "prepared.h"
#include "scratch.h"

using namespace higgsx;

namespace {

// Rough costs in nanoseconds of one thread decide how many take part.
constexpr double kWorthWaking = 10'000;
constexpr double kShare = 5'000;  // a thread has at least so much to do
constexpr double kPrepareNs = 0.25;  // an input
constexpr double kByteNs = 1.0 / 24;
constexpr double kIntegerNs = 1.0 / 128, kFloatNs = 1.0 / 40;  // a multiply-add
constexpr int64_t kMostBytes = 1 << 19, kLeastBytes = 1 << 15;  // of weights, that a thread takes at a time

int threads_for(double nanoseconds) {
  if (nanoseconds < kWorthWaking) return 1;
  const double threads = nanoseconds / kShare;
  const int most = pool_threads();
  return threads < most ? static_cast<int>(threads) : most;
}

// Prepare -------------------------------------------------------------------------------------------

struct PrepareJob {
  const hgx_matrix *matrix;
  const MatrixKernels *kernels;
  const uint8_t *x;
  int x_dtype, modes;
  int64_t row_bytes;  // from token to token
  Prepared view;
  int64_t step, groups;  // units that are prepared together, and how many such groups a token has
  Chunks *chunks;        // of tokens * groups
};

void prepare_body(void *data, int, int) {
  const auto *job = static_cast<PrepareJob *>(data);
  for (int64_t begin, end; job->chunks->take(&begin, &end);) {
    while (begin < end) {
      const int64_t token = begin / job->groups, group = begin % job->groups;
      const int64_t left = end - begin, of_token = job->groups - group;
      const int64_t count = left < of_token ? left : of_token;
      const int64_t last = (group + count) * job->step;
      job->kernels->prepare(*job->matrix, job->x + token * job->row_bytes, job->x_dtype, job->modes, job->view, token,
                            group * job->step, last < job->view.units ? last : job->view.units);
      begin += count;
    }
  }
}

void prepare(const hgx_matrix *matrix, int64_t tokens, const void *x, int x_dtype, int64_t x_stride, int modes,
             void *prepared) {
  const MatrixKernels *kernels = current_tier()->matrix;
  PrepareJob job{matrix, kernels, static_cast<const uint8_t *>(x), x_dtype, modes, x_stride * dtype_bytes(x_dtype),
                 {}, kernels->prepare_units(*matrix), 1, nullptr};
  prepared_layout(matrix->inputs, tokens, modes, prepared, &job.view);
  job.groups = (job.view.units + job.step - 1) / job.step;
  const double work = static_cast<double>(tokens) * static_cast<double>(matrix->inputs) * kPrepareNs;
  const int threads = threads_for(work);
  const int64_t items = tokens * job.groups;
  Chunks chunks(items, threads == 1 ? items : items / (8 * threads));
  job.chunks = &chunks;
  pool_run(prepare_body, &job, threads);
}

// Multiply, panels ----------------------------------------------------------------------------------

struct MultiplyJob {
  const hgx_matrix *matrix;
  const MatrixKernels *kernels;
  Prepared view;
  int mode;
  const float *bias;
  void *y;
  int y_dtype;
  int64_t y_stride;
  int flags;
  int64_t panels, panel_step, panel_parts, token_step;
  Chunks *chunks;  // of panel parts, for each part of the tokens
  std::atomic<bool> failed;
};

void multiply_body(void *data, int, int) {
  auto *job = static_cast<MultiplyJob *>(data);
  void *scratch = thread_scratch(job->kernels->scratch_bytes);
  if (scratch == nullptr) return job->failed.store(true);
  for (int64_t begin, end; job->chunks->take(&begin, &end);) {
    const int64_t panel = begin % job->panel_parts * job->panel_step;
    const int64_t token = begin / job->panel_parts * job->token_step;
    const int64_t panels = job->panels - panel < job->panel_step ? job->panels - panel : job->panel_step;
    const int64_t tokens = job->view.tokens - token < job->token_step ? job->view.tokens - token : job->token_step;
    job->kernels->multiply(*job->matrix, job->view, token, token + tokens, job->mode, panel, panel + panels, job->bias,
                           job->y, job->y_dtype, job->y_stride, job->flags, scratch);
  }
}

// Panels and tokens that a thread takes at a time: long runs of memory, but several for each thread.
void split(MultiplyJob *job, int threads) {
  const int64_t tokens = job->view.tokens, at_once = job->kernels->panels_at_once;
  job->panel_step = job->panels;
  job->token_step = tokens;
  if (threads > 1) {
    const int64_t bytes = panel_bytes(job->matrix);
    const int64_t most = kMostBytes / bytes, least = kLeastBytes / bytes, fair = job->panels / (8 * threads);
    const int64_t step = fair > most ? most : fair < least ? least : fair;
    job->panel_step = round_up(step < 1 ? 1 : step, at_once);
    const int64_t parts = (job->panels + job->panel_step - 1) / job->panel_step;
    const int64_t wanted = (2 * threads + parts - 1) / parts;  // parts of the tokens, so that nobody waits long
    if (wanted > 1) job->token_step = round_up((tokens + wanted - 1) / wanted, job->kernels->tokens_at_once);
  }
  job->panel_parts = (job->panels + job->panel_step - 1) / job->panel_step;
}

int multiply_panels(const hgx_matrix *matrix, const Prepared &view, int mode, const float *bias, void *y, int y_dtype,
                    int64_t y_stride, int flags) {
  MultiplyJob job{matrix, current_tier()->matrix, view, mode, bias, y, y_dtype, y_stride, flags,
                  panels_of(matrix->outputs), 0, 0, 0, nullptr, {false}};
  const double bytes = static_cast<double>(job.panels) * static_cast<double>(panel_bytes(matrix));
  const double products = static_cast<double>(job.panels * kPanel) * static_cast<double>(matrix->inputs) *
                          static_cast<double>(view.tokens) * (mode == HGX_INT16 ? 2 : 1);
  const int threads = threads_for(bytes * kByteNs + products * (mode == HGX_FLOAT ? kFloatNs : kIntegerNs));
  split(&job, threads);
  const int64_t token_parts = (view.tokens + job.token_step - 1) / job.token_step;
  Chunks chunks(job.panel_parts * token_parts, 1);
  job.chunks = &chunks;
  pool_run(multiply_body, &job, threads);
  return job.failed.load() ? HGX_NO_MEMORY : HGX_OK;
}

// Multiply, dense -----------------------------------------------------------------------------------

struct DenseJob {
  const hgx_matrix *matrix;
  const RowKernels *kernels;
  int64_t tokens;
  const float *x;
  int64_t x_stride;
  DenseOut to;
  Chunks *chunks;  // of outputs
};

void dense_body(void *data, int, int) {
  const auto *job = static_cast<DenseJob *>(data);
  for (int64_t begin, end; job->chunks->take(&begin, &end);) {
    job->kernels->dense(job->matrix, begin, end - begin, job->tokens, job->x, job->x_stride, &job->to);
  }
}

// Outputs that a thread takes at a time.
int64_t dense_step(const hgx_matrix *matrix, int threads) {
  if (matrix->transposed == 1) return round_up(matrix->outputs / (4 * threads) + 1, 64);
  const int64_t fair = matrix->outputs / (8 * threads);
  const int64_t most = kMostBytes / (matrix->inputs * dtype_bytes(matrix->dtype));
  return round_up((fair < most ? fair : most) + 1, 16);
}

void multiply_dense(const hgx_matrix *matrix, int64_t tokens, const float *x, int64_t x_stride, const DenseOut &to) {
  const double weights = static_cast<double>(matrix->outputs) * static_cast<double>(matrix->inputs);
  const double bytes = weights * static_cast<double>(dtype_bytes(matrix->dtype));
  const int threads = threads_for(bytes * kByteNs + weights * static_cast<double>(tokens) * kFloatNs);
  Chunks chunks(matrix->outputs, threads == 1 ? matrix->outputs : dense_step(matrix, threads));
  DenseJob job{matrix, current_tier()->rows, tokens, x, x_stride, to, &chunks};
  pool_run(dense_body, &job, threads);
}

// Checks --------------------------------------------------------------------------------------------

// What hgx_prepare uses of a matrix.
int check_transform(const hgx_matrix *m) {
  if (m == nullptr) return HGX_BAD_ARGUMENT;
  const bool width = m->width == 0 || (m->width >= 2 && m->width <= 1024 && (m->width & (m->width - 1)) == 0);
  const bool sizes = m->inputs >= 1 && m->inputs < kMaxSize && m->segment >= 0 && m->segment < kMaxSize;
  return width && sizes ? HGX_OK : HGX_BAD_MATRIX;
}

int check_rows(const void *data, int dtype, int64_t rows, int64_t columns, int64_t stride) {
  if (data == nullptr || !is_dtype(dtype)) return HGX_BAD_ARGUMENT;
  return fits(rows, columns, stride, dtype_bytes(dtype)) ? HGX_OK : HGX_BAD_ARGUMENT;
}

// The buffer of prepared activations. 4: they hold binary32 and int32.
int check_prepared(int64_t inputs, int64_t tokens, int modes, const void *prepared, int64_t bytes) {
  if (!are_modes(modes) || prepared == nullptr || reinterpret_cast<uintptr_t>(prepared) % 4 != 0) {
    return HGX_BAD_ARGUMENT;
  }
  const int64_t need = hgx_prepared_bytes(inputs, tokens, modes);
  return need < 0 ? HGX_BAD_ARGUMENT : bytes < need ? HGX_BAD_SIZE : HGX_OK;
}

int first_of(int a, int b) { return a != HGX_OK ? a : b; }

int check_product(const hgx_matrix *matrix, int64_t tokens, const void *y, int y_dtype, int64_t y_stride, int flags) {
  const int status = hgx_check(matrix);
  if (status != HGX_OK) return status;
  if (tokens < 0 || (flags & ~HGX_ADD) != 0) return HGX_BAD_ARGUMENT;
  return tokens == 0 ? HGX_OK : check_rows(y, y_dtype, tokens, matrix->outputs, y_stride);
}

}  // namespace

extern "C" {

int hgx_prepare(const hgx_matrix *matrix, int64_t tokens, const void *x, int x_dtype, int64_t x_stride, int modes,
                void *prepared, int64_t prepared_bytes) {
  int status = check_transform(matrix);
  if (status != HGX_OK) return status;
  if (tokens < 0 || !are_modes(modes)) return HGX_BAD_ARGUMENT;
  if (tokens == 0) return HGX_OK;
  status = first_of(check_rows(x, x_dtype, tokens, matrix->inputs, x_stride),
                    check_prepared(matrix->inputs, tokens, modes, prepared, prepared_bytes));
  if (status != HGX_OK) return status;
  prepare(matrix, tokens, x, x_dtype, x_stride, modes, prepared);
  return HGX_OK;
}

int hgx_multiply(const hgx_matrix *matrix, int64_t tokens, const void *prepared, int64_t prepared_bytes, int modes,
                 int mode, const float *bias, void *y, int y_dtype, int64_t y_stride, int flags) {
  int status = check_product(matrix, tokens, y, y_dtype, y_stride, flags);
  if (status != HGX_OK) return status;
  if (!is_mode(mode) || (modes & mode) == 0) return HGX_BAD_ARGUMENT;
  if (matrix->kind == HGX_DENSE && (modes & HGX_FLOAT) == 0) return HGX_BAD_ARGUMENT;
  if (tokens == 0) return HGX_OK;
  status = check_prepared(matrix->inputs, tokens, modes, prepared, prepared_bytes);
  if (status != HGX_OK) return status;
  Prepared view;
  prepared_layout(matrix->inputs, tokens, modes, const_cast<void *>(prepared), &view);
  if (matrix->kind == HGX_PANELS) return multiply_panels(matrix, view, mode, bias, y, y_dtype, y_stride, flags);
  multiply_dense(matrix, tokens, view.x, view.units * kUnit, DenseOut{bias, y, y_stride, y_dtype, flags});
  return HGX_OK;
}

int hgx_linear(const hgx_matrix *matrix, int64_t tokens, const void *x, int x_dtype, int64_t x_stride, int mode,
               const float *bias, void *y, int y_dtype, int64_t y_stride, void *scratch, int64_t scratch_bytes) {
  int status = check_product(matrix, tokens, y, y_dtype, y_stride, 0);
  if (status != HGX_OK) return status;
  if (!is_mode(mode)) return HGX_BAD_ARGUMENT;
  if (tokens == 0) return HGX_OK;
  if (matrix->kind == HGX_DENSE) mode = HGX_FLOAT;
  status = first_of(check_rows(x, x_dtype, tokens, matrix->inputs, x_stride),
                    check_prepared(matrix->inputs, tokens, mode, scratch, scratch_bytes));
  if (status != HGX_OK) return status;
  if (matrix->kind == HGX_DENSE && x_dtype == HGX_F32) {
    multiply_dense(matrix, tokens, static_cast<const float *>(x), x_stride, DenseOut{bias, y, y_stride, y_dtype, 0});
    return HGX_OK;
  }
  prepare(matrix, tokens, x, x_dtype, x_stride, mode, scratch);
  return hgx_multiply(matrix, tokens, scratch, scratch_bytes, mode, mode, bias, y, y_dtype, y_stride, 0);
}

}
