#include "../layout.h"
#include "../simd/system.h"
#include "../tables.h"

namespace higgsx {
namespace vbmi {
#include "../simd/avx512.h"

#include "../kernels/all.h"
}  // namespace vbmi

extern const Tier tier_vbmi;
const Tier tier_vbmi = {"vbmi", &vbmi::matrix_kernels, &vbmi::row_kernels, &vbmi::decoder_kernels};
}  // namespace higgsx
