/* The kernel in vectors of sixteen float32, for machines that have them (AVX-512); the same bits and sums. */
#include "kernel.h"

#ifdef MANY_CPUS
#define LANES 16
#define ON_ITS_MACHINE __attribute__((target("arch=x86-64-v4")))

#include "convert.h"
#include "product.h"
#include "transfer.h"

const Kernel kernel_of_16_lanes = {transfer, square, widen, narrow, loss_of, multiply};
#endif
