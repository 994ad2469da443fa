#include "../layout.h"
#include "../simd/system.h"
#include "../tables.h"

namespace higgsx {
namespace vnni {
#include "../simd/avx512.h"

#include "../kernels/all.h"
}  // namespace vnni

extern const Tier tier_vnni;
const Tier tier_vnni = {"vnni", &vnni::matrix_kernels, &vnni::row_kernels, &vnni::decoder_kernels};
}  // namespace higgsx
