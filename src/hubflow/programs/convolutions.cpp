// Convolutions of images for CPUs with AVX512-BF16: factors rounded to bfloat16, sums in float32.
//
// A convolution is the sum over the taps of its filter of products [pixels, channels] by [channels, outputs]. Pixels are laid
// out with their channels side by side, so that a product takes its rows where they lie, through pointers: nothing is copied
// for a tap, and taps beyond the edge are left out. Each operator is shared out among threads of its own; a sum is added up in
// one order, however many these are.
#include <atomic>
#include <map>
#include <thread>

#include "products.h"

namespace {

// Calls `work` with each number below `count`, in several threads. They are made anew each time, which takes microseconds:
// others would wait for work on the cores that Paddle's operators need.
template <class Work>
void ShareOut(int64_t count, int threads, const Work& work) {
  std::atomic<int64_t> next{0};
  const auto run = [&] {
    for (int64_t number = next++; number < count; number = next++) work(number);
  };
  std::vector<std::thread> others;
  for (int64_t other = 1; other < std::min<int64_t>(threads, count); ++other) others.emplace_back(run);
  run();
  for (std::thread& other : others) other.join();
}

// A convolution: its sizes, of images [batch, in, height, width] to [batch, out, rows, columns].
struct Geometry {
  int64_t batch, in, height, width, out, high, wide, stride, padding, rows, columns;

  Geometry(const Shape& images, const Shape& filter, int stride, int padding)
      : batch(images[0]),
        in(images[1]),
        height(images[2]),
        width(images[3]),
        out(filter[0]),
        high(filter[2]),
        wide(filter[3]),
        stride(stride),
        padding(padding),
        rows((height + 2 * padding - high) / stride + 1),
        columns((width + 2 * padding - wide) / stride + 1) {}
  int64_t Taps() const { return high * wide; }
  Shape Output() const { return {batch, out, rows, columns}; }
};

const __m512i kSteps = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);

// Filters [out, in, taps] as a matrix [out, in] for each tap.
Buffer<float> ByTap(const Tensor& filter, const Geometry& of, int threads) {
  const int64_t taps = of.Taps(), pairs = of.out * of.in;
  Buffer<float> found(pairs * taps);
  const float* from = filter.data<float>();
  const __m512i places = _mm512_mullo_epi32(kSteps, _mm512_set1_epi32(taps));
  ShareOut(of.out, threads, [&](int64_t out) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      for (int64_t in = 0; in < of.in; in += 16) {
        const __mmask16 lanes = Lanes(of.in - in);
        const float* first = from + (out * of.in + in) * taps + tap;
        const __m512 values = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), lanes, places, first, 4);
        _mm512_mask_storeu_ps(found.data() + tap * pairs + out * of.in + in, lanes, values);
      }
    }
  });
  return found;
}

// Images whose channels lie side by side, rounded: [batch, height, width, depth], depth being even.
struct Pixels {
  int64_t height, width, depth;
  Buffer<uint16_t> values;

  Pixels(const Tensor& images, int threads)
      : height(images.shape()[2]),
        width(images.shape()[3]),
        depth(Even(images.shape()[1])),
        values(images.shape()[0] * height * width * depth) {
    const int64_t channels = images.shape()[1], area = height * width;
    const float* from = images.data<float>();
    ShareOut(images.shape()[0], threads, [&](int64_t image) {
      RoundTransposed({from + image * channels * area, channels, area}, values.data() + image * area * depth);
    });
  }
};

// From a pixel of the result at (row, column) a tap goes to (row * by + down) / over and (column * by + right) / over.
struct Tap {
  int64_t down, right;
  const uint16_t* panels;
};

// A tile of a product whose left side is gathered: kRows pixels by kWide registers. See Tile.
template <int kRows, int kWide>
__attribute__((noinline)) void Gathered(const std::vector<const uint16_t*>& pixels, const std::vector<const uint16_t*>& panels,
                                        int64_t pairs, int64_t left, float* const* to) {
  __m512 sums[kRows][kWide];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kWide; ++j) sums[i][j] = _mm512_setzero_ps();
  }
  for (size_t tap = 0; tap < panels.size(); ++tap) {
    const uint16_t* rows[kRows];
    for (int i = 0; i < kRows; ++i) rows[i] = pixels[tap * kTile + i];
    const uint16_t* panel = panels[tap];
    for (int64_t pair = 0; pair < pairs; ++pair, panel += 2 * kPanel) {
      __m512bh weights[kWide];
      for (int j = 0; j < kWide; ++j) weights[j] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(panel + 32 * j));
#pragma GCC unroll 6
      for (int i = 0; i < kRows; ++i) {
        int32_t both;
        std::memcpy(&both, rows[i] + 2 * pair, sizeof(both));
        const __m512bh value = reinterpret_cast<__m512bh>(_mm512_set1_epi32(both));
#pragma GCC unroll 4
        for (int j = 0; j < kWide; ++j) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], value, weights[j]);
      }
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kWide; ++j) _mm512_mask_storeu_ps(to[i] + 16 * j, Lanes(left - 16 * j), sums[i][j]);
  }
}

template <int kWide>
void GatheredRows(int64_t count, const std::vector<const uint16_t*>& pixels, const std::vector<const uint16_t*>& panels,
                  int64_t pairs, int64_t left, float* const* to) {
  switch (count) {
    case 6:
      return Gathered<6, kWide>(pixels, panels, pairs, left, to);
    case 5:
      return Gathered<5, kWide>(pixels, panels, pairs, left, to);
    case 4:
      return Gathered<4, kWide>(pixels, panels, pairs, left, to);
    case 3:
      return Gathered<3, kWide>(pixels, panels, pairs, left, to);
    case 2:
      return Gathered<2, kWide>(pixels, panels, pairs, left, to);
    default:
      return Gathered<1, kWide>(pixels, panels, pairs, left, to);
  }
}

void GatheredTile(int64_t count, const std::vector<const uint16_t*>& pixels, const std::vector<const uint16_t*>& panels,
                  int64_t pairs, int64_t left, float* const* to) {
  if (left <= 16) return GatheredRows<1>(count, pixels, panels, pairs, left, to);
  if (left <= 32) return GatheredRows<2>(count, pixels, panels, pairs, left, to);
  if (left <= 48) return GatheredRows<3>(count, pixels, panels, pairs, left, to);
  GatheredRows<4>(count, pixels, panels, pairs, left, to);
}

// Writes the transpose of a matrix.
void WriteTransposed(const Matrix& from, float* to) {
  __m512i block[16];
  for (int64_t row = 0; row < from.rows; row += 16) {
    for (int64_t column = 0; column < from.columns; column += 16) {
      const __mmask16 lanes = Lanes(from.columns - column);
      for (int64_t i = 0; i < 16; ++i) {
        block[i] = _mm512_castps_si512(_mm512_maskz_loadu_ps(row + i < from.rows ? lanes : 0, from.Row(row + i) + column));
      }
      Transpose(block);
      for (int64_t j = 0; j < std::min<int64_t>(16, from.columns - column); ++j) {
        _mm512_mask_storeu_epi32(to + (column + j) * from.rows + row, Lanes(from.rows - row), block[j]);
      }
    }
  }
}

// Pixels of an image that are sums over the same taps, and where those are found in the image that is gathered from.
struct Group {
  std::vector<const uint16_t*> panels;   // of each tap
  std::vector<int64_t> pixels, sources;  // [pixels], [pixels, taps]
};

// The pixels [height, width] of a result in groups; `by`, `over`: see Tap.
std::vector<Group> Grouped(const Pixels& source, int64_t height, int64_t width, const std::vector<Tap>& taps, int64_t by,
                           int64_t over) {
  std::map<std::vector<bool>, Group> groups;
  std::vector<bool> reached(taps.size());
  std::vector<int64_t> places(taps.size());
  for (int64_t pixel = 0; pixel < height * width; ++pixel) {
    for (size_t tap = 0; tap < taps.size(); ++tap) {
      const int64_t down = pixel / width * by + taps[tap].down, right = pixel % width * by + taps[tap].right;
      reached[tap] = down >= 0 && right >= 0 && down % over == 0 && right % over == 0 && down / over < source.height &&
                     right / over < source.width;
      places[tap] = (down / over * source.width + right / over) * source.depth;
    }
    Group& own = groups[reached];
    const bool is_new = own.pixels.empty();
    own.pixels.push_back(pixel);
    for (size_t tap = 0; tap < taps.size(); ++tap) {
      if (reached[tap] && is_new) own.panels.push_back(taps[tap].panels);
      if (reached[tap]) own.sources.push_back(places[tap]);
    }
  }
  std::vector<Group> found;
  for (auto& [key, group] : groups) found.push_back(std::move(group));
  return found;
}

constexpr int64_t kPixels = 512;  // of a share of the work, at least, where images are small

// The result [batch, channels, height, width] of gathering from `source`; what no tap reaches is 0.
Tensor Gather(const Pixels& source, const Shape& shape, const std::vector<Tap>& taps, int64_t by, int64_t over, int threads) {
  Tensor result = Empty(shape);
  const int64_t batch = shape[0], channels = shape[1], area = shape[2] * shape[3], pairs = source.depth / 2;
  const int64_t of_source = source.height * source.width * source.depth;
  const int64_t images = std::clamp<int64_t>(kPixels / area, 1, std::max<int64_t>(1, batch / threads));
  const std::vector<Group> groups = Grouped(source, shape[2], shape[3], taps, by, over);
  float* to = result.data<float>();
  ShareOut((batch + images - 1) / images, threads, [&](int64_t share) {
    const int64_t first = share * images, count = std::min(images, batch - first);
    Buffer<float> sums(count * area * channels);
    std::vector<const uint16_t*> pixels, panels;
    for (const Group& group : groups) {
      const int64_t reached = group.panels.size(), size = group.pixels.size();
      for (int64_t i = 0; reached == 0 && i < count * size; ++i) {
        std::fill_n(sums.data() + (i / size * area + group.pixels[i % size]) * channels, channels, 0.0f);
      }
      if (reached == 0) continue;
      pixels.resize(reached * kTile);
      panels.resize(reached);
      for (int64_t channel = 0; channel < channels; channel += kPanel) {
        for (int64_t tap = 0; tap < reached; ++tap) panels[tap] = group.panels[tap] + channel * pairs * 2;
        for (int64_t place = 0; place < count * size; place += kTile) {
          const int64_t rows = std::min(kTile, count * size - place);
          float* targets[kTile];
          for (int64_t i = 0; i < rows; ++i) {
            const int64_t image = (place + i) / size, pixel = (place + i) % size;
            const uint16_t* from = source.values.data() + (first + image) * of_source;
            const int64_t* places = group.sources.data() + pixel * reached;
            for (int64_t tap = 0; tap < reached; ++tap) pixels[tap * kTile + i] = from + places[tap];
            targets[i] = sums.data() + (image * area + group.pixels[pixel]) * channels + channel;
          }
          GatheredTile(rows, pixels, panels, pairs, channels - channel, targets);
        }
      }
    }
    for (int64_t image = 0; image < count; ++image) {
      WriteTransposed({sums.data() + image * area * channels, area, channels}, to + (first + image) * channels * area);
    }
  });
  return result;
}

std::vector<Tensor> Convolution(const Tensor& images, const Tensor& filter, int stride, int padding, int threads) {
  const Geometry of(images.shape(), filter.shape(), stride, padding);
  const Buffer<float> by_tap = ByTap(filter, of, threads);
  const int64_t size = PackedSize(of.in, of.out);
  Buffer<uint16_t> packed(of.Taps() * size);
  ShareOut(of.Taps(), threads, [&](int64_t tap) {
    PackTransposed({by_tap.data() + tap * of.out * of.in, of.out, of.in}, packed.data() + tap * size);
  });
  std::vector<Tap> taps;
  for (int64_t tap = 0; tap < of.Taps(); ++tap) {
    taps.push_back({tap / of.wide - padding, tap % of.wide - padding, packed.data() + tap * size});
  }
  return {Gather(Pixels(images, threads), of.Output(), taps, stride, 1, threads)};
}

// The slopes of the images: each pixel takes from those results that it went into.
Tensor OfImages(const Shape& images, const Tensor& filter, const Tensor& slope, const Geometry& of, int threads) {
  const Buffer<float> by_tap = ByTap(filter, of, threads);
  const int64_t size = PackedSize(of.out, of.in);
  Buffer<uint16_t> packed(of.Taps() * size);
  ShareOut(of.Taps(), threads,
           [&](int64_t tap) { Pack({by_tap.data() + tap * of.out * of.in, of.out, of.in}, packed.data() + tap * size); });
  std::vector<Tap> taps;
  for (int64_t tap = 0; tap < of.Taps(); ++tap) {
    taps.push_back({of.padding - tap / of.wide, of.padding - tap % of.wide, packed.data() + tap * size});
  }
  return Gather(Pixels(slope, threads), images, taps, 1, of.stride, threads);
}

constexpr int64_t kSlack = 32;   // values behind the last one that may be read, or written, with it
constexpr int64_t kInner = 512;  // pixels that are summed at a time, at least, for the slopes of filters

// The slopes of the filters: for each tap the product [in, pixels] by [pixels, out], summed over all images.
Tensor OfFilter(const Tensor& images, const Tensor& slope, const Shape& filter, const Geometry& of, int threads) {
  const int64_t area = of.rows * of.columns, even = Even(area), together = std::max<int64_t>(1, kInner / even);
  const int64_t groups = (of.batch + together - 1) / together, taps = of.Taps();
  const int64_t high = of.height + 2 * of.padding, wide = of.width + 2 * of.padding;
  Buffer<uint16_t> slopes(groups * PackedSize(together * even, of.out));
  std::vector<uint16_t> padded(of.batch * of.in * high * wide + kSlack);  // zeros beyond the edges
  ShareOut(of.batch, threads, [&](int64_t image) {
    const int64_t group = image / together;
    const int64_t pairs = std::min(together, of.batch - group * together) * even / 2;
    PackTransposed({slope.data<float>() + image * of.out * area, of.out, area},
                   slopes.data() + group * PackedSize(together * even, of.out), pairs, image % together * even / 2);
    for (int64_t line = 0; line < of.in * of.height; ++line) {
      const int64_t channel = image * of.in + line / of.height, row = line % of.height;
      uint16_t* to = padded.data() + (channel * high + row + of.padding) * wide + of.padding;
      const float* from = images.data<float>() + (channel * of.height + row) * of.width;
      for (int64_t i = 0; i < of.width; i += 16) {
        const __mmask16 lanes = Lanes(of.width - i);
        _mm256_mask_storeu_epi16(to + i, lanes, Rounded(_mm512_maskz_loadu_ps(lanes, from + i)));
      }
    }
  });
  Buffer<float> sums(taps * of.in * of.out);
  constexpr int64_t kChannels = 8 * kTile;
  const int64_t blocks = (of.in + kChannels - 1) / kChannels;
  ShareOut(taps * blocks, threads, [&](int64_t share) {
    const int64_t tap = share % taps, first = share / taps * kChannels, count = std::min(kChannels, of.in - first);
    Buffer<uint16_t> left(count * together * even + kSlack);
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t within = std::min(together, of.batch - group * together), inner = within * even;
      for (int64_t channel = 0; channel < count; ++channel) {
        for (int64_t image = 0; image < within; ++image) {
          const uint16_t* from = padded.data() + ((group * together + image) * of.in + first + channel) * high * wide;
          uint16_t* to = left.data() + channel * inner + image * even;
          for (int64_t row = 0; row < of.rows; ++row, to += of.columns) {
            const uint16_t* line = from + (row * of.stride + tap / of.wide) * wide + tap % of.wide;
            if (of.stride == 1) {  // what is too much is written over by the next row
              for (int64_t i = 0; i < of.columns; i += 32) _mm512_storeu_si512(to + i, _mm512_loadu_si512(line + i));
            } else {
              for (int64_t column = 0; column < of.columns; ++column) to[column] = line[column * of.stride];
            }
          }
          if (even > area) *to = 0;
        }
      }
      float* to = sums.data() + (tap * of.in + first) * of.out;
      Multiply(left.data(), slopes.data() + group * PackedSize(together * even, of.out), count, inner, of.out,
               {to, of.out, nullptr, group > 0 ? to : nullptr});
    }
  });
  Buffer<float> turned(taps * of.in * of.out);  // [taps, out, in]
  ShareOut(taps, threads, [&](int64_t tap) {
    WriteTransposed({sums.data() + tap * of.in * of.out, of.in, of.out}, turned.data() + tap * of.in * of.out);
  });
  Tensor found = Empty(filter);
  float* to = found.data<float>();
  const __m512i places = _mm512_mullo_epi32(kSteps, _mm512_set1_epi32(taps));
  ShareOut(of.out, threads, [&](int64_t out) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      for (int64_t in = 0; in < of.in; in += 16) {
        const __mmask16 lanes = Lanes(of.in - in);
        const __m512 values = _mm512_maskz_loadu_ps(lanes, turned.data() + (tap * of.out + out) * of.in + in);
        _mm512_mask_i32scatter_ps(to + (out * of.in + in) * taps + tap, lanes, places, values, 4);
      }
    }
  });
  return found;
}

std::vector<Tensor> ConvolutionGradient(const Tensor& images, const Tensor& filter, const Tensor& slope, int stride,
                                        int padding, int threads, bool of_images, bool of_filter) {
  const Geometry of(images.shape(), filter.shape(), stride, padding);
  return {of_images ? OfImages(images.shape(), filter, slope, of, threads) : Empty({1}),
          of_filter ? OfFilter(images, slope, filter.shape(), of, threads) : Empty({1})};
}

std::vector<Shape> ConvolutionShape(const Shape& images, const Shape& filter, const int& stride, const int& padding,
                                    const int&) {
  Shape found = Geometry(images, filter, stride, padding).Output();
  if (images[0] < 0) found[0] = -1;
  if (images[2] < 0) found[2] = -1;
  if (images[3] < 0) found[3] = -1;
  return {found};
}
std::vector<DataType> ConvolutionType(const DataType& images, const DataType&) { return {images}; }
std::vector<Shape> ConvolutionGradientShape(const Shape& images, const Shape& filter, const Shape&) { return {images, filter}; }
std::vector<DataType> ConvolutionGradientType(const DataType& images, const DataType& filter, const DataType&) {
  return {images, filter};
}

}  // namespace

PD_BUILD_OP(hubflow_convolution)
    .Inputs({"Images", "Filter"})
    .Outputs({"Y"})
    .Attrs({"stride: int", "padding: int", "threads: int"})
    .SetKernelFn(PD_KERNEL(Convolution))
    .SetInferShapeFn(PD_INFER_SHAPE(ConvolutionShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(ConvolutionType));

PD_BUILD_OP(hubflow_convolution_backward)
    .Inputs({"Images", "Filter", "Slope"})
    .Outputs({"OfImages", "OfFilter"})
    .Attrs({"stride: int", "padding: int", "threads: int", "of_images: bool", "of_filter: bool"})
    .SetKernelFn(PD_KERNEL(ConvolutionGradient))
    .SetInferShapeFn(PD_INFER_SHAPE(ConvolutionGradientShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(ConvolutionGradientType));
