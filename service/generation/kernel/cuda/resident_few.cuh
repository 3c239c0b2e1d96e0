// See resident.cu. One launch advances up to 16 rows a group of blocks.

// Waits for the states of a group's rows as other blocks send them, and stores them as rows of q.
__device__ inline void receive(int8 *q, const unsigned *box, int rows, unsigned tag) {
  constexpr int N = (TILE * U / 8 + THREADS - 1) / THREADS;
  uint4 words[N];
  bool complete = false;
  for (int spins = 0; !complete; spins++) {  // a word without this step's tag is not there yet
    complete = true;
    if (spins == SPINS) __trap();
#pragma unroll
    for (int j = 0; j < N; j++) {
      const int i = threadIdx.x + j * THREADS;
      if (i >= rows * (U / 8)) continue;
      words[j] = load_relaxed(box + 4 * i);
      complete &= !(((words[j].x ^ tag) | (words[j].y ^ tag) | (words[j].z ^ tag) | (words[j].w ^ tag)) >> 16);
    }
  }
#pragma unroll
  for (int j = 0; j < N; j++) {
    const int i = threadIdx.x + j * THREADS;
    if (i >= rows * (U / 8)) continue;
    const uint2 both = {(words[j].x & 65535) | words[j].y << 16, (words[j].z & 65535) | words[j].w << 16};
    *(uint2 *)(q + i / (U / 8) * STRIDE + i % (U / 8) * 8) = both;
  }
}

// call.mail: [2][rows][U / 2] words. None has one of the call's tags, tag to tag + steps, in its upper half.
extern "C" __global__ void __launch_bounds__(THREADS, 1) advance_few(const Network *network, const Call *call) {
  const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
  const int rank = blockIdx.x % BLOCKS, group = blockIdx.x / BLOCKS, groups = gridDim.x / BLOCKS;
  const int row = tid / WIDTH, unit = tid % WIDTH, mine = WARPS - 1 - warp;  // a thread's unit, and the row that a warp samples
  Call &c = *(Call *)shared_memory();
  uint4 *w = (uint4 *)shared_memory() + 16;
  float *x = (float *)(w + WEIGHTS);
  int8 *q = (int8 *)(x + TABLE);
  int *sums = (int *)(q + TILE * STRIDE), *logit = sums + SPLIT * 3 * TILE * SPACED, *id = logit + PARTS * TILE * COLUMNS;
  static_assert(sizeof(Call) <= 256, "too little shared memory");
  for (int i = tid; i < (int)sizeof(Call) / 4; i += THREADS) ((int *)&c)[i] = ((const int *)call)[i];
  __syncthreads();

  const int rows = c.rows, steps = c.steps, begin = rows * group / groups, n = rows * (group + 1) / groups - begin;
  const Output output(network->output);
  copy(w, network->layer->recurrent.weights + rank * WEIGHTS, WEIGHTS);
  copy_columns(x, *network, rank);
  if (tid < n) id[tid] = c.inputs[begin + tid];
  uint4 d[DEPTH][3];  // this warp's task of the output kernel stays in registers
#pragma unroll
  for (int i = 0; i < DEPTH * 3; i++)
    if (warp < TASKS) d[i / 3][i % 3] = output_weights(network->output.weights, warp, i / 3, i % 3);
  const float inverse = mine < n ? c.row[begin + mine].inverse_temperature : 0.f;
  float *h = network->states + (row < n ? c.slots[begin + row] * U : 0) + rank * WIDTH + unit;
  float own = row < n ? *h : 0.f;
  const int snapshot_at = row < n ? c.row[begin + row].snapshot_at : -1;

  const int octet = warp % OCTETS, part = warp / OCTETS, depth = SLICES / SPLIT;
  auto multiply = [&] {  // a warp's task of the recurrent products
    if (part >= SPLIT) return;
    int sum[1][3][4];
    products<1, SLICES / SPLIT, SLICES / SPLIT>(sum, q + part * depth * 64, STRIDE, n, [=](int, int k, int i) {
      return w[((octet * SLICES + part * depth + k) * 3 + i) * 32 + lane];
    });
    spread(sums + part * 3 * TILE * SPACED + octet * 8, TILE * SPACED, SPACED, n, sum[0]);
  };

  for (int s = 0;; s++) {
    const unsigned tag = (c.tag + s) << 16, state = quantize(own), other = __shfl_down_sync(~0u, state, 1);
    unsigned *box = c.mail + ((s & 1) * rows + begin) * (U / 2);
    if (row < n && unit % 2 == 0) store_relaxed(box + (row * U + rank * WIDTH + unit) / 2, tag | state | other << 8);
    if (s == snapshot_at && s < steps) c.snapshots[(begin + row) * U + rank * WIDTH + unit] = own;
    float uniform = 0.f;
    int forced = -1;
    if (s && mine < n) {  // loaded long before they are used
      uniform = c.uniforms[(s - 1) * rows + begin + mine];
      forced = c.forced[(s - 1) * rows + begin + mine];
    }
    receive(q, box, n, tag);
    __syncthreads();  // the states of all units are in q
    const bool late = s && warp < TASKS;  // these warps compute the logits before they multiply
    if (late) logits(logit, q, STRIDE, n, warp, [&](int, int k, int i) { return d[k][i]; });
    if (!late && s < steps) multiply();
    if (s) {
      __syncthreads();
      if (mine < n) {  // rows go to the last warps first: those without logits have multiplied already
        const int next = forced >= 0 ? forced : draw(logit + mine * COLUMNS, output, inverse, uniform);
        if (lane == 0) id[mine] = next;
        if (lane == 0 && rank == 0) c.chosen[(s - 1) * rows + begin + mine] = next;
      }
    }
    if (s == steps) break;
    if (late) multiply();
    __syncthreads();  // the products and the ids are there
    if (row < n) {
      int sum[3] = {};
#pragma unroll
      for (int i = 0; i < SPLIT * 3; i++) sum[i % 3] += sums[(i * TILE + row) * SPACED + unit];
      own = advanced(sum[0], sum[1], sum[2], x + id[row] * 3 * WIDTH + unit, x + V * 3 * WIDTH + unit, own);
    }
  }
  if (row < n) *h = own;
}
