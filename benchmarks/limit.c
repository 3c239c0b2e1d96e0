// What a machine can do at most, for limit.py: read bytes, multiply int8, compute exponentials. Each call runs on one core.
#include "../service/generation/kernel/step.c"

// What step.c calls in network.c. Not called here.
void folio_wait(Barrier *barrier) { (void)barrier; }
int folio_divide(const Network *network, const Row *row, float *uniform) { return network && row && uniform; }

// Reads [bytes] at p so many times.
int64_t read_bytes(const int8_t *p, size_t bytes, int times) {
  I sum[4] = {{0}};
  for (int t = 0; t < times; t++) {
    for (size_t i = 0; i + 256 <= bytes; i += 256)
      for (int j = 0; j < 4; j++) sum[j] ^= *(const I *)(p + i + 64 * j);
    __asm__ volatile("" : : "r"(sum) : "memory");
  }
  return sum[0][0] ^ sum[1][0] ^ sum[2][0] ^ sum[3][0];
}

// Runs the fastest int8 product of the instruction set on registers, so many times; returns the products of each time.
#if defined(__AMX_INT8__)
int multiply(long times) {
  begin_thread();
  configure(16);
  for (long t = 0; t < times; t++) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  release();
  return 4 * 16 * 16 * 64;
}
#elif defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__AVX2__)
#if defined(__AVX512VNNI__)
typedef __m512i V;
#define DOT(a, x, w) _mm512_dpbusd_epi32(a, x, w)
#elif defined(__AVXVNNI__)
typedef __m256i V;
#define DOT(a, x, w) _mm256_dpbusd_avx_epi32(a, x, w)
#else
typedef __m256i V;
#define DOT(a, x, w) _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), one))
#endif
int multiply(long times) {
  V a[8] = {0}, x = {0}, w = {0};
#if !defined(__AVX512VNNI__) && !defined(__AVXVNNI__)
  V one = _mm256_set1_epi16(1);
#endif
  for (long t = 0; t < times; t++)
    for (int i = 0; i < 8; i++) {
      __asm__("" : "+x"(x));  // so that nothing is computed once for all times
      a[i] = DOT(a[i], x, w);
    }
  for (int i = 0; i < 8; i++) __asm__ volatile("" : : "x"(a[i]));
  return 8 * (int)sizeof(V);
}
#else
int multiply(long times) {
  enum { INPUTS = 1024, ROWS = 4 };
  static const int8_t weights[LANES * INPUTS], states[ROWS * INPUTS];
  static int32_t sums[ROWS * LANES];
  for (long t = 0; t < times; t++) {
    products(weights, 1, states, ROWS, INPUTS, sums);
    __asm__ volatile("" : : "r"(sums) : "memory");
  }
  return LANES * INPUTS * ROWS;
}
#endif

// Computes so many times the exponentials of as many numbers as it returns.
int exponentials(long times) {
  F x[16];
  for (int i = 0; i < 16; i++) x[i] = all(-0.1f * (float)i);
  for (long t = 0; t < times; t++)
    for (int i = 0; i < 16; i++) {
      F y = exp_(x[i]);
      __asm__ volatile("" : : "m"(y));
    }
  return 16 * LANES;
}
