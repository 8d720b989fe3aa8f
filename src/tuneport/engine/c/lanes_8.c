/* The kernel in vectors of eight float32, for machines that have them (AVX2); the same bits and sums. */
#include "kernel.h"

#ifdef MANY_CPUS
#define LANES 8
#define ON_ITS_MACHINE __attribute__((target("avx2")))

#include "convert.h"
#include "product.h"
#include "transfer.h"

const Kernel kernel_of_8_lanes = {transfer, square, widen, narrow, loss_of, multiply};
#endif
