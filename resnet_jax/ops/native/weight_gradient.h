// Weight gradient: dw[i, j] = sum over pixels of x[y * stride + i - pad, ...] g[y, ...]^T.
//
// A tile of R input channels times V vectors of output channels stays in registers while the pixels of a band pass.
// Both operands come from copies of the band: x with the padding written out, g cut into panels as wide as the tile.
#pragma once

#include <array>
#include <utility>

#include "common.h"
#include "convolution.h"

namespace resnet_jax {

// Of what a task reads again and again: its sums, and the copies of a band.
constexpr Index SUMS_FLOATS = 64 << 10;
constexpr Index BAND_PIXELS = 192;
constexpr Index TASK_CHANNELS = 256, BLOCK_CHANNELS = 64;
constexpr Index PARTIAL_FLOATS = 2 << 20;

// The pixels of a band, and how far apart they are. Those of g follow one another.
struct Strip {
  Index images, rows, pixels;
  Index x_image, x_row, x_pixel, g_pixel;
};

template <int R, int V>
void outer_tile(const Strip& strip, const float* x, const float* g, float* sums_out) {
  Vec sums[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[r][v] = load(sums_out + (r * V + v) * LANES);
  const Index x_pixel = strip.x_pixel, g_pixel = strip.g_pixel;
  for (Index image = 0; image < strip.images; ++image)
    for (Index row = 0; row < strip.rows; ++row) {
      const float* a = x + image * strip.x_image + row * strip.x_row;
      for (Index pixel = 0; pixel < strip.pixels; ++pixel, a += x_pixel, g += g_pixel) {
        Vec values[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) values[v] = load(g + v * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) sums[r][v] += values[v] * a[r];
      }
    }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(sums_out + (r * V + v) * LANES, sums[r][v]);
}

using OuterTile = void (*)(const Strip&, const float*, const float*, float*);

template <int V, int... R>
constexpr std::array<OuterTile, sizeof...(R)> outer_tiles(std::integer_sequence<int, R...>) {
  return {outer_tile<R + 1, V>...};
}

// The tiles of V vectors, of 1 to R channels.
template <int V>
struct Outer {
  static constexpr int R = V == 1 ? (LANES == 16 ? 16 : 12) : (LANES == 16 ? 8 : 6);
  static constexpr auto TILES = outer_tiles<V>(std::make_integer_sequence<int, R>());
};

// Into how many groups a sum is cut whose groups add up apart from each other, to be added in order.
inline Index partial_sums(Index size, Index tasks, Index most) {
  return std::clamp<Index>(std::min(ceil_div(TASKS, tasks), PARTIAL_FLOATS / size), 1, most);
}

inline void add_partial_sums(ffi::ThreadPool& pool, const float* partial, Index groups, Index size, float* sums) {
  if (groups == 1) return;
  const Index chunk = ceil_div(ceil_div(size, TASKS), LANES) * LANES;
  parallel_for(pool, ceil_div(size, chunk), [&](Index task) {
    const Index begin = task * chunk, count = std::min(size - begin, chunk);
    float* const to = sums + begin;
    std::memcpy(to, partial + begin, count * sizeof(float));
    for (Index group = 1; group < groups; ++group) {
      const float* const from = partial + group * size + begin;
#pragma GCC ivdep
      for (Index i = 0; i < count; ++i) to[i] += from[i];
    }
  });
}

// Copies images [image, image + images), rows y, y + step, ... and columns x, x + step, ... of `channels` channels from
// c on, in blocks of BLOCK_CHANNELS, each block_size from the last; zeros lie outside.
inline void copy_pixels(const float* in, Index h, Index w, Index all_channels, Index image, Index images, Index y,
                        Index rows, Index x, Index columns, Index step, Index c, Index channels, float* out,
                        Index block_size) {
  const Index first = std::clamp<Index>(ceil_div(-x, step), 0, columns);
  const Index last = std::clamp<Index>(ceil_div(w - x, step), first, columns);
  const Index whole = channels / BLOCK_CHANNELS, rest = channels - whole * BLOCK_CHANNELS;
  const Index row_size = columns * BLOCK_CHANNELS, rest_row_size = columns * rest;
  float* const rest_out = out + whole * block_size;
  for (Index line = 0; line < images * rows; ++line) {
    const Index in_y = y + line % rows * step;
    const bool inside = in_y >= 0 && in_y < h;
    const Index begin = inside ? first : 0, end = inside ? last : 0;
    const float* from = in + (((image + line / rows) * h + in_y) * w + x + begin * step) * all_channels + c;
    for (Index block = 0; block < whole; ++block) {
      float* to = out + block * block_size + line * row_size;
      std::memset(to, 0, begin * BLOCK_CHANNELS * sizeof(float));
      std::memset(to + end * BLOCK_CHANNELS, 0, (columns - end) * BLOCK_CHANNELS * sizeof(float));
    }
    float* to = out + line * row_size + begin * BLOCK_CHANNELS;
    for (Index column = begin; column < end; ++column, from += step * all_channels, to += BLOCK_CHANNELS)
      for (Index block = 0; block < whole; ++block)
        std::memcpy(to + block * block_size, from + block * BLOCK_CHANNELS, BLOCK_CHANNELS * sizeof(float));
    if (rest == 0) continue;
    from -= (end - begin) * step * all_channels - whole * BLOCK_CHANNELS;
    to = rest_out + line * rest_row_size;
    std::memset(to, 0, begin * rest * sizeof(float));
    std::memset(to + end * rest, 0, (columns - end) * rest * sizeof(float));
    if (rest == all_channels && step == 1)
      std::memcpy(to + begin * rest, from, (end - begin) * rest * sizeof(float));
    else
      for (Index column = begin; column < end; ++column, from += step * all_channels)
        std::memcpy(to + column * rest, from, rest * sizeof(float));
  }
}

// A part of an axis: cut into the fewest parts of at most `most` each, multiples of `unit`.
inline Index part(Index size, Index most, Index unit) {
  const Index parts = ceil_div(size, std::max(most, unit));
  return ceil_div(ceil_div(size, parts), unit) * unit;
}

template <int V>
void weight_gradient_in_tiles(ffi::ThreadPool& pool, const Convolution& op, const float* x, const float* g, float* dw) {
  constexpr int R = Outer<V>::R;
  constexpr Index width = V * LANES;
  const Index taps = op.rows * op.columns, size = taps * op.c * op.k;
  // Of one tap only those pixels are copied that it reads. Where channels are few, those of a row of taps, which lie
  // one after the other, are taken for channels.
  const Index step = taps == 1 ? op.stride : 1, stride = op.stride / step;
  const bool merged = op.c <= 8;
  const Index columns = (op.out_w - 1) * stride + op.columns;

  const Index c_part = merged ? op.c : part(op.c, taps == 1 ? TASK_CHANNELS : TASK_CHANNELS / 4, BLOCK_CHANNELS);
  const Index k_part = part(op.k, std::min<Index>(TASK_CHANNELS, SUMS_FLOATS / (taps * c_part)), width);
  const Index c_parts = ceil_div(op.c, c_part), k_parts = ceil_div(op.k, k_part);
  const Index band_images = std::clamp<Index>(BAND_PIXELS / (op.out_h * op.out_w), 1, op.n);
  const Index band_rows = std::clamp<Index>(BAND_PIXELS / op.out_w, 1, op.out_h);
  const Index y_bands = ceil_div(op.out_h, band_rows), bands = ceil_div(op.n, band_images) * y_bands;
  // No copies of what lies as it should.
  const bool direct_x = taps == 1 && step == 1 && op.pad_y == 0 && op.pad_x == 0 && op.c <= BLOCK_CHANNELS;
  const bool direct_g = op.k == width || op.k == 2 * width;
  const Index copied_rows = (band_rows - 1) * stride + op.rows;
  const Index groups = partial_sums(size, c_parts * k_parts, bands);
  float* const partial = groups == 1 ? dw : scratch(SHARED, groups * size);

  parallel_for(pool, groups * c_parts * k_parts, [&](Index task) {
    const Index group = task / (c_parts * k_parts);
    const Index c0 = task / k_parts % c_parts * c_part, k0 = task % k_parts * k_part;
    const Index channels = std::min(c_part, op.c - c0), panels = ceil_div(std::min(k_part, op.k - k0), width);
    const Index sums_size = taps * channels * width;
    const Index x_size = band_images * copied_rows * columns * channels + LANES;
    const Index g_size = band_images * band_rows * op.out_w * width;
    float* const sums = scratch(LOCAL, panels * (sums_size + g_size) + x_size);
    float* const g_copy = sums + panels * sums_size;
    float* const x_copy = g_copy + panels * g_size;
    std::memset(sums, 0, panels * sums_size * sizeof(float));

    const Index last_band = bands * (group + 1) / groups;
    for (Index band = bands * group / groups; band < last_band; ++band) {
      const Index image = band / y_bands * band_images, images = std::min(band_images, op.n - image);
      const Index y = band % y_bands * band_rows, rows = std::min(band_rows, op.out_h - y);
      const Index x_rows = (rows - 1) * stride + op.rows, block_size = images * x_rows * columns * BLOCK_CHANNELS;
      const float* x_band = x_copy;
      if (direct_x)
        x_band = x + (image * op.h + y) * op.w * op.c;
      else
        copy_pixels(x, op.h, op.w, op.c, image, images, y * op.stride - op.pad_y, x_rows, -op.pad_x, columns, step, c0,
                    channels, x_copy, block_size);
      const Index pixels = images * rows * op.out_w;
      const float* const g_band = g + (image * op.out_h + y) * op.out_w * op.k + k0;
      if (!direct_g) {
        const Index whole = std::min(k_part, op.k - k0) / width;
        const float* from = g_band;
        float* to = g_copy;
        for (Index pixel = 0; pixel < pixels; ++pixel, from += op.k, to += width) {
          for (Index panel = 0; panel < whole; ++panel)
            for (int v = 0; v < V; ++v)
              store(to + panel * g_size + v * LANES, load(from + panel * width + v * LANES));
          if (whole < panels)
            for (int v = 0; v < V; ++v)
              store(to + whole * g_size + v * LANES,
                    load_some(from + whole * width + v * LANES, op.k - k0 - whole * width - v * LANES));
        }
      }
      const Index fetches = panels * ceil_div(channels, R) * taps, next_pixels = band + 1 < last_band ? pixels : 0;
      Ahead next_g{g_band + pixels * op.k, next_pixels, op.k, std::min(k_part, op.k - k0)};
      Ahead next_x{x + (image * op.h + (y + rows) * op.stride) * op.w * op.c + c0,
                   next_pixels * op.stride * op.stride, op.c, channels};
      const Index x_fetch = ceil_div(next_x.pieces, fetches), g_fetch = ceil_div(next_g.pieces, fetches);
      for (Index panel = 0; panel < panels; ++panel)
        for (Index c = 0; c < channels; c += BLOCK_CHANNELS) {
          const Index block = std::min(BLOCK_CHANNELS, channels - c);
          Strip strip{images, rows, op.out_w, x_rows * columns * block, columns * stride * block, stride * block,
                      direct_g ? op.k : width};
          if (strip.x_row == strip.pixels * strip.x_pixel && (images == 1 || strip.x_image == rows * strip.x_row))
            strip.pixels = pixels, strip.images = strip.rows = 1;
          const Index together = merged ? op.columns * op.c : block;
          const Index tiles = ceil_div(together, R);
          for (Index i = 0; i < op.rows; ++i)
            for (Index j = 0; j < (merged ? 1 : op.columns); ++j)
              for (Index tile = 0; tile < tiles; ++tile) {
                const Index r = together * tile / tiles, r_end = together * (tile + 1) / tiles;
                next_x.fetch(x_fetch), next_g.fetch(g_fetch);
                Outer<V>::TILES[r_end - r - 1](
                    strip, x_band + c / BLOCK_CHANNELS * block_size + (i * columns + j) * block + r,
                    direct_g ? g_band + panel * width : g_copy + panel * g_size,
                    sums + panel * sums_size + ((i * op.columns + j) * channels + c + r) * width);
              }
        }
    }
    for (Index panel = 0; panel < panels; ++panel)
      for (Index tap = 0; tap < taps; ++tap)
        for (Index c = 0; c < channels; ++c) {
          const Index k = k0 + panel * width;
          const float* from = sums + panel * sums_size + (tap * channels + c) * width;
          float* to = partial + group * size + (tap * op.c + c0 + c) * op.k + k;
          for (int v = 0; v < V; ++v) store_some(to + v * LANES, load(from + v * LANES), op.k - k - v * LANES);
        }
  });
  add_partial_sums(pool, partial, groups, size, dw);
}

}  // namespace resnet_jax
