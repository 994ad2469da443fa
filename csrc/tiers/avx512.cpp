#include "../layout.h"
#include "../simd/system.h"
#include "../tables.h"

namespace higgsx {
namespace avx512 {
#include "../simd/avx512.h"

#include "../kernels/all.h"
}  // namespace avx512

extern const Tier tier_avx512;
const Tier tier_avx512 = {"avx512", &avx512::matrix_kernels, &avx512::row_kernels, &avx512::decoder_kernels};
}  // namespace higgsx
