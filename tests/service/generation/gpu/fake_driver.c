// A stand-in for libcuda.so.1 on a machine without a GPU: enough of the driver for cuda-core to load a cubin and launch kernels, which
// run on the shim instead. FAKE_KERNELS names the shim's libraries, separated by colons. Memory is this process's.
//
// Other functions of the driver return success and do nothing. Types and numbers are those of cuda.h, which a machine without CUDA
// does not have.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INVALID_VALUE = 1, INVALID_IMAGE = 200, NOT_FOUND = 500, NOT_SUPPORTED = 801 };
enum { MAJOR = 75, MINOR = 76, PROCESSORS = 16, SHARED_MEMORY = 97, MOST_THREADS = 1 };
enum { SHARED_MEMORY_OF_A_KERNEL = 8, COOPERATIVE = 2 };
enum { SHARED = 232448, DEFAULT_SHARED = 49152, KERNELS = 8 };

typedef struct {
  const char *name;
  void *library, *function;
  unsigned shared;  // bytes that a block may have
} Kernel;
typedef struct {
  int id;
  char padding[4];
  int value[16];
} Attribute;
typedef struct {
  unsigned grid[3], block[3], shared;
  void *stream;
  const Attribute *attributes;
  unsigned count;
} Launch;

static Kernel kernels[KERNELS];
static int anything;  // what handles point to

int cuInit(unsigned flags) { return (void)flags, 0; }
int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGet(int *device, int i) { return *device = i, 0; }
int cuDeviceGetName(char *name, int size, int device) { return (void)device, snprintf(name, size, "Fake GPU"), 0; }
int cuDeviceGetUuid_v2(char *id, int device) { return (void)device, memset(id, 7, 16), 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  (void)device;
  switch (attribute) {
    case MAJOR: return *value = 9, 0;
    case MINOR: return *value = 0, 0;
    case PROCESSORS: return *value = 4, 0;
    case SHARED_MEMORY: return *value = SHARED, 0;
    case MOST_THREADS: return *value = 1024, 0;
    default: return *value = 1, 0;
  }
}
int cuDevicePrimaryCtxRetain(void **context, int device) { return (void)device, *context = &anything, 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return (void)device, 0; }
int cuCtxGetCurrent(void **context) { return *context = &anything, 0; }
int cuCtxSetCurrent(void *context) { return (void)context, 0; }
int cuCtxPushCurrent_v2(void *context) { return (void)context, 0; }
int cuCtxPopCurrent_v2(void **context) { return *context = &anything, 0; }
int cuCtxGetDevice(int *device) { return *device = 0, 0; }
int cuCtxGetStreamPriorityRange(int *least, int *greatest) { return *least = *greatest = 0, 0; }
int cuStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
  return (void)flags, (void)priority, *stream = &anything, 0;
}
int cuStreamGetCtx(void *stream, void **context) { return (void)stream, *context = &anything, 0; }
int cuStreamSynchronize(void *stream) { return (void)stream, 0; }
int cuStreamDestroy_v2(void *stream) { return (void)stream, 0; }
int cuMemAlloc_v2(uint64_t *pointer, size_t size) { return *pointer = (uint64_t)aligned_alloc(16, (size + 31) / 16 * 16), 0; }
int cuMemFree_v2(uint64_t pointer) { return free((void *)pointer), 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *s) { return (void)s, memcpy((void *)to, from, size), 0; }
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *s) { return (void)s, memcpy(to, (void *)from, size), 0; }
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t size, void *s) { return (void)s, memset((void *)to, value, size), 0; }

int cuLibraryLoadData(void **library, const void *code, void *a, void **b, unsigned c, void *d, void **e, unsigned f) {
  (void)a, (void)b, (void)c, (void)d, (void)e, (void)f;
  *library = &anything;
  return memcmp(code, "\177ELF", 4) ? INVALID_IMAGE : 0;
}
int cuLibraryUnload(void *library) { return (void)library, 0; }
int cuLibraryGetKernel(void **kernel, void *library, const char *name) {
  (void)library;
  char paths[4096];
  snprintf(paths, sizeof paths, "%s", getenv("FAKE_KERNELS"));
  for (char *path = strtok(paths, ":"); path; path = strtok(NULL, ":")) {
    void *shim = dlopen(path, RTLD_NOW), *function = shim ? dlsym(shim, name) : NULL;
    for (int i = 0; function && i < KERNELS; i++)
      if (!kernels[i].name || !strcmp(kernels[i].name, name)) {
        kernels[i] = (Kernel){strdup(name), shim, function, DEFAULT_SHARED};
        return *kernel = &kernels[i], 0;
      }
  }
  return NOT_FOUND;
}
int cuKernelGetFunction(void **function, void *kernel) { return *function = kernel, 0; }
int cuKernelGetLibrary(void **library, void *kernel) { return (void)kernel, *library = &anything, 0; }
int cuKernelSetAttribute(int attribute, int value, void *kernel, int device) {
  (void)device;
  if (attribute == SHARED_MEMORY_OF_A_KERNEL) ((Kernel *)kernel)->shared = (unsigned)value;
  return value > SHARED ? INVALID_VALUE : 0;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, void *f, int b, size_t s) { return (void)f, (void)b, (void)s, *n = 1, 0; }
int cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, void *f, int b, size_t s, unsigned g) {
  return (void)f, (void)b, (void)s, (void)g, *n = 1, 0;
}
int cuLaunchKernelEx(const Launch *launch, void *function, void **parameters, void **extra) {
  (void)extra;
  Kernel *kernel = function;
  int cooperative = 0;
  for (unsigned i = 0; i < launch->count; i++)
    cooperative |= launch->attributes[i].id == COOPERATIVE && launch->attributes[i].value[0];
  if (!cooperative || launch->block[0] != 512 || launch->grid[0] > 4 || launch->shared > kernel->shared) return INVALID_VALUE;
  void (*run)(void *, int, int, unsigned, void *, void *) = dlsym(kernel->library, "run");
  run(kernel->function, (int)launch->grid[0], (int)launch->shared, 1, *(void **)parameters[0], *(void **)parameters[1]);
  return 0;
}
int cuGetExportTable(const void **table, const void *id) { return (void)id, *table = NULL, NOT_SUPPORTED; }
int cuGetErrorName(int error, const char **name) { return (void)error, *name = "FAKE_ERROR", 0; }
int cuGetErrorString(int error, const char **text) { return (void)error, *text = "an error of the stand-in", 0; }

static int succeed(void) { return 0; }
int cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status) {
  (void)version, (void)flags;
  static void *self;
  Dl_info info;
  if (!self && dladdr((void *)cuInit, &info)) self = dlopen(info.dli_fname, RTLD_NOW);
  const char *suffixes[] = {"_v2", "", "_v3"};
  char name[128];
  *function = NULL;
  for (int i = 0; i < 3 && !*function; i++) {
    snprintf(name, sizeof name, "%s%s", symbol, suffixes[i]);
    *function = dlsym(self, name);
  }
  if (!*function) *function = (void *)succeed;
  if (status) *status = 0;
  return 0;
}
