#include "../layout.h"
#include "../simd/system.h"
#include "../tables.h"

namespace higgsx {
namespace avxvnni {
#include "../simd/avx2.h"

#include "../kernels/all.h"
}  // namespace avxvnni

extern const Tier tier_avxvnni;
const Tier tier_avxvnni = {"avxvnni", &avxvnni::matrix_kernels, &avxvnni::row_kernels, &avxvnni::decoder_kernels};
}  // namespace higgsx
