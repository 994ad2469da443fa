#include "../layout.h"
#include "../simd/system.h"
#include "../tables.h"

namespace higgsx {
namespace scalar {
#include "../simd/scalar.h"

#include "../kernels/all.h"
}  // namespace scalar

extern const Tier tier_scalar;
const Tier tier_scalar = {"scalar", &scalar::matrix_kernels, &scalar::row_kernels, &scalar::decoder_kernels};
}  // namespace higgsx
