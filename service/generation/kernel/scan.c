// Scans a recurrent layer over all steps: chooses the instruction set, packs the kernel, divides the work between threads.
// trainer/scan_library.py calls this through ctypes.
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "processor.h"
#include "recurrence.h"

enum { MAX_SCAN_THREADS = 64 };

extern const ScanInstructions folio_scan_portable;
#if defined(__x86_64__)
extern const ScanInstructions folio_scan_avx512, folio_scan_fma;
static int usable(const ScanInstructions *set) {
  Processor p = read_processor();
  if (set == &folio_scan_avx512) return has_avx512(&p) && p.fma;
  return set == &folio_scan_portable || (has_avx2(&p) && p.fma);
}
static const ScanInstructions *const SETS[] = {&folio_scan_avx512, &folio_scan_fma, &folio_scan_portable};
#else
static int usable(const ScanInstructions *set) { return set == &folio_scan_portable; }
static const ScanInstructions *const SETS[] = {&folio_scan_portable};
#endif

enum { COUNT = sizeof SETS / sizeof *SETS };

// The name of the i-th instruction set that this machine supports, the fastest first; null after the last.
const char *folio_scan_instructions(int i) {
  for (int s = 0; s < COUNT; s++)
    if (usable(SETS[s]) && i-- == 0) return SETS[s]->name;
  return NULL;
}

typedef struct {
  Work work;
  const Scan *scan;
  Packed *kernel;
  int from, end, failed;
} Part;

static void *run_part(void *argument) {
  Part *p = argument;
  p->failed = p->work(p->scan, p->kernel, p->from, p->end);
  return NULL;
}

// Divides `count` blocks, tiles or groups of columns between threads. Returns 1 if memory is short.
static int run(Work work, const Scan *scan, Packed *kernel, int count, int threads) {
  pthread_t thread[MAX_SCAN_THREADS];
  Part part[MAX_SCAN_THREADS];
  int started[MAX_SCAN_THREADS], failed = 0;
  if (threads > MAX_SCAN_THREADS) threads = MAX_SCAN_THREADS;
  if (threads > count) threads = count;
  for (int t = threads - 1; t >= 0; t--) {
    part[t] = (Part){work, scan, kernel, (int)((long long)count * t / threads), (int)((long long)count * (t + 1) / threads), 0};
    started[t] = t && !pthread_create(&thread[t], NULL, run_part, &part[t]);
    if (!started[t]) run_part(&part[t]);
  }
  for (int t = 0; t < threads; t++) {
    if (started[t]) pthread_join(thread[t], NULL);
    failed |= part[t].failed;
  }
  return failed;
}

static float *allocate(size_t bytes) {
  enum { HUGE = 2 << 20 };
  void *memory = NULL;
  bytes = (bytes + HUGE - 1) / HUGE * HUGE;
  if (posix_memalign(&memory, HUGE, bytes)) return NULL;
#if defined(MADV_HUGEPAGE)
  madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  return memory;
}

// Returns 1 if memory is short. instructions: a name, or null for the fastest.
int folio_scan(const Scan *scan, int backward, int threads, const char *instructions) {
  const ScanInstructions *set = NULL;
  for (int s = 0; s < COUNT && !set; s++)
    if (usable(SETS[s]) && (!instructions || !strcmp(instructions, SETS[s]->name))) set = SETS[s];
  int gates = scan->lstm ? 4 : 3, units = backward ? BLOCK : BLOCK / gates;
  Packed kernel = {(scan->units + units - 1) / units, backward ? gates * scan->units : scan->units, NULL};
  kernel.weights = allocate(4 * (size_t)kernel.blocks * kernel.depth * BLOCK);
  if (!set || !kernel.weights) return 1;
  int failed = run(backward ? set->pack_back : set->pack, scan, &kernel, kernel.blocks, threads) ||
               run(backward ? set->scan_back : set->scan, scan, &kernel, (scan->rows + TILE - 1) / TILE, threads) ||
               (backward && run(set->sum_columns, scan, &kernel, (gates * scan->units + TILE - 1) / TILE, threads)) ||
               (backward && run(set->sum_units, scan, &kernel, scan->units, threads));
  free(kernel.weights);
  return failed;
}
