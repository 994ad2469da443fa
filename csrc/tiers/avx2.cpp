#include "../layout.h"
#include "../simd/system.h"
#include "../tables.h"

namespace higgsx {
namespace avx2 {
#include "../simd/avx2.h"

#include "../kernels/all.h"
}  // namespace avx2

extern const Tier tier_avx2;
const Tier tier_avx2 = {"avx2", &avx2::matrix_kernels, &avx2::row_kernels, &avx2::decoder_kernels};
}  // namespace higgsx
