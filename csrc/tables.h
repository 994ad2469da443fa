// A tier: one instruction set's functions. abi files and programs choose one and call it through this table.
#pragma once

#include "decoder_table.h"
#include "matrix_table.h"
#include "rows_table.h"

namespace higgsx {

struct Tier {
  const char *name;
  const MatrixKernels *matrix;
  const RowKernels *rows;
  const DecoderKernels *decoder;
};

}  // namespace higgsx
