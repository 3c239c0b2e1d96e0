// A file of kernels, SOURCE, as a library for a CPU. `run` launches one of its kernels.
#include "shim.h"
#include SOURCE

extern "C" void run(void (*kernel)(void *, void *), int blocks, int shared, unsigned seed, void *network, void *call) {
  shim::run(kernel, blocks, THREADS, shared, seed, network, call);
}
