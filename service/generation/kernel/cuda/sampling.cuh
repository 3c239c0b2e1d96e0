// Sampling with every option of service/generation/sampling.py; see `draw` and `divide` in reference.py.
#pragma once
#include "numbers.cuh"

// The threads that sample a row: a warp, or a whole block where the vocabulary is large.
struct Team {
  int thread, size;
  int *shared;  // [WARPS], used if the team is a block

  __device__ void sync() const {
    if (size == 32)
      __syncwarp();
    else
      __syncthreads();
  }
  __device__ int broadcast(int v) const {  // the first thread's value
    if (size == 32) return __shfl_sync(~0u, v, 0);
    sync();
    if (thread == 0) shared[0] = v;
    sync();
    return shared[0];
  }
  __device__ int sum(int v) const {
    v = __reduce_add_sync(~0u, v);
    return size == 32 ? v : over_warps(v, [](int a, int b) { return a + b; });
  }
  __device__ float largest(float v) const {
    int most = __reduce_max_sync(~0u, ordered(__float_as_int(v)));
    if (size != 32) most = over_warps(most, [](int a, int b) { return a > b ? a : b; });
    return __int_as_float(ordered(most));
  }
  template <class Join>
  __device__ int over_warps(int v, Join join) const {
    sync();
    if (thread % 32 == 0) shared[thread / 32] = v;
    sync();
    int all = shared[0];
    for (int w = 1; w < size / 32; w++) all = join(all, shared[w]);
    return all;
  }
};

__device__ inline const int *transitions(const Row &row) { return row.next + (long long)row.automaton_state * row.alphabet; }
__device__ inline bool reachable(const Row &row, const int *next, int character) {
  return next[character] >= 0 && row.distance[next[character]] < row.num_left;
}
__device__ inline bool excluded(const Row &row, int character) { return row.bias && row.bias[character] <= EXCLUDED; }

// Decides whether a row with an automaton samples a character that the network does not know. Changes the uniform number to the one
// to sample with. See reference.divide.
__device__ inline bool divide(const Team &team, int vocabulary, const Row &row, float &uniform) {
  const int *next = transitions(row);
  int counts[2] = {0, 0};
  for (int c = team.thread; c < row.alphabet; c += team.size)
    counts[c >= vocabulary] += reachable(row, next, c) && !(c < vocabulary && excluded(row, c));
  float known = (float)team.sum(counts[0]), unknown = (float)team.sum(counts[1]);
  if (known > 0 && (unknown == 0 || row.inverse_temperature >= 1e30f)) return false;
  float place = uniform * (known + unknown);
  if (place < unknown || known == 0) {
    uniform = place / fmaxf(unknown, 1.f);
    return true;
  }
  uniform = (place - unknown) / known;
  return false;
}

// Samples one of the characters that only the automaton knows, with equal probability. -1 if it allows none.
__device__ inline int draw_unknown(const Team &team, int vocabulary, const Row &row, float uniform) {
  const int *next = transitions(row);
  int count = 0, found = -1;
  for (int c = vocabulary + team.thread; c < row.alphabet; c += team.size) count += reachable(row, next, c);
  count = team.sum(count);
  if (team.thread == 0) {
    int place = (int)(uniform * (float)count);
    for (int c = vocabulary; c < row.alphabet && found < 0; c++)
      if (reachable(row, next, c) && (place-- == 0 || --count == 0)) found = c;
  }
  return team.broadcast(found);
}

// A logit with bias and penalties, EXCLUDED where the character is not allowed. next: of the automaton's state, or null.
__device__ inline float adjusted(float x, int vocabulary, const Row &row, const int *next, int i) {
  if (row.bias) x = x + row.bias[i];
  if (row.counts) {
    int drawn = row.counts[vocabulary + i];
    if (row.counts[i] || drawn) x = x > 0 ? x / row.repetition : x * row.repetition;
    x = x - row.frequency * (float)drawn;
    if (drawn) x = x - row.presence;
  }
  return excluded(row, i) || (next && !reachable(row, next, i)) ? EXCLUDED : x;
}

// Bitonic sort of `size` keys, a power of 2, the largest first.
__device__ inline void sort(const Team &team, uint64 *keys, int size) {
  for (int run = 2; run <= size; run *= 2)
    for (int apart = run / 2; apart; apart /= 2) {
      for (int i = team.thread; i < size / 2; i += team.size) {
        int low = i / apart * 2 * apart + i % apart, high = low + apart;
        uint64 a = keys[low], b = keys[high];
        if ((a < b) == !(low & run)) keys[low] = b, keys[high] = a;
      }
      team.sync();
    }
}

__device__ inline float weight_in(uint64 key) { return __int_as_float((int)(key >> 32)); }

// How many of the sorted weights top_k, top_p and min_p keep, in this order. Weights of 0 at the end do not matter.
__device__ inline int count_likely(const uint64 *keys, int vocabulary, const Row &row) {
  int count = row.top_k > 0 && row.top_k < vocabulary ? row.top_k : vocabulary;
  if (row.top_p < 1) {
    float total = 0, sum = 0;
    for (int i = 0; i < count; i++) total += weight_in(keys[i]);
    float limit = total * row.top_p;
    int kept = 0;
    while (kept < count && sum < limit) sum += weight_in(keys[kept++]);
    count = kept;
  }
  if (row.min_p > 0) {
    float limit = weight_in(keys[0]) * row.min_p;
    int kept = 0;
    while (kept < count && weight_in(keys[kept]) >= limit) kept++;
    count = kept;
  }
  return count;
}

// Sets the weights to 0 that top_k, top_p and min_p exclude. Equal weights are ordered by id, so keys are (weight, ~id).
__device__ inline void keep_likely(const Team &team, float *weight, int vocabulary, const Row &row, uint64 *keys, int sortable) {
  for (int i = team.thread; i < sortable; i += team.size)
    keys[i] = i < vocabulary ? (uint64)(unsigned)__float_as_int(weight[i]) << 32 | (unsigned)~i : 0;
  team.sync();
  sort(team, keys, sortable);
  int count = team.broadcast(team.thread == 0 ? count_likely(keys, vocabulary, row) : 0);
  for (int i = count + team.thread; i < vocabulary; i += team.size) weight[~(unsigned)keys[i]] = 0;
  team.sync();
}

__device__ inline float tree(const float *p) {
  float a[16];
#pragma unroll
  for (int i = 0; i < 16; i++) a[i] = p[i];
#pragma unroll
  for (int width = 8; width; width /= 2)
#pragma unroll
    for (int i = 0; i < width; i++) a[i] = a[2 * i] + a[2 * i + 1];
  return a[0];
}

// The id at which the cumulative weight exceeds `uniform` times the total; see reference.invert. One thread calls this.
__device__ inline int find(const float *weight, float *sums, int groups, float uniform) {
  float sum = 0;
  int last = 0, group = 0, lane = 15;  // last: the last group with a weight
  for (int g = 0; g < groups; g++) {
    float total = sums[g];
    if (total > 0) last = g;
    sums[g] = sum += total;
  }
  float target = uniform * sum;
  while (group < last && sums[group] <= target) group++;
  const float *p = weight + 16 * group;
  while (lane > 0 && p[lane] == 0) lane--;
  float within = group ? sums[group - 1] : 0;
  for (int i = 0; i < lane; i++) {
    within += p[i];
    if (within > target) return 16 * group + i;
  }
  return 16 * group + lane;
}

// Where a team keeps a row's weights, with room for a multiple of 16, a sum for each 16 of them, and keys to sort them by.
struct Scratch {
  float *weight, *sums;
  uint64 *keys;
};

// Samples an id of the vocabulary. The weights may be where the logits are.
__device__ inline int draw(const Team &team, const Network &n, const float *logits, const Row &row, float uniform,
                           const Scratch &s) {
  const int V = n.vocabulary, groups = (V + 15) / 16;
  const int *next = row.next ? transitions(row) : nullptr;
  float *v = s.weight, top = EXCLUDED;
  for (int i = team.thread; i < V; i += team.size) {
    float x = adjusted(logits[i], V, row, next, i);
    v[i] = x;
    top = fmaxf(top, x);
  }
  top = team.largest(top);
  for (int i = team.thread; i < groups * 16; i += team.size)
    v[i] = i < V && v[i] > EXCLUDED ? weight_of(v[i], top, row.inverse_temperature) : 0.f;
  team.sync();
  if ((row.top_k > 0 && row.top_k < V) || row.top_p < 1 || row.min_p > 0) keep_likely(team, v, V, row, s.keys, n.sortable);
  for (int g = team.thread; g < groups; g += team.size) s.sums[g] = tree(v + 16 * g);
  team.sync();
  return team.broadcast(team.thread == 0 ? find(v, s.sums, groups, uniform) : 0);
}
