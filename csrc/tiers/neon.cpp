#include "../layout.h"
#include "../simd/system.h"
#include "../tables.h"

namespace higgsx {
namespace neon {
#include "../simd/neon.h"

#include "../kernels/all.h"
}  // namespace neon

extern const Tier tier_neon;
const Tier tier_neon = {"neon", &neon::matrix_kernels, &neon::row_kernels, &neon::decoder_kernels};
}  // namespace higgsx
