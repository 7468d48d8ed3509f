// The hot loops, compiled for the instructions that every processor of the platform has.
#define PENTAMASK_ISA baseline
#define PENTAMASK_VECTOR_BYTES 16
#include "kernel_table.h"
