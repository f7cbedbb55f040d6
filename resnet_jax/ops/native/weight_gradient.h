// Weight gradient: dw[i, j] = sum over pixels of x[y * stride + i - pad, ...] g[y, ...]^T.

#pragma once

#include "correlate.h"

namespace resnet_jax {

constexpr Index KERNEL_GRADIENT_BYTES = 256 << 10;
constexpr Index PARTIAL_BYTES = 8 << 20;

struct WeightGradient {
  Index n, h, w, c, out_h, out_w, k, rows, columns, stride, pad_y, pad_x;
};

// R input channels times V vectors of output channels, summed over the pixels of a band.
template <int BLOCK, int STRIDE, int R, int V>
inline void outer_tile(const float* x, Index x_row, const float* g, Index g_row, Index k, Index rows, Index pixels,
                       float* sums_out, Index sums_row, Index channels) {
  Vec sums[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[r][v] = load_some(sums_out + r * sums_row + v * LANES, channels - v * LANES);
  if (channels >= V * LANES) {
    for (Index row = 0; row < rows; ++row) {
      const float *a = x + row * x_row, *b = g + row * g_row;
      for (Index p = 0; p < pixels; ++p, a += STRIDE * BLOCK, b += k) {
        Vec values[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) values[v] = load(b + v * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) sums[r][v] += values[v] * a[r];
      }
    }
  } else {
    for (Index row = 0; row < rows; ++row) {
      const float *a = x + row * x_row, *b = g + row * g_row;
      for (Index p = 0; p < pixels; ++p, a += STRIDE * BLOCK, b += k)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          Vec values = load_some(b + v * LANES, channels - v * LANES);
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r) sums[r][v] += values * a[r];
        }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store_some(sums_out + r * sums_row + v * LANES, sums[r][v], channels - v * LANES);
}

template <int BLOCK, int STRIDE, int V>
void weight_gradient(ffi::ThreadPool& pool, const WeightGradient& op, const float* x, const float* g, float* dw) {
  constexpr int R = BLOCK < 8 ? BLOCK : (LANES == 16 ? (V == 1 ? 16 : 8) : 4);
  const Index taps = op.rows * op.columns, size = taps * op.c * op.k, c_blocks = ceil_div(op.c, BLOCK);
  const Index columns = (op.out_w - 1) * STRIDE + op.columns;
  const Index width = V * LANES;
  // Channels of g at a time: the sums of a block of channels stay in cache.
  const Index k_group =
      std::max<Index>(1, KERNEL_GRADIENT_BYTES / (taps * BLOCK * Index(sizeof(float)) * width)) * width;
  // Groups of images add up apart from each other and are then added in order.
  const Index wanted = std::min(ceil_div(TASKS, c_blocks), PARTIAL_BYTES / (size * Index(sizeof(float))));
  const Index groups = std::clamp<Index>(wanted, 1, op.n);
  const Index padded_c = c_blocks * BLOCK, padded = taps * padded_c * op.k;
  float* const partial = scratch(SHARED, groups * padded);
  const Index row_bytes = columns * BLOCK * STRIDE * Index(sizeof(float));
  const Index band = std::clamp<Index>(BAND_BYTES / row_bytes, 1, op.out_h);

  parallel_for(pool, groups * c_blocks, [&](Index task) {
    const Index group = task / c_blocks, cb = task % c_blocks;
    float* sums = partial + group * padded + cb * BLOCK * op.k;
    for (Index t = 0; t < taps; ++t) std::memset(sums + t * padded_c * op.k, 0, BLOCK * op.k * sizeof(float));
    float* copy = scratch(LOCAL, ((band - 1) * STRIDE + op.rows) * columns * BLOCK);
    for (Index k0 = 0; k0 < op.k; k0 += k_group) {
      const Index k1 = std::min(op.k, k0 + k_group);
      for (Index image = op.n * group / groups; image < op.n * (group + 1) / groups; ++image) {
        for (Index y0 = 0; y0 < op.out_h; y0 += band) {
          const Index height = std::min(band, op.out_h - y0);
          copy_block<BLOCK>(x + image * op.h * op.w * op.c, op.h, op.w, op.c, cb * BLOCK, y0 * STRIDE - op.pad_y,
                            (height - 1) * STRIDE + op.rows, -op.pad_x, columns, copy);
          const float* from = g + (image * op.out_h + y0) * op.out_w * op.k;
          for (Index k = k0; k < k1; k += width)
            for (Index i = 0; i < op.rows; ++i)
              for (Index j = 0; j < op.columns; ++j)
                for (Index c = 0; c < BLOCK; c += R)
                  outer_tile<BLOCK, STRIDE, R, V>(copy + (i * columns + j) * BLOCK + c, columns * STRIDE * BLOCK, from + k,
                                                  op.out_w * op.k, op.k, height, op.out_w,
                                                  sums + ((i * op.columns + j) * padded_c + c) * op.k + k, op.k, k1 - k);
        }
      }
    }
  });
  parallel_for(pool, taps, [&](Index t) {
    float* to = dw + t * op.c * op.k;
    std::memcpy(to, partial + t * padded_c * op.k, op.c * op.k * sizeof(float));
    for (Index group = 1; group < groups; ++group) {
      const float* from = partial + group * padded + t * padded_c * op.k;
      for (Index i = 0; i < op.c * op.k; ++i) to[i] += from[i];
    }
  });
}

template <int BLOCK, int STRIDE>
void weight_gradient_any_width(ffi::ThreadPool& pool, const WeightGradient& op, const float* x, const float* g, float* dw) {
  if (op.k <= LANES) return weight_gradient<BLOCK, STRIDE, 1>(pool, op, x, g, dw);
  return weight_gradient<BLOCK, STRIDE, 2>(pool, op, x, g, dw);
}

template <int BLOCK>
void weight_gradient_any_stride(ffi::ThreadPool& pool, const WeightGradient& op, const float* x, const float* g, float* dw) {
  if (op.stride == 1) return weight_gradient_any_width<BLOCK, 1>(pool, op, x, g, dw);
  return weight_gradient_any_width<BLOCK, 2>(pool, op, x, g, dw);
}

void weight_gradient_any(ffi::ThreadPool& pool, const WeightGradient& op, const float* x, const float* g, float* dw) {
  if (op.c <= 4) return weight_gradient_any_stride<4>(pool, op, x, g, dw);
  if (op.c <= 16) return weight_gradient_any_stride<16>(pool, op, x, g, dw);
  if (op.c <= 32) return weight_gradient_any_stride<32>(pool, op, x, g, dw);
  return weight_gradient_any_stride<64>(pool, op, x, g, dw);
}

}  // namespace resnet_jax
