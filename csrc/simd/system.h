/* What the headers of simd/ and kernels/ need from the system. A tier includes this first, at global scope;
 * then, inside its own namespace, one header of simd/ and those of kernels/, which include nothing else from
 * the system. So nothing that is compiled for one instruction set is shared with another. */
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) || defined(__i386__)
#if defined(__GNUC__) && !defined(__clang__)
/* GCC 12 warns of its own header, where a result's unused lanes are undefined. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif
#if defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define HGX_INLINE static inline __attribute__((always_inline, unused))
#define HGX_FUNCTION static __attribute__((unused))
#if defined(__clang__)
#define HGX_UNROLL _Pragma("clang loop unroll(full)")
#else
#define HGX_UNROLL _Pragma("GCC unroll 64")
#endif
