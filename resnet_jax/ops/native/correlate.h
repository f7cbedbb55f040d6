// Correlation: out[y * out_stride + first_y, ...] = sum over taps of in[y * in_stride + dy, ...] times the matrix of
// the tap. The forward convolution is one of these, the input gradient one for each phase of the stride.
//
// A tile of R pixels times V vectors of output channels stays in registers while the taps and the input channels pass.
// The input comes from a copy of some of its rows with the padding written out and the channels cut into blocks of a
// constant number: no bounds are left to check, and every address is a base plus a constant. The kernel comes packed in
// the order in which it is read. This is the direct convolution of Georganas et al., "Anatomy of High-Performance Deep
// Learning Convolutions on SIMD Architectures" (arXiv 1808.05567), without code generation.
#pragma once

#include "common.h"
#include "convolution.h"
#include "gemm.h"

namespace resnet_jax {

// A tile of at most TILE_PIXELS x 2 registers leaves room for the operands.
constexpr int TILE_PIXELS = LANES == 16 ? 14 : LANES == 8 ? 6 : 8;
// What a thread works on at a time should fit in its second-level cache, beside the packed kernel.
constexpr Index BAND_BYTES = 256 << 10;
constexpr Index LINE = 16;  // floats of a cache line

struct Tap {
  Index dy, dx;         // where it reads, from the pixel it is for
  const float* matrix;  // its entry of the kernel
};

struct Correlation {
  Index n, h, w, c;                // the input
  Index full_h, full_w, k;         // the output that is written into
  Index out_h, out_w;              // how much of it this is: every out_stride-th pixel, from first_y and first_x on
  Index in_stride, out_stride, first_y, first_x;
  Index matrix_c, matrix_k;        // distance of consecutive input and output channels in a tap's matrix
  std::vector<Tap> taps;
  Index step = 1;  // of a single tap with a stride only those pixels are copied that it reads
  Finish finish = {};  // of the whole output
};

// What is done to sums that are complete: `pixels` of them, `channels` of `step`, from y + at on.
inline void finish_sums(const Finish& finish, float* y, Index at, Index channel, Index pixels, Index step,
                        Index channels) {
  for (Index p = 0; p < pixels; ++p, at += step)
    for (Index i = 0; i < channels; i += LANES) {
      const Index left = channels - i;
      Vec v = load_some(y + at + i, left);
      if (finish.bias) v += load_some(finish.bias + channel + i, left);
      if (finish.skip) v += load_some(finish.skip + at + i, left);
      store_some(y + at + i, finish.relu ? positive_part(v) : v, left);
    }
}

// Copies rows y, y + step, ... and columns x, x + step, ... of channels [c, c + BLOCK) of one image; zeros lie outside.
template <int BLOCK>
void copy_block(const float* image, Index h, Index w, Index channels, Index c, Index y, Index rows, Index x,
                Index columns, Index step, float* out) {
  Index valid = std::min<Index>(BLOCK, channels - c);
  for (Index row = 0; row < rows; ++row, out += columns * BLOCK) {
    Index in_y = y + row * step;
    if (in_y < 0 || in_y >= h) {
      std::memset(out, 0, columns * BLOCK * sizeof(float));
      continue;
    }
    Index first = std::clamp<Index>(ceil_div(-x, step), 0, columns);
    Index last = std::clamp<Index>(ceil_div(w - x, step), first, columns);
    std::memset(out, 0, first * BLOCK * sizeof(float));
    std::memset(out + last * BLOCK, 0, (columns - last) * BLOCK * sizeof(float));
    const float* in = image + (in_y * w + x + first * step) * channels + c;
    float* to = out + first * BLOCK;
    if (valid == BLOCK) {
      for (Index column = first; column < last; ++column, in += step * channels, to += BLOCK)
        std::memcpy(to, in, BLOCK * sizeof(float));
    } else {
      for (Index column = first; column < last; ++column, in += step * channels, to += BLOCK) {
        std::memcpy(to, in, valid * sizeof(float));
        std::memset(to + valid, 0, (BLOCK - valid) * sizeof(float));
      }
    }
  }
}

// What all tiles of a row have in common: the copied blocks of input channels, the taps as offsets into one of them,
// the kernel packed in the order [block][tap][input channel][output channel], and where and how to write.
struct Row {
  Index blocks, block_step;
  const Index* taps;
  Index tap_count;
  const float* kernel;
  Index out_step, channels;
  bool begin;  // or else add to what is there
};

// R pixels of a row, IN_STRIDE apart in the copied rows, times V vectors of output channels.
template <int BLOCK, int IN_STRIDE, int R, int V>
__attribute__((noinline)) void correlate_tile(const float* in, const Row& row, float* out) {
  const Index out_step = row.out_step, channels = row.channels;
  const float* kernel = row.kernel;
  Vec sums[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
      sums[r][v] = row.begin ? Vec{} : load_some(out + r * out_step + v * LANES, channels - v * LANES);
  for (Index block = 0; block < row.blocks; ++block, in += row.block_step) {
    for (Index t = 0; t < row.tap_count; ++t) {
      const float* from = in + row.taps[t];
#pragma GCC unroll 2
      for (int c = 0; c < BLOCK; ++c, kernel += V * LANES) {
        Vec weights[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) weights[v] = load(kernel + v * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) sums[r][v] += weights[v] * from[r * IN_STRIDE * BLOCK + c];
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store_some(out + r * out_step + v * LANES, sums[r][v], channels - v * LANES);
}

// A row of `pixels`, in the widest tiles that fit.
template <int BLOCK, int IN_STRIDE, int V, int R>
void correlate_row(const float* in, const Row& row, float* out, Index pixels) {
  constexpr int NEXT = R > 8 ? 8 : R == 8 ? 7 : R == 7 || R == 6 ? 4 : R == 4 && LANES == 8 ? 3 : R / 2;
  // Tiles of equal width are better than wide ones and a narrow rest: 16 pixels are 8 + 8, not 14 + 2.
  if constexpr (R > 8) {
    if (pixels % R != 0 && pixels % 8 == 0) return correlate_row<BLOCK, IN_STRIDE, V, 8>(in, row, out, pixels);
  }
  // 8 pixels as 4 + 4, not 6 + 2, and 7 as 4 + 3: one or two have too few sums to keep the multipliers busy.
  for (; pixels >= R && (R != 6 || (pixels != 8 && pixels != 7)); pixels -= R, in += R * IN_STRIDE * BLOCK, out += R * row.out_step)
    correlate_tile<BLOCK, IN_STRIDE, R, V>(in, row, out);
  if constexpr (R > 1) {
    if (pixels > 0) correlate_row<BLOCK, IN_STRIDE, V, NEXT>(in, row, out, pixels);
  }
}

// Writes a BLOCK x WIDTH panel of a tap's matrix row by row; zeros lie outside its c rows and k columns.
template <int BLOCK, int WIDTH>
void pack(const float* matrix, Index matrix_c, Index matrix_k, Index c, Index k, float* out) {
  if (c < BLOCK || k < WIDTH) std::memset(out, 0, BLOCK * WIDTH * sizeof(float));
  if (matrix_k == 1) {
    for (Index i = 0; i < c; ++i) std::memcpy(out + i * WIDTH, matrix + i * matrix_c, k * sizeof(float));
  } else {
    for (Index j = 0; j < k; ++j)
      for (Index i = 0; i < c; ++i) out[i * WIDTH + j] = matrix[i * matrix_c + j * matrix_k];
  }
}

template <int BLOCK, int IN_STRIDE, int V>
void correlate(ffi::ThreadPool& pool, const Correlation& op, const float* in, float* out) {
  constexpr Index width = V * LANES;
  const Index tap_count = op.taps.size();
  const Index c_blocks = ceil_div(op.c, BLOCK), k_blocks = ceil_div(op.k, width);
  const Index panel = tap_count * BLOCK * width;

  // Pack: [block of output channels][block of input channels][tap][input channel][output channel].
  float* const packed = scratch(SHARED, std::max<Index>(1, k_blocks * c_blocks * panel));
  parallel_for(pool, k_blocks * c_blocks, [&](Index task) {
    Index k0 = task / c_blocks * width, c0 = task % c_blocks * BLOCK;
    float* to = packed + task * panel;
    for (const Tap& tap : op.taps) {
      pack<BLOCK, width>(tap.matrix + c0 * op.matrix_c + k0 * op.matrix_k, op.matrix_c, op.matrix_k,
                         std::min<Index>(BLOCK, op.c - c0), std::min(width, op.k - k0), to);
      to += BLOCK * width;
    }
  });

  Index low_y = 0, high_y = 0, low_x = 0, high_x = 0;
  for (size_t t = 0; t < op.taps.size(); ++t) {
    low_y = t ? std::min(low_y, op.taps[t].dy) : op.taps[t].dy, high_y = t ? std::max(high_y, op.taps[t].dy) : low_y;
    low_x = t ? std::min(low_x, op.taps[t].dx) : op.taps[t].dx, high_x = t ? std::max(high_x, op.taps[t].dx) : low_x;
  }
  const Index columns = (op.out_w - 1) * IN_STRIDE + high_x - low_x + 1;
  std::vector<Index> taps;
  for (const Tap& tap : op.taps) taps.push_back(((tap.dy - low_y) * columns + tap.dx - low_x) * BLOCK);

  // A single tap does little with a block of channels: take all of them before a tile is written.
  const Index group = tap_count == 1 ? c_blocks : 1;
  const Index row_bytes = columns * BLOCK * IN_STRIDE * group * Index(sizeof(float));
  const Index band = std::clamp<Index>(std::min(BAND_BYTES / row_bytes, ceil_div(op.n * op.out_h, TASKS)), 1, op.out_h);
  const Index bands = ceil_div(op.out_h, band);
  const Index all_bands = op.n * bands, runs = std::min(all_bands, 4 * TASKS);
  parallel_for(pool, runs, [&](Index run) {
    const Index last_band = all_bands * (run + 1) / runs;
    for (Index task = all_bands * run / runs; task < last_band; ++task) {
      const Index image = task / bands, y0 = task % bands * band, y1 = std::min(op.out_h, y0 + band);
      const Index rows = (y1 - y0 - 1) * IN_STRIDE + high_y - low_y + 1, block_step = rows * columns * BLOCK;
      const float* const source = in + image * op.h * op.w * op.c;
      float* const copy = scratch(LOCAL, group * block_step);
      Ahead next{source + std::clamp<Index>(y1 * IN_STRIDE * op.step + high_y, 0, op.h) * op.w * op.c, 0, LINE, LINE};
      if (task + 1 < last_band) next.pieces = (y1 - y0) * IN_STRIDE * op.step * op.w * op.c / LINE;
      const Index fetch = ceil_div(next.pieces, (y1 - y0) * k_blocks * ceil_div(c_blocks, group));
      for (Index cb = 0; cb < c_blocks; cb += group) {
        for (Index b = 0; b < group; ++b)
          copy_block<BLOCK>(source, op.h, op.w, op.c, (cb + b) * BLOCK, y0 * IN_STRIDE * op.step + low_y, rows, low_x,
                            columns, op.step, copy + b * block_step);
        for (Index kb = 0; kb < k_blocks; ++kb) {
          const Row row{group, block_step, taps.data(), tap_count, packed + (kb * c_blocks + cb) * panel,
                        op.out_stride * op.k, op.k - kb * width, cb == 0};
          for (Index y = y0; y < y1; ++y) {
            next.fetch(fetch);
            const Index pixel = (image * op.full_h + y * op.out_stride + op.first_y) * op.full_w + op.first_x;
            correlate_row<BLOCK, IN_STRIDE, V, V == 1 && TILE_PIXELS < 8 ? 8 : TILE_PIXELS>(
                copy + (y - y0) * IN_STRIDE * columns * BLOCK, row, out + pixel * op.k + kb * width, op.out_w);
            if (cb + group >= c_blocks && op.finish.any())
              finish_sums(op.finish, out, pixel * op.k + kb * width, kb * width, op.out_w, op.k,
                          std::min(width, op.k - kb * width));
          }
        }
      }
    }
  });
}

template <int BLOCK, int IN_STRIDE>
void correlate_any_width(ffi::ThreadPool& pool, const Correlation& op, const float* in, float* out) {
  if (op.k <= LANES) return correlate<BLOCK, IN_STRIDE, 1>(pool, op, in, out);
  return correlate<BLOCK, IN_STRIDE, 2>(pool, op, in, out);
}

template <int BLOCK>
void correlate_any_stride(ffi::ThreadPool& pool, const Correlation& op, const float* in, float* out) {
  if (op.in_stride == 1) return correlate_any_width<BLOCK, 1>(pool, op, in, out);
  return correlate_any_width<BLOCK, 2>(pool, op, in, out);
}

// Each compiled in a unit of its own: correlate_narrow.cc, correlate_32.cc, correlate_64.cc.
extern template void correlate_any_stride<3>(ffi::ThreadPool&, const Correlation&, const float*, float*);
extern template void correlate_any_stride<4>(ffi::ThreadPool&, const Correlation&, const float*, float*);
extern template void correlate_any_stride<16>(ffi::ThreadPool&, const Correlation&, const float*, float*);
extern template void correlate_any_stride<32>(ffi::ThreadPool&, const Correlation&, const float*, float*);
extern template void correlate_any_stride<64>(ffi::ThreadPool&, const Correlation&, const float*, float*);

// To a single tap without stride or padding the pixels of all images are one long row: cut it into full tiles.
inline void flatten(Correlation& op) {
  const Index pixels = op.n * op.h * op.w;
  const Index w = LANES == 8 && pixels % 28 == 0 ? 28 : pixels % 14 == 0 ? 14 : pixels % 8 == 0 ? 8 : op.w;
  op.n = 1, op.h = op.full_h = op.out_h = pixels / w, op.w = op.full_w = op.out_w = w;
}

// No tap at all: zeros.
inline void clear(ffi::ThreadPool& pool, const Correlation& op, float* out) {
  parallel_for(pool, op.n * op.out_h, [&](Index task) {
    const Index row = task / op.out_h * op.full_h + task % op.out_h * op.out_stride + op.first_y;
    float* to = out + (row * op.full_w + op.first_x) * op.k;
    for (Index i = 0; i < op.out_w; ++i, to += op.out_stride * op.k) std::memset(to, 0, op.k * sizeof(float));
  });
}

// Of more than 16 channels: the block that pads them least.
inline Index block_of(Index c) { return ceil_div(c, 32) % 2 ? 32 : 64; }

inline void correlate_any(ffi::ThreadPool& pool, Correlation op, const float* in, float* out) {
  if (op.out_h <= 0 || op.out_w <= 0) return;
  if (op.taps.empty()) return clear(pool, op, out);
  if (op.taps.size() == 1) std::swap(op.step, op.in_stride);
  if (op.c == 3) return correlate_any_stride<3>(pool, op, in, out);  // colours
  if (op.c <= 4) return correlate_any_stride<4>(pool, op, in, out);
  if (op.c <= 16) return correlate_any_stride<16>(pool, op, in, out);
  if (block_of(op.c) == 32) return correlate_any_stride<32>(pool, op, in, out);
  return correlate_any_stride<64>(pool, op, in, out);
}

}  // namespace resnet_jax
