// The instruction sets that this processor and the system support, and macros that name what is compiled for each.
#pragma once
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)
#if defined(__x86_64__)
#include <cpuid.h>
#include <stdint.h>

// Registers of CPUID leaf 7, and what the system saves when it switches threads.
typedef struct {
  unsigned b, c, d;  // leaf 7
  unsigned a1;       // leaf 7, subleaf 1
  int fma;
  uint64_t state;
} Processor;

static inline Processor read_processor(void) {
  Processor p = {0};
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27))) return p;
  p.fma = (c >> 12) & 1;
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  p.state = ((uint64_t)high << 32) | low;
  if (!__get_cpuid_count(7, 0, &a, &p.b, &p.c, &p.d)) return p;
  __get_cpuid_count(7, 1, &p.a1, &b, &c, &d);
  return p;
}

static inline int has_avx2(const Processor *p) { return (p->state & 6) == 6 && (p->b & (1u << 5)); }
static inline int has_avx512(const Processor *p) {  // F, DQ, BW and VL
  return has_avx2(p) && (p->state & 0xe6) == 0xe6 && (p->b & (1u << 16)) && (p->b & (1u << 17)) && (p->b & (1u << 30)) &&
         (p->b & (1u << 31));
}
#endif
