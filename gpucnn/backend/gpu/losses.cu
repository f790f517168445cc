// Losses: a warp for each row, which gives loss, gradient and hit; then one block adds up what the blocks have summed.
//
// The threads of a warp read and write neighbours, and exchange what they have found. Each block leaves three numbers,
// the `partials` (blocks, 3); `report_loss` makes the loss of them, and adds to the totals.

#define EACH_ROW for (int row = blockIdx.x * WARPS + threadIdx.x / 32; row < N; row += gridDim.x * WARPS)
#define EACH_CLASS _Pragma("unroll 4") for (int k = threadIdx.x % 32; k < K; k += 32)

struct Sums { double loss, hits, targets; };  // targets: samples that have one

__device__ void add(Sums& sums, double loss, double hits, double targets) {
    sums.loss += loss;
    sums.hits += hits;
    sums.targets += targets;
}

template <typename S> __device__ S warp_sum(S value) {
    // Sum over the threads of a warp, in a fixed order; all of them take part, and all get it.
    for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
    return value;
}

struct Best { T value; int index; };

__device__ bool beats(Best a, Best b) {  // NaN beats all numbers; of equals the first one wins
    const bool is_nan = a.value != a.value;
    if (is_nan != (b.value != b.value)) return is_nan;
    return a.value > b.value || (!(a.value < b.value) && a.index < b.index);
}

__device__ Best find_best(const T* row, int K) {  // all threads of a warp get it
    Best best = {T(-1) / T(0), K};
    EACH_CLASS {
        const Best other = {row[k], k};
        if (beats(other, best)) best = other;
    }
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        const T value = __shfl_xor_sync(0xffffffffu, best.value, lanes);
        const Best other = {value, __shfl_xor_sync(0xffffffffu, best.index, lanes)};
        if (beats(other, best)) best = other;
    }
    return best;
}

__device__ bool is_hit(const T* y, const T* t, int K, T boundary) {
    return K == 1 ? (y[0] > boundary) == (t[0] > T(0.5)) : find_best(y, K).index == find_best(t, K).index;
}

__device__ void leave(Sums own, double* partials) {
    // Add up the sums of the warps, which all threads of each have, in their order.
    __shared__ Sums shared[WARPS];
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = own;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int warp = 1; warp < WARPS; ++warp) add(own, shared[warp].loss, shared[warp].hits, shared[warp].targets);
    partials += 3LL * blockIdx.x;
    partials[0] = own.loss;
    partials[1] = own.hits;
    partials[2] = own.targets;
}

__device__ Sums collect(const double* partials, int blocks) {
    // Add up what the blocks have left, in a fixed order.
    __shared__ double shared[256];
    Sums own = {0, 0, 0};
    #pragma unroll
    for (int n = 0; n < EACH; ++n) {
        const int b = threadIdx.x + 256 * n;
        const double* those = partials + 3 * b;
        add(own, b < blocks ? those[0] : 0, b < blocks ? those[1] : 0, b < blocks ? those[2] : 0);
    }
    return {block_sum(own.loss, shared), block_sum(own.hits, shared), block_sum(own.targets, shared)};
}

extern "C" __global__ void softmax_cross_entropy(
        const T* __restrict__ logits, const int* __restrict__ labels, T* __restrict__ dx, double* __restrict__ partials,
        int N, int K) {
    Sums sums = {0, 0, 0};
    EACH_ROW {
        const T* z = logits + (long long)row * K;
        const int label = labels[row];
        const bool is_class = label >= 0 && label < K;
        const T nothing = is_class ? T(0) : T(0) / T(0);  // a label of no class makes NaN
        const T labelled = is_class ? z[label] : nothing;
        const Best best = find_best(z, K);
        T total = 0;
        EACH_CLASS total += exp(z[k] - best.value);
        total = warp_sum(total);
        add(sums, log(total) - (labelled - best.value), best.index == label, 1);
        if (dx == 0) continue;
        EACH_CLASS
            dx[(long long)row * K + k] = (exp(z[k] - best.value) / total - (k == label ? T(1) : nothing)) / N;
    }
    leave(sums, partials);
}

extern "C" __global__ void label_targets(
        const int* __restrict__ labels, const T* __restrict__ weights, int ignored, T* __restrict__ targets,
        double* __restrict__ partials, int N, int K) {
    Sums sums = {0, 0, 0};
    EACH_ROW {
        const int label = labels[row];
        const bool has_target = label != ignored && label >= 0 && label < K;
        if (has_target) add(sums, weights == 0 ? T(1) : weights[label], 0, 1);
        EACH_CLASS targets[(long long)row * K + k] = has_target && k == label;
    }
    leave(sums, partials);
}

extern "C" __global__ void label_norm(const double* partials, T* norm, int blocks) {
    const double sum = collect(partials, blocks).loss;
    if (threadIdx.x == 0) *norm = sum > 0 ? sum : 1;
}

__device__ T wanted(T target, T keep, T share, const T* weights, int k) {
    return (keep * target + share) * (weights == 0 ? T(1) : weights[k]);
}

extern "C" __global__ void soft_cross_entropy(
        const T* __restrict__ logits, const T* __restrict__ targets, T* __restrict__ dx, double* __restrict__ partials,
        int N, int K, const T* __restrict__ weights, double smoothing, const T* __restrict__ norm) {
    Sums sums = {0, 0, 0};
    EACH_ROW {
        const T* z = logits + (long long)row * K;
        const T* t = targets + (long long)row * K;
        const Best best = find_best(z, K);
        int count = 0;
        T total = 0;
        EACH_CLASS {
            count += t[k] != 0;
            total += exp(z[k] - best.value);
        }
        const bool has_target = warp_sum(count) > 0;
        total = warp_sum(total);
        const T log_total = log(total), keep = 1 - smoothing, share = has_target ? smoothing / K : 0;
        T losses = 0, sum = 0;
        EACH_CLASS {
            const T q = wanted(t[k], keep, share, weights, k);
            if (q != 0) losses += q * (log_total - (z[k] - best.value));
            sum += q;
        }
        losses = warp_sum(losses);
        sum = warp_sum(sum);
        add(sums, losses, best.index == find_best(t, K).index && has_target, has_target);
        if (dx == 0) continue;
        EACH_CLASS {
            const T q = wanted(t[k], keep, share, weights, k);
            dx[(long long)row * K + k] = (exp(z[k] - best.value) / total * sum - q) / *norm;
        }
    }
    leave(sums, partials);
}

extern "C" __global__ void sigmoid_cross_entropy(
        const T* __restrict__ logits, const T* __restrict__ targets, T* __restrict__ dx, double* __restrict__ partials,
        int N, int K) {
    Sums sums = {0, 0, 0};
    EACH_ROW {
        const T* z = logits + (long long)row * K;
        const T* t = targets + (long long)row * K;
        T losses = 0;
        EACH_CLASS {
            const T e = exp(z[k] < T(0) ? z[k] : -z[k]);
            losses += (z[k] > T(0) ? z[k] : T(0)) - z[k] * t[k] + log1p(e);
            if (dx != 0) dx[(long long)row * K + k] = ((z[k] < T(0) ? e : T(1)) / (T(1) + e) - t[k]) / N;
        }
        add(sums, warp_sum(losses), is_hit(z, t, K, T(0)), 1);
    }
    leave(sums, partials);
}

extern "C" __global__ void mean_squared_error(
        const T* __restrict__ outputs, const T* __restrict__ targets, T* __restrict__ dx, double* __restrict__ partials,
        int N, int K) {
    Sums sums = {0, 0, 0};
    EACH_ROW {
        const T* y = outputs + (long long)row * K;
        const T* t = targets + (long long)row * K;
        T losses = 0;
        EACH_CLASS {
            const T difference = y[k] - t[k];
            losses += difference * difference;
            if (dx != 0) dx[(long long)row * K + k] = difference * (T(2) / ((T)N * K));
        }
        add(sums, warp_sum(losses) / K, is_hit(y, t, K, T(0.5)), 1);
    }
    leave(sums, partials);
}

extern "C" __global__ void report_loss(
        const double* partials, const T* norm, T* loss, double* totals, int N, int blocks) {
    const Sums sums = collect(partials, blocks);
    if (threadIdx.x != 0) return;
    *loss = sums.loss / (norm == 0 ? double(N) : *norm);
    if (totals == 0) return;
    totals[0] += sums.loss;
    totals[1] += sums.hits;
    totals[2] += sums.targets;
    if (isfinite(totals[0])) totals[3] += N;
}
