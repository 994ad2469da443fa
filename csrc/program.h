// A call of hgx_run: what it was asked, and the plan that is made of it. Steps become operations, operations stages:
// what lies between two meetings of the threads.
#pragma once

#include <atomic>
#include <cstdint>

#include "prepared.h"
#include "tables.h"

namespace higgsx {

struct Call {
  const hgx_step *steps;
  int64_t count;
  const hgx_state *state;
  int64_t tokens;
  const int32_t *ids, *sequence, *position, *pick;
  int64_t picked;
};

// HGX_OK if every step of the call can be run.
int check_program(const Call &call);

inline int64_t cache_context(const hgx_state &state) { return (state.context + 15) / 16 * 16; }

// Memory of one call; all of it is freed at its end.
class Arena {
 public:
  ~Arena();
  // Aligned to 64. NULL if there is no memory (then also from failed()).
  void *take(int64_t bytes);
  template <class T>
  T *array(int64_t count) {
    return static_cast<T *>(take(count * static_cast<int64_t>(sizeof(T))));
  }
  bool failed() const { return failed_; }

 private:
  struct Slab {
    Slab *before;
    char *at, *end;
  };
  Slab *slab_ = nullptr;
  bool failed_ = false;
};

// Neighbouring tokens of one sequence whose attention is computed together; or one token over one section of keys.
struct Piece {
  int64_t first, count;
  int64_t section;   // -1: all
  int64_t index;     // which of the token's sections it is
  int64_t sections;  // how many the token has
  int64_t partial;   // number of the token's first partial sum (times kv_heads)
};

struct Op {
  const hgx_step *step;
  int64_t tokens;
  float *in, *in2, *out;  // of token 0, at the column where the step begins
  int64_t in_stride, in2_stride, out_stride;
  const int32_t *sequence, *position;
  double cost;                                  // nanoseconds of one thread, roughly
  int64_t items;                                // linear, attention: parts that threads take
  Prepared view;                                // prepare, linear
  int64_t outputs, out_step, parts, token_step; // linear: outputs in panels (dense: one by one), parts of them
  const Piece *pieces;                          // attention
  int64_t piece_count;
};

enum class Kind {
  rows,     // operations that stay within a token: tokens are shared out, all operations for one after another
  columns,  // operations that stay within a piece of a few tokens' columns
  linear,   // products that do not depend on each other
  attend
};

struct Stage {
  Kind kind;
  int64_t first, count;  // operations
  int64_t items, step;   // parts that threads take; rows: tokens, columns: columns of one part
  bool parallel;         // else the calling thread does it alone
  bool meet;             // threads meet after it
  int64_t products;      // the next stage with products, -1: none
};

struct alignas(64) Counter {
  std::atomic<int64_t> next{0};
};

struct Program {
  const Call *call;
  const Tier *tier;
  Op *ops;
  int64_t op_count;
  Stage *stages;
  int64_t stage_count;
  Counter *counters;              // what threads have taken of their shares: two sets, for stages in turn
  float *partials;                // of the attention at work
  std::atomic<int64_t> *arrived;  // sections of a token and head that are done
  int64_t scratch;                // bytes for each thread
  int threads;                    // that are worth waking
};

// HGX_NO_MEMORY if the arena failed. The call has been checked.
int plan_program(const Call &call, const Tier *tier, int threads, Arena *arena, Program *program);

}  // namespace higgsx
