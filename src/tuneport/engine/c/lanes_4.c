/* The kernel in vectors of four float32: any machine has them. */
#include "kernel.h"

#define LANES 4
#define ON_ITS_MACHINE

#include "convert.h"
#include "product.h"
#include "transfer.h"

const Kernel kernel_of_4_lanes = {transfer, square, widen, narrow, loss_of, multiply};
