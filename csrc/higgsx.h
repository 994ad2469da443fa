/* HIGGS-X native kernels: the C interface. Plain pointers and sizes; no torch, no C++ in the signatures.
 *
 * Every function checks its arguments and returns a status; none prints, aborts, throws or allocates more
 * than small scratch space. Any bytes of the right size are safe to read: a bad code gives a wrong number.
 *
 * Numbers that this file defines hold for every tier (instruction set) and any number of threads, to the bit:
 * all sums have a fixed order, "fma" is one rounding, everything else rounds after each operation (binary32,
 * to nearest even). A result depends neither on how many tokens are computed together nor on the tier.
 */
#ifndef HIGGSX_H
#define HIGGSX_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

#define HGX_ABI 1

enum hgx_status {
  HGX_OK = 0,
  HGX_BAD_ARGUMENT = 1, /* null pointer, negative or impossible size */
  HGX_BAD_MATRIX = 2,   /* parameters of a matrix contradict each other */
  HGX_BAD_SIZE = 3,     /* an array is shorter than its shape needs */
  HGX_BAD_INDEX = 4,    /* a row, buffer, position or sequence that is not there */
  HGX_NO_TIER = 5,      /* unknown tier, or this processor lacks it */
  HGX_NO_MEMORY = 6
};

enum hgx_dtype { HGX_F32 = 0, HGX_F16 = 1, HGX_BF16 = 2 };

/* Machine ------------------------------------------------------------------------------------------- */

int hgx_abi(void);
const char *hgx_message(int status);
/* Names of the tiers compiled in, lowest first: "scalar", "avx2", "avxvnni", "avx512", "vnni", "vbmi", "neon".
 * NULL beyond the last. */
const char *hgx_tier_name(int index);
/* 1 if this processor (and its operating system) can run it. */
int hgx_tier_runs(const char *name);
/* NULL chooses the highest that runs. The environment is not read here. */
int hgx_set_tier(const char *name);
const char *hgx_tier(void);
/* Threads of the pool, at least 1; the calling thread is one of them. Safe after fork. */
int hgx_set_threads(int threads);
int hgx_threads(void);
/* Run on another pool instead of our own: `parallel(body, data, threads, 0)` calls `body(data)` on up to that
 * many threads at once (the shape of GOMP_parallel), `number()` and `team()` tell each of them its index and
 * how many there are. All NULL: our own pool again. Programs (below) always run on our own. */
int hgx_borrow_threads(void (*parallel)(void (*)(void *), void *, unsigned, unsigned), int (*number)(void),
                       int (*team)(void));

/* A compressed or dense matrix ---------------------------------------------------------------------- */

enum hgx_kind { HGX_DENSE = 0, HGX_PANELS = 1 };
enum hgx_scale { HGX_SCALE_ROW = 0, HGX_SCALE_U8 = 1, HGX_SCALE_F16 = 2 };
enum hgx_zero { HGX_ZERO_NONE = 0, HGX_ZERO_U8 = 1, HGX_ZERO_F16 = 2, HGX_ZERO_MIN = 3 };

/* W, `outputs` x `inputs`, as docs/format.md section 4 lays it out. With a transform the stored matrix is
 * V = W T^-1 and W x = V (T x). Level of code c: u(c) - centre / 2, where u(c) is c, or with a table
 * entries[c] + 128 and centre = 256. */
typedef struct hgx_matrix {
  int32_t kind;     /* hgx_kind */
  int32_t dtype;    /* dense: hgx_dtype of the elements */
  int32_t bits;     /* panels: 2, 3, 4, 5, 6, 8 */
  int32_t block;    /* panels: 32, 64, 128; 0: one scale for a row */
  int32_t scale;    /* hgx_scale; HGX_SCALE_ROW exactly where block is 0 */
  int32_t zero;     /* hgx_zero */
  int32_t centre;   /* 0 to 512 */
  int32_t table;    /* 1: codes are looked up in entries (bits 2 to 5); 0: they are the level */
  int32_t exponent; /* -64 to 64 */
  int32_t width;    /* of the Hadamard blocks, a power of two from 2 to 1024; 0: no transform */
  int32_t transposed; /* dense: 1 if stored [inputs, outputs] */
  int32_t reserved;
  int64_t outputs, inputs;
  int64_t segment;         /* inputs after which Hadamard blocks start anew; 0: the whole row */
  const uint8_t *data;     /* the payload [panels, bytes]; dense: the elements, row-major */
  const uint8_t *rows;     /* what belongs to whole rows [panels, bytes], NULL where there is none */
  const float *multiplier; /* [inputs]: each input is multiplied by it before the butterflies; NULL: by 1 */
  int64_t data_bytes, rows_bytes;
  int8_t entries[32];
} hgx_matrix;

/* HGX_OK, HGX_BAD_MATRIX or HGX_BAD_SIZE. Every function below asks this itself. */
int hgx_check(const hgx_matrix *matrix);

/* Activations --------------------------------------------------------------------------------------- */

/* How a product is computed.
 * INT8   activations rounded to 8 bits per token and unit of 128 inputs, after the transform
 * INT16  with a second pass over the residual: 16 bits in effect
 * FLOAT  binary32
 * Dense matrices are always computed in binary32, whatever the mode: modes must ask for FLOAT, and scratch of
 * hgx_linear has its size. */
enum hgx_mode { HGX_INT8 = 1, HGX_INT16 = 2, HGX_FLOAT = 4 };

/* Prepared activations of `tokens` vectors of `inputs` numbers, U = ceil(inputs / 128) units, K = 128 U:
 * the sections below one after another, each beginning at a multiple of 64 bytes, present if a bit of `modes`
 * asks for them. What lies beyond `inputs` is zero.
 *   INT8 | INT16   q1     int8  [tokens, K]
 *                  scale  f32   [tokens, U]
 *                  sum1   int32 [tokens, 4 U]   of q1 over 32 inputs each
 *   INT16          q2     int8  [tokens, K]
 *                  sum2   int32 [tokens, 4 U]   of q2
 *   FLOAT          x      f32   [tokens, K]
 *                  sumx   f32   [tokens, 4 U]   sum of x over 32 inputs: s[j] = x[j] + x[j+16] for j < 16, then
 *                                               halves are added: s[j] + s[j+8], + 4, + 2, + 1
 * With t = T x of one unit: m = max |t|. If m < 2^-100: scale 0, all codes 0. If m is not finite: scale NaN,
 * codes 0. Else scale = m / 127, i = 127 / m, y = t i, q1 = rint(y), q2 = rint((y - q1) * 254). */
int64_t hgx_prepared_bytes(int64_t inputs, int64_t tokens, int modes);

/* x: [tokens, inputs] of x_dtype, x_stride elements from row to row. Transform and multiplier are the
 * matrix's (nothing else of it is used). */
int hgx_prepare(const hgx_matrix *matrix, int64_t tokens, const void *x, int x_dtype, int64_t x_stride,
                int modes, void *prepared, int64_t prepared_bytes);

/* Products ------------------------------------------------------------------------------------------ */

enum hgx_flags { HGX_ADD = 1 /* y = y + (W x + bias), instead of y = W x + bias */ };

/* y: [tokens, outputs] of y_dtype. `modes` is what `prepared` was made with, `mode` one of them.
 * Integer modes, for each output row, with X = q1 or 254 q1 + q2, over scale blocks b of each unit in order
 * (one block of the unit's inputs where block is 0):
 *   num = 2 sum u(c) X - centre sum X           exact, |num| < 2^31     A2 = 2 sum X, exact
 *   n   = float(num)                            zero none or min
 *   n   = fma(-z, float(A2), float(num))        zero u8, f16
 *   s1  = fma(n, scale of the block, s1)        block 0: s1 = n
 *   m1  = fma(m, float(A2), m1)                 zero min, block > 0; block 0: m1 = float(A2)
 * and over units in order, a the unit's activation scale (INT16: a = scale / 254):
 *   acc = fma(s1, a, acc)     low = fma(m1, a, low)
 * At the end, e = 2^(exponent - 1): block 0 or u8 scales: r = row scale * e; f16 scales: r = e.
 *   y = acc * r                                 zero min: y = fma(low, 0.5, acc * r); block 0: fma(low * m, 0.5, ..)
 * then y + bias if there is one, then HGX_ADD (in y's dtype read as binary32), then rounding to y_dtype.
 * FLOAT differs in: p_j = sum over inputs k with k mod 4 = j of fma(float(2 u(c) - centre), x_k, p_j), in order;
 *   num = (p_0 + p_1) + (p_2 + p_3); A2 = 2 * (sums of 32 added in order); acc = acc + s1, low = low + m1.
 * Dense, over inputs in order: lanes l = k mod 16: p_l = fma(w_k, x_k, p_l), lanes added by halves (8, 4, 2, 1);
 * transposed: one fma after another. x is then not transformed. */
int hgx_multiply(const hgx_matrix *matrix, int64_t tokens, const void *prepared, int64_t prepared_bytes, int modes,
                 int mode, const float *bias, void *y, int y_dtype, int64_t y_stride, int flags);

/* hgx_prepare and hgx_multiply in one call; scratch of hgx_prepared_bytes(inputs, tokens, mode). */
int hgx_linear(const hgx_matrix *matrix, int64_t tokens, const void *x, int x_dtype, int64_t x_stride, int mode,
               const float *bias, void *y, int y_dtype, int64_t y_stride, void *scratch, int64_t scratch_bytes);

/* Values -------------------------------------------------------------------------------------------- */

/* Decoded values of rows first .. first + count - 1, the transform undone: normative to the bit in F32 (format.md
 * 4.5, 4.6), rounded to nearest even otherwise. Multiplier must be the signs. out: [count, inputs]. */
int hgx_decode(const hgx_matrix *matrix, int64_t first, int64_t count, void *out, int out_dtype, int64_t out_stride);
/* The same for rows picked by number. HGX_BAD_INDEX before anything is written. */
int hgx_lookup(const hgx_matrix *matrix, const int64_t *ids, int64_t count, void *out, int out_dtype,
               int64_t out_stride);

/* Attention over strided tensors, for models that run in torch. q [batch, heads, queries, head_dim], k and v
 * [batch, kv_heads, keys, head_dim], out like q; strides in elements of the first three dimensions, the last is 1.
 * causal: query i sees keys up to i + keys - queries.
 * mode FLOAT: the arithmetic of HGX_ATTEND below.
 * mode INT16: the same, but products of whole numbers. round(x, top), with m = max |x|: the numbers are x * (top / m)
 * to the nearest even, their scale m / top; numbers and scale are 0 where m < 2^-100, and the scale NaN where m is not
 * finite. Queries (times f) and keys, each alone, with L = the largest whole number up to 8191 whose square times
 * head_dim is below 2^31; values, each alone, with 8191. score = float(sum) * (scale of the key * scale of the
 * query). p is added to the weights as it is; in each chunk of 64 keys, p times the values' scales is rounded with
 * 4095, and the values become fma(float(sum), scale, values).
 * mode INT8: the same with L = 127. */
typedef struct hgx_strides { int64_t batch, head, row; } hgx_strides;
int hgx_attention(int64_t batch, int64_t heads, int64_t kv_heads, int64_t queries, int64_t keys, int64_t head_dim,
                  const void *q, const void *k, const void *v, void *out, int dtype, const hgx_strides *of_q,
                  const hgx_strides *of_k, const hgx_strides *of_v, const hgx_strides *of_out, float scale, int causal,
                  int mode);

/* A decoder as a list of steps ---------------------------------------------------------------------- */

enum hgx_op {
  HGX_EMBED = 1,   /* out = scale * row ids[t] of matrix. flags & 1: scale * row position[t] + kind, added to out */
  HGX_NORM = 2,    /* out = norm of in over `groups` equal parts of `width` columns. kind 0: rms, 1: layer */
  HGX_PREPARE = 3, /* prepared[slot] = in, for matrices with the transform of `matrix`; kind: modes */
  HGX_LINEAR = 4,  /* out = matrix times prepared[slot] (+ bias). kind: mode, in2: the modes of the slot, flags */
  HGX_ROPE = 5,    /* in place on `heads` heads of head_dim from in_column; kind 0: halves, 1: neighbours */
  HGX_CACHE = 6,   /* keys (in, in_column) and values (in2, in2_column) to the cache of `layer` */
  HGX_ATTEND = 7,  /* out = attention of the queries (in, in_column) over the cache of `layer` */
  HGX_ACT = 8,     /* out = act(in); flags & 1: times in2. kind: hgx_act */
  HGX_SUM = 9,     /* out = in + in2 */
  HGX_PICK = 10,   /* row pick[i] of in becomes row i of out; from here on there are `picked` tokens */
  HGX_CAP = 11     /* in place: cap * tanh(in / cap), or in * scale where cap is 0 */
};

/* What a step writes may be exactly what it reads (NORM, ACT, SUM), else the two do not overlap. A LINEAR follows a
 * PREPARE of its slot with the same inputs and modes. There is at most one PICK; EMBED and CACHE come before it.
 *
 * Orders of operations:
 * NORM    n = width / groups. Sums run in 64 partial sums, input k in number k mod 64; then these as four vectors of
 *         16, (0 + 1) + (2 + 3), then halves (8, 4, 2, 1). layer: mean = sum / n, else 0; d = x - mean, squares by
 *         fma(d, d, sum); y = d * (1 / sqrt(squares / n + eps)), y * (weight + offset) if there is a weight, then
 *         + bias if there is one.
 * ROPE    (a, b) becomes fma(a, cos, -(b * sin)), fma(b, cos, a * sin).
 * ATTEND  The query times f = scale * log2(e) (with a cap: f = scale); score = one fma after another over head_dim;
 *         with a cap: (cap * tanh(score / cap)) * log2(e). Visible positions are taken in chunks of 64 that begin at
 *         multiples of 64. In each, top = the largest score; where top > reference + 8 (at first -infinity), what is
 *         summed so far is multiplied by 2^(reference - top), and reference = top. p = 2^(score - reference). p is
 *         added to one of 16 partial sums (position mod 16), and values by fma(p, value, sum), in order of positions.
 *         Sections of 1024 positions are summed apart (partial sums added by halves) and joined in order: with
 *         2^(reference - larger reference) as b of what was joined before and c of the section, sum = fma(section, c,
 *         sum * b). out = values * (1 / weight).
 * ACT     silu x / (1 + exp(-x)); quick gelu x / (1 + exp(-1.702 x)); gelu tanh x / (1 + exp(-1.5957691 u)), u =
 *         fma(x * x * x, 0.044715, x); gelu erf (0.5 x) * (1 + erf(x * 0.70710678)).
 * exp, 2^x, tanh and erf are defined by csrc/kernels/math.h: within 2 units in the last place (2^x for |x| < 126). */

enum hgx_act { HGX_RELU = 0, HGX_GELU_TANH = 1, HGX_GELU_ERF = 2, HGX_SILU = 3, HGX_QUICK_GELU = 4 };

typedef struct hgx_step {
  int32_t op, kind, flags;
  int32_t in, in2, out; /* buffer numbers */
  int32_t slot;         /* of prepared activations */
  int32_t layer;
  int64_t in_column, in2_column, out_column;
  int64_t width;  /* columns of norm, act, sum, pick, cap */
  int32_t groups; /* norm: parts of width, each normalised alone with the same weight[width / groups] */
  int32_t heads, kv_heads, head_dim;
  int32_t rotary; /* rope: rotated dimensions of each head; the rest stays */
  int32_t window; /* attention: keys that are seen at most, the token's own included; 0: all */
  float scale;    /* embed; attention: of q k */
  float eps;
  float offset;   /* norm: added to weight */
  float cap;      /* attention: of the scores, 0: none */
  const hgx_matrix *matrix;
  const float *weight; /* norm: [width / groups] or NULL; rope: cosines [positions, rotary / 2] */
  const float *bias;   /* norm, linear; rope: sines */
  int64_t positions;   /* rope: rows of the tables */
} hgx_step;

/* What a program works on. Buffers are [rows, stride] of f32 and do not overlap. The cache of a layer, of
 * cache_dtype, with C = context rounded up to a multiple of 16: values [sequences, kv_heads, C, head_dim]; keys
 * [sequences, kv_heads, C / 16, head_dim, 16], 16 positions beside each other. What was never written is never used. */
typedef struct hgx_state {
  int64_t rows;
  int32_t buffers, slots, layers, cache_dtype;
  float *const *buffer;
  const int64_t *stride;
  void *const *prepared;
  const int64_t *prepared_bytes;
  void *const *keys;
  void *const *values;
  const int64_t *cache_bytes; /* of keys, and of values, of each layer */
  int64_t sequences, context;
} hgx_state;

/* Run all steps for `tokens` tokens; token t stands at position[t] of sequence[t]. Tokens of one sequence are in
 * ascending order of positions, and every earlier position of that sequence is in the cache already or comes before
 * it in this call. pick: rows of the last block whose results are wanted, `picked` of them.
 * Everything is checked before the first step runs. */
int hgx_run(const hgx_step *steps, int64_t count, const hgx_state *state, int64_t tokens, const int32_t *ids,
            const int32_t *sequence, const int32_t *position, const int32_t *pick, int64_t picked);

/* What this machine can do, for benchmarks ---------------------------------------------------------- */

/* Reads every byte once with all threads of the pool; returns a sum so that nothing is left out. */
uint64_t hgx_probe_read(const void *data, int64_t bytes);
/* Multiply-adds of `rounds` rounds of the tier's fastest 8-bit product on all threads, operands in registers. */
int64_t hgx_probe_multiply(int64_t rounds);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
