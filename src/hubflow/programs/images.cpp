// Layers of image networks for CPUs with AVX512-BF16: values in bfloat16, sums in float32.
//
// Images are pixels, [batch, height, width, depth], with their channels side by side; depth is the number of channels, or one
// more where that is odd. A convolution is the sum over the taps of its filter of products [pixels, channels] by
// [channels, outputs], which take their rows where they lie, through pointers: nothing is copied for a tap, and taps beyond the
// edge are left out. Each operator is shared out among threads of its own; a sum is added up in one order, however many these
// are.
#include <atomic>
#include <map>
#include <mutex>
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

const uint16_t* Values(const Tensor& pixels) { return reinterpret_cast<const uint16_t*>(pixels.data<paddle::bfloat16>()); }
uint16_t* Values(Tensor* pixels) { return reinterpret_cast<uint16_t*>(pixels->data<paddle::bfloat16>()); }
Tensor EmptyPixels(const Shape& shape) { return EmptyOf(shape, DataType::BFLOAT16); }

// 16 values as float32, and back: rounded, or cut off where they are of 16 bits anyway.
__m512 Load(const uint16_t* from, __mmask16 lanes) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, from)), 16));
}
void Store(uint16_t* to, __mmask16 lanes, __m512 values) { _mm256_mask_storeu_epi16(to, lanes, Rounded(values)); }

// 16 pixels, of which `count` are there, by 16 pairs of channels: the register `j` becomes the pair `j` of all pixels.
void LoadTransposed(const uint16_t* from, int64_t count, int64_t depth, int64_t pairs, __m512i (&block)[16]) {
  const __mmask16 lanes = Lanes(pairs);
  for (int64_t i = 0; i < 16; ++i) block[i] = _mm512_maskz_loadu_epi32(i < count ? lanes : 0, from + i * depth);
  Transpose(block);
}

// Two rows of up to 64 values as a pair of rows in a panel; without an upper one there are zeros.
void PackPair(const uint16_t* lower, const uint16_t* upper, int64_t columns, uint16_t* to) {
  for (int64_t column = 0; column < columns; column += 16) {
    const __mmask16 lanes = Lanes(columns - column);
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, lower + column));
    const __m256i high = upper == nullptr ? _mm256_setzero_si256() : _mm256_maskz_loadu_epi16(lanes, upper + column);
    _mm512_storeu_si512(to + 2 * column, _mm512_or_si512(low, _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16)));
  }
}

// Lays out a matrix [rows, depth] as Pack does, as some of the `total` pairs of rows of a larger one, from number `start` on.
// What a panel has beyond the depth is not set.
void PackRows(const uint16_t* from, int64_t rows, int64_t depth, uint16_t* to, int64_t total, int64_t start) {
  for (int64_t first = 0; first < depth; first += kPanel) {
    uint16_t* out = to + (first / kPanel * total + start) * kPanel * 2;
    for (int64_t row = 0; row < rows; row += 2, out += kPanel * 2) {
      const uint16_t* lower = from + row * depth + first;
      PackPair(lower, row + 1 < rows ? lower + depth : nullptr, std::min(kPanel, depth - first), out);
    }
  }
}

// The same of the transpose [depth, rows] of a matrix.
void PackTransposed(const uint16_t* from, int64_t rows, int64_t depth, uint16_t* to, int64_t total, int64_t start) {
  __m512i block[16];
  for (int64_t row = 0; row < Panels(rows) * kPanel; row += 16) {
    uint16_t* out = to + ((row / kPanel * total + start) * kPanel + row % kPanel) * 2;
    for (int64_t pair = 0; pair < depth / 2; pair += 16) {
      LoadTransposed(from + row * depth + 2 * pair, rows - row, depth, depth / 2 - pair, block);
      for (int64_t j = 0; j < std::min<int64_t>(16, depth / 2 - pair); ++j) {
        _mm512_storeu_si512(out + (pair + j) * kPanel * 2, block[j]);
      }
    }
  }
}

Tensor AsPixels(const Tensor& images, int threads) {
  const Shape shape = images.shape();
  const int64_t channels = shape[1], area = shape[2] * shape[3];
  Tensor found = EmptyPixels({shape[0], shape[2], shape[3], Even(channels)});
  const float* from = images.data<float>();
  uint16_t* to = Values(&found);
  ShareOut(shape[0], threads, [&](int64_t image) {
    RoundTransposed({from + image * channels * area, channels, area}, to + image * area * Even(channels));
  });
  return found;
}

Tensor AsImages(const Tensor& pixels, int64_t channels, int threads) {
  const Shape shape = pixels.shape();
  const int64_t area = shape[1] * shape[2], depth = shape[3];
  Tensor found = Empty({shape[0], channels, shape[1], shape[2]});
  const uint16_t* values = Values(pixels);
  float* images = found.data<float>();
  ShareOut(shape[0], threads, [&](int64_t image) {
    const uint16_t* from = values + image * area * depth;
    float* to = images + image * area * channels;
    __m512i block[16];
    for (int64_t pixel = 0; pixel < area; pixel += 16) {
      const __mmask16 lanes = Lanes(area - pixel);
      for (int64_t channel = 0; channel < depth; channel += 32) {
        LoadTransposed(from + pixel * depth + channel, area - pixel, depth, (depth - channel) / 2, block);
        for (int64_t j = 0; j < 16; ++j) {
          float* own = to + (channel + 2 * j) * area + pixel;
          if (channel + 2 * j < channels) _mm512_mask_storeu_epi32(own, lanes, _mm512_slli_epi32(block[j], 16));
          if (channel + 2 * j + 1 >= channels) continue;
          _mm512_mask_storeu_epi32(own + area, lanes, _mm512_and_si512(block[j], _mm512_set1_epi32(0xffff0000)));
        }
      }
    }
  });
  return found;
}

std::vector<Tensor> ToPixels(const Tensor& images, int threads) { return {AsPixels(images, threads)}; }
std::vector<Tensor> ToPixelsGradient(const Tensor& images, const Tensor& slope, int threads) {
  return {AsImages(slope, images.shape()[1], threads)};
}
std::vector<Tensor> FromPixels(const Tensor& pixels, int channels, int threads) {
  return {AsImages(pixels, channels, threads)};
}
std::vector<Tensor> FromPixelsGradient(const Tensor& pixels, const Tensor& slope, int channels, int threads) {
  return {AsPixels(slope, threads)};
}

// A convolution: its sizes, of pixels [batch, height, width, even in] to [batch, rows, columns, even out].
struct Geometry {
  int64_t batch, in, height, width, out, high, wide, stride, padding, rows, columns;

  Geometry(const Shape& pixels, const Shape& filter, int stride, int padding)
      : batch(pixels[0]),
        in(filter[1]),
        height(pixels[1]),
        width(pixels[2]),
        out(filter[0]),
        high(filter[2]),
        wide(filter[3]),
        stride(stride),
        padding(padding),
        rows((height + 2 * padding - high) / stride + 1),
        columns((width + 2 * padding - wide) / stride + 1) {}
  int64_t Taps() const { return high * wide; }
  Shape Output() const { return {batch, rows, columns, Even(out)}; }
};

// Filters [out, in, high, wide], rounded, as a matrix [out, even in] for each tap.
std::vector<Tensor> ByTap(const Tensor& filter, int threads) {
  const Shape shape = filter.shape();
  const int64_t outputs = shape[0], inputs = shape[1], taps = shape[2] * shape[3], depth = Even(inputs), line = inputs * taps;
  Tensor found = EmptyPixels({taps, outputs, depth});
  uint16_t* result = Values(&found);
  const float* from = filter.data<float>();
  ShareOut(outputs, threads, [&](int64_t out) {
    Buffer<uint16_t> rounded(Even(line));
    Round({from + out * line, 1, line}, rounded.data());
    for (int64_t tap = 0; tap < taps; ++tap) {
      uint16_t* to = result + (tap * outputs + out) * depth;
      const uint16_t* own = rounded.data() + tap;
      for (int64_t in = 0; in < inputs; ++in) to[in] = own[in * taps];
      if (depth > inputs) to[inputs] = 0;
    }
  });
  return {found};
}

// From a pixel of the result at (row, column) a tap goes to (row * by + down) / over and (column * by + right) / over.
struct Tap {
  int64_t down, right;
};

// Neighbours among the taps whose values lie side by side: they are one sum over `pairs`, from `start` on in a panel.
struct Run {
  int64_t start, pairs;
};

// Pixels of a result that are sums over the same taps, and where those are found in what is gathered from.
struct Group {
  std::vector<Run> runs;
  std::vector<int64_t> pixels, sources;  // [pixels], [pixels, runs]
};

// What a gathering depends on beside the values; `by`, `over`: see Tap.
struct Gathering {
  int64_t height, width, depth, rows, columns, by, over;
  std::vector<Tap> taps;

  std::vector<int64_t> Key() const {
    std::vector<int64_t> key{height, width, depth, rows, columns, by, over};
    for (const Tap& tap : taps) key.insert(key.end(), {tap.down, tap.right});
    return key;
  }
};

std::vector<Group> Grouped(const Gathering& of) {
  enum { kBeyond, kBegins, kGoesOn };
  std::map<std::vector<int8_t>, Group> groups;
  const int64_t taps = of.taps.size();
  std::vector<int8_t> reached(taps);
  std::vector<int64_t> places(taps);
  for (int64_t pixel = 0; pixel < of.rows * of.columns; ++pixel) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t down = pixel / of.columns * of.by + of.taps[tap].down;
      const int64_t right = pixel % of.columns * of.by + of.taps[tap].right;
      const bool is_there = down >= 0 && right >= 0 && down % of.over == 0 && right % of.over == 0 &&
                            down / of.over < of.height && right / of.over < of.width;
      places[tap] = (down / of.over * of.width + right / of.over) * of.depth;
      const bool goes_on = tap > 0 && reached[tap - 1] != kBeyond && places[tap] == places[tap - 1] + of.depth;
      reached[tap] = !is_there ? kBeyond : goes_on ? kGoesOn : kBegins;
    }
    Group& own = groups[reached];
    const bool is_new = own.pixels.empty();
    own.pixels.push_back(pixel);
    for (int64_t tap = 0; tap < taps; ++tap) {
      if (reached[tap] == kBegins) own.sources.push_back(places[tap]);
      if (reached[tap] == kBegins && is_new) own.runs.push_back({tap * of.depth / 2, 0});
      if (reached[tap] != kBeyond && is_new) own.runs.back().pairs += of.depth / 2;
    }
  }
  std::vector<Group> found;
  for (auto& [key, group] : groups) found.push_back(std::move(group));
  return found;
}

// The same, made once for each layer of a network.
const std::vector<Group>& KnownGroups(const Gathering& of) {
  static std::mutex lock;
  static std::map<std::vector<int64_t>, std::vector<Group>> known;
  const std::lock_guard<std::mutex> hold(lock);
  const auto key = of.Key();
  const auto found = known.find(key);
  return found != known.end() ? found->second : known.emplace(key, Grouped(of)).first->second;
}

// A tile of a product whose left side is gathered: kRows pixels by kWide registers. See Tile.
template <int kRows, int kWide>
__attribute__((noinline)) void Gathered(const std::vector<Run>& runs, const uint16_t* const* pixels, const uint16_t* panel,
                                        int64_t left, uint16_t* const* to) {
  __m512 sums[kRows][kWide];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kWide; ++j) sums[i][j] = _mm512_setzero_ps();
  }
  for (size_t run = 0; run < runs.size(); ++run) {
    const uint16_t* rows[kRows];
    for (int i = 0; i < kRows; ++i) rows[i] = pixels[run * kTile + i];
    const uint16_t* own = panel + runs[run].start * 2 * kPanel;
    for (int64_t pair = 0; pair < runs[run].pairs; ++pair, own += 2 * kPanel) {
      __m512bh weights[kWide];
      for (int j = 0; j < kWide; ++j) weights[j] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(own + 32 * j));
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
    for (int j = 0; j < kWide; ++j) Store(to[i] + 16 * j, Lanes(left - 16 * j), sums[i][j]);
  }
}

template <int kWide>
void GatheredRows(int64_t count, const std::vector<Run>& runs, const uint16_t* const* pixels, const uint16_t* panel,
                  int64_t left, uint16_t* const* to) {
  switch (count) {
    case 6:
      return Gathered<6, kWide>(runs, pixels, panel, left, to);
    case 5:
      return Gathered<5, kWide>(runs, pixels, panel, left, to);
    case 4:
      return Gathered<4, kWide>(runs, pixels, panel, left, to);
    case 3:
      return Gathered<3, kWide>(runs, pixels, panel, left, to);
    case 2:
      return Gathered<2, kWide>(runs, pixels, panel, left, to);
    default:
      return Gathered<1, kWide>(runs, pixels, panel, left, to);
  }
}

void GatheredTile(int64_t count, const std::vector<Run>& runs, const uint16_t* const* pixels, const uint16_t* panel,
                  int64_t left, uint16_t* const* to) {
  if (left <= 16) return GatheredRows<1>(count, runs, pixels, panel, left, to);
  if (left <= 32) return GatheredRows<2>(count, runs, pixels, panel, left, to);
  if (left <= 48) return GatheredRows<3>(count, runs, pixels, panel, left, to);
  GatheredRows<4>(count, runs, pixels, panel, left, to);
}

constexpr int64_t kPixels = 512;  // of a share of the work, at least, where images are small

// The pixels of `shape` that gathering from `source` gives; what no tap reaches is 0. `packed` has the taps' matrices, one
// after the other in each panel.
Tensor Gather(const Tensor& source, const Shape& shape, const uint16_t* packed, const Gathering& of, int threads) {
  Tensor result = EmptyPixels(shape);
  const int64_t batch = shape[0], depth = shape[3], area = shape[1] * shape[2], of_source = of.height * of.width * of.depth;
  const int64_t of_panel = of.taps.size() * of.depth * kPanel;
  const int64_t images = std::clamp<int64_t>(kPixels / area, 1, std::max<int64_t>(1, batch / threads));
  const std::vector<Group>& groups = KnownGroups(of);
  const uint16_t* values = Values(source);
  uint16_t* found = Values(&result);
  ShareOut((batch + images - 1) / images, threads, [&](int64_t share) {
    const int64_t first = share * images, count = std::min(images, batch - first);
    const uint16_t* from = values + first * of_source;
    uint16_t* to = found + first * area * depth;
    std::vector<const uint16_t*> pixels;
    for (const Group& group : groups) {
      const int64_t runs = group.runs.size(), size = group.pixels.size();
      pixels.resize(runs * kTile);
      for (int64_t channel = 0; channel < depth; channel += kPanel) {
        for (int64_t place = 0; place < count * size; place += kTile) {
          const int64_t rows = std::min(kTile, count * size - place);
          uint16_t* targets[kTile];
          for (int64_t i = 0; i < rows; ++i) {
            const int64_t image = (place + i) / size, pixel = (place + i) % size;
            const int64_t* places = group.sources.data() + pixel * runs;
            for (int64_t run = 0; run < runs; ++run) pixels[run * kTile + i] = from + image * of_source + places[run];
            targets[i] = to + (image * area + group.pixels[pixel]) * depth + channel;
          }
          GatheredTile(rows, group.runs, pixels.data(), packed + channel / kPanel * of_panel, depth - channel, targets);
        }
      }
    }
  });
  return result;
}

std::vector<Tensor> Convolution(const Tensor& pixels, const Tensor& filter, const Tensor& filter_by_tap, int stride,
                                int padding, int threads, bool, bool) {
  const Geometry of(pixels.shape(), filter.shape(), stride, padding);
  const uint16_t* by_tap = Values(filter_by_tap);
  const int64_t taps = of.Taps(), depth = Even(of.in);
  Buffer<uint16_t> packed(taps * PackedSize(of.in, of.out));
  Gathering how{of.height, of.width, depth, of.rows, of.columns, stride, 1, {}};
  for (int64_t tap = 0; tap < taps; ++tap) how.taps.push_back({tap / of.wide - padding, tap % of.wide - padding});
  ShareOut(taps, threads, [&](int64_t tap) {
    PackTransposed(by_tap + tap * of.out * depth, of.out, depth, packed.data(), taps * depth / 2, tap * depth / 2);
  });
  return {Gather(pixels, of.Output(), packed.data(), how, threads)};
}

// The slopes of the pixels: each takes from those results that it went into.
Tensor OfPixels(const Shape& pixels, const Tensor& filter_by_tap, const Tensor& slope, const Geometry& of, int threads) {
  const uint16_t* by_tap = Values(filter_by_tap);
  const int64_t taps = of.Taps(), depth = Even(of.in), pairs = Even(of.out) / 2;
  Buffer<uint16_t> packed(taps * PackedSize(of.out, of.in));
  Gathering how{of.rows, of.columns, Even(of.out), of.height, of.width, 1, of.stride, {}};
  for (int64_t tap = taps - 1; tap >= 0; --tap) how.taps.push_back({of.padding - tap / of.wide, of.padding - tap % of.wide});
  ShareOut(taps, threads, [&](int64_t tap) {
    PackRows(by_tap + tap * of.out * depth, of.out, depth, packed.data(), taps * pairs, (taps - 1 - tap) * pairs);
  });
  return Gather(slope, pixels, packed.data(), how, threads);
}

constexpr int64_t kChunk = 512;  // pixels that one thread adds up at a time

// The pixels [rows, columns] of the images of a batch, in chunks of that many.
struct Chunks {
  int64_t pixels, count;

  explicit Chunks(int64_t pixels) : pixels(pixels), count((pixels + kChunk - 1) / kChunk) {}
  int64_t First(int64_t chunk) const { return chunk * kChunk; }
  int64_t Last(int64_t chunk) const { return std::min(pixels, (chunk + 1) * kChunk); }
  int64_t Size(int64_t chunk) const { return Last(chunk) - First(chunk); }
};

// The channels of pixels as planes, in each chunk [channels, even pixels].
Buffer<uint16_t> Planes(const uint16_t* from, int64_t channels, const Chunks& of, int threads) {
  const int64_t depth = Even(channels);
  Buffer<uint16_t> planes(channels * Even(of.pixels));
  ShareOut(of.count, threads, [&](int64_t chunk) {
    const int64_t first = of.First(chunk), size = of.Size(chunk), width = Even(size);
    uint16_t* to = planes.data() + first * channels;
    __m512i block[16];
    for (int64_t pixel = 0; pixel < size; pixel += 16) {
      const __mmask16 lanes = Lanes(width - pixel);
      for (int64_t channel = 0; channel < depth; channel += 32) {
        LoadTransposed(from + (first + pixel) * depth + channel, size - pixel, depth, (depth - channel) / 2, block);
        for (int64_t j = 0; j < std::min<int64_t>(16, (channels - channel + 1) / 2); ++j) {
          uint16_t* own = to + (channel + 2 * j) * width + pixel;
          _mm256_mask_storeu_epi16(own, lanes, _mm512_cvtepi32_epi16(block[j]));
          if (channel + 2 * j + 1 >= channels) continue;
          _mm256_mask_storeu_epi16(own + width, lanes, _mm512_cvtepi32_epi16(_mm512_srli_epi32(block[j], 16)));
        }
      }
    }
  });
  return planes;
}

// Pixels with zeros beyond the edges: [batch, height + 2 * padding, width + 2 * padding, depth].
Buffer<uint16_t> Framed(const uint16_t* from, const Geometry& of, int threads) {
  const int64_t high = of.height + 2 * of.padding, depth = Even(of.in), line = of.width * depth, edge = of.padding * depth;
  Buffer<uint16_t> framed(of.batch * high * (line + 2 * edge));
  ShareOut(of.batch, threads, [&](int64_t image) {
    uint16_t* to = framed.data() + image * high * (line + 2 * edge);
    for (int64_t row = -of.padding; row < of.height + of.padding; ++row, to += line + 2 * edge) {
      if (row < 0 || row >= of.height) {
        std::fill_n(to, line + 2 * edge, 0);
        continue;
      }
      std::fill_n(to, edge, 0);
      std::copy_n(from + (image * of.height + row) * line, line, to + edge);
      std::fill_n(to + edge + line, edge, 0);
    }
  });
  return framed;
}

// The slopes of the filters: for each row of taps, whose pixels lie side by side, the product [out, pixels] by
// [pixels, taps and channels], summed over all images.
Tensor OfFilter(const Tensor& pixels, const Tensor& slope, const Shape& filter, const Geometry& of, int threads) {
  const int64_t depth = Even(of.in), width = of.wide * depth, wide = of.width + 2 * of.padding;
  const int64_t high = of.height + 2 * of.padding, taps = of.Taps();
  const Chunks chunks(of.batch * of.rows * of.columns);
  const Buffer<uint16_t> framed = Framed(Values(pixels), of, threads);
  const Buffer<uint16_t> planes = Planes(Values(slope), of.out, chunks, threads);
  Buffer<float> sums(of.high * of.out * width);
  // A share is one panel of a row of taps; or of a part of the outputs, where these would be too few for the threads.
  const int64_t panels = of.high * Panels(width), parts = (2 * threads + panels - 1) / panels;
  const int64_t outputs = ((of.out + parts - 1) / parts + kTile - 1) / kTile * kTile;
  ShareOut(panels * parts, threads, [&](int64_t share) {
    const int64_t down = share / Panels(width) % of.high, first = share % Panels(width) * kPanel;
    const int64_t out = share / panels * outputs, rows = std::min(outputs, of.out - out);
    if (rows <= 0) return;
    const int64_t columns = std::min(kPanel, width - first);
    const auto window = [&](int64_t pixel) {
      const int64_t image = pixel / (of.rows * of.columns), row = pixel / of.columns % of.rows, column = pixel % of.columns;
      return framed.data() + ((image * high + row * of.stride + down) * wide + column * of.stride) * depth + first;
    };
    Buffer<uint16_t> packed(kChunk * kPanel);
    for (int64_t chunk = 0; chunk < chunks.count; ++chunk) {
      uint16_t* to = packed.data();
      for (int64_t pixel = chunks.First(chunk); pixel < chunks.Last(chunk); pixel += 2, to += 2 * kPanel) {
        const bool is_last = pixel + 1 == chunks.pixels;
        PackPair(window(pixel), is_last ? nullptr : window(pixel + 1), columns, to);
      }
      float* sum = sums.data() + (down * of.out + out) * width + first;
      const int64_t size = Even(chunks.Size(chunk));
      Multiply(planes.data() + chunks.First(chunk) * of.out + out * size, packed.data(), rows, size, columns,
               {sum, width, nullptr, chunk > 0 ? sum : nullptr});
    }
  });
  Tensor found = Empty(filter);
  float* to = found.data<float>();
  ShareOut(of.out, threads, [&](int64_t out) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      const float* from = sums.data() + (tap / of.wide * of.out + out) * width + tap % of.wide * depth;
      for (int64_t in = 0; in < of.in; ++in) to[(out * of.in + in) * taps + tap] = from[in];
    }
  });
  return found;
}

std::vector<Tensor> ConvolutionGradient(const Tensor& pixels, const Tensor& filter, const Tensor& filter_by_tap,
                                        const Tensor& slope, int stride, int padding, int threads, bool of_pixels,
                                        bool of_filter) {
  const Geometry of(pixels.shape(), filter.shape(), stride, padding);
  return {of_pixels ? OfPixels(pixels.shape(), filter_by_tap, slope, of, threads) : EmptyPixels({1}),
          of_filter ? OfFilter(pixels, slope, filter.shape(), of, threads) : Empty({1})};
}

// Batch norm, and what follows it in a residual network: the sum with another branch, and max(0, .).
struct Norm : Chunks {
  int64_t depth, channels;

  Norm(const Tensor& x, const Tensor& scale)
      : Chunks(x.shape()[0] * x.shape()[1] * x.shape()[2]), depth(x.shape()[3]), channels(scale.shape()[0]) {}
};

// A vector of channels with zeros up to `depth`.
std::vector<float> Padded(const Tensor& values, int64_t depth) {
  std::vector<float> found(depth, 0.0f);
  std::copy_n(values.data<float>(), values.shape()[0], found.begin());
  return found;
}

// Mean and variance of each channel: of each chunk, then of all chunks in their order (Chan, Golub and LeVeque 1983).
void Moments(const uint16_t* x, const Norm& of, int threads, float* mean, float* variance) {
  Buffer<float> parts(of.count * 2 * of.depth);
  ShareOut(of.count, threads, [&](int64_t chunk) {
    const int64_t first = of.First(chunk), last = of.Last(chunk);
    float *means = parts.data() + chunk * 2 * of.depth, *squares = means + of.depth;
    for (int64_t channel = 0; channel < of.depth; channel += 16) {
      const __mmask16 lanes = Lanes(of.depth - channel);
      __m512 sum = _mm512_setzero_ps(), square = _mm512_setzero_ps();
      for (int64_t pixel = first; pixel < last; ++pixel) sum = _mm512_add_ps(sum, Load(x + pixel * of.depth + channel, lanes));
      const __m512 centre = _mm512_div_ps(sum, _mm512_set1_ps(last - first));
      for (int64_t pixel = first; pixel < last; ++pixel) {
        const __m512 off = _mm512_sub_ps(Load(x + pixel * of.depth + channel, lanes), centre);
        square = _mm512_fmadd_ps(off, off, square);
      }
      _mm512_mask_storeu_ps(means + channel, lanes, centre);
      _mm512_mask_storeu_ps(squares + channel, lanes, square);
    }
  });
  for (int64_t channel = 0; channel < of.channels; ++channel) {
    double centre = 0, squares = 0, count = 0;
    for (int64_t chunk = 0; chunk < of.count; ++chunk) {
      const float* part = parts.data() + chunk * 2 * of.depth + channel;
      const double more = of.Size(chunk), off = part[0] - centre;
      squares += part[of.depth] + off * off * count * more / (count + more);
      count += more;
      centre += off * more / count;
    }
    mean[channel] = centre;
    variance[channel] = squares / count;
  }
}

// `of_batch`: whether mean and variance are those of the batch, of which the running ones keep the share `momentum` of their
// own.
std::vector<Tensor> Normalise(const Tensor& x, const Tensor& scale, const Tensor& bias, Tensor& mean, Tensor& variance,
                              const Tensor* other, float epsilon, float momentum, bool of_batch, bool is_positive,
                              int threads) {
  const Norm of(x, scale);
  Tensor y = EmptyPixels(x.shape()), centres = Empty({of.channels}), widths = Empty({of.channels});
  float *centre = centres.data<float>(), *width = widths.data<float>();
  if (of_batch) {
    Moments(Values(x), of, threads, centre, width);
    float *running = mean.data<float>(), *spread = variance.data<float>();
    for (int64_t channel = 0; channel < of.channels; ++channel) {
      running[channel] = running[channel] * momentum + centre[channel] * (1 - momentum);
      spread[channel] = spread[channel] * momentum + width[channel] * (1 - momentum);
    }
  } else {
    std::copy_n(mean.data<float>(), of.channels, centre);
    std::copy_n(variance.data<float>(), of.channels, width);
  }
  std::vector<float> factors = Padded(scale, of.depth), terms = Padded(bias, of.depth);
  for (int64_t channel = 0; channel < of.channels; ++channel) {
    width[channel] = 1 / std::sqrt(width[channel] + epsilon);
    factors[channel] *= width[channel];
    terms[channel] -= centre[channel] * factors[channel];
  }
  const uint16_t *from = Values(x), *beside = other == nullptr ? nullptr : Values(*other);
  uint16_t* to = Values(&y);
  const __m512 least = is_positive ? _mm512_setzero_ps() : _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  ShareOut(of.count, threads, [&](int64_t chunk) {
    for (int64_t pixel = of.First(chunk); pixel < of.Last(chunk); ++pixel) {
      for (int64_t channel = 0; channel < of.depth; channel += 16) {
        const __mmask16 lanes = Lanes(of.depth - channel);
        const int64_t place = pixel * of.depth + channel;
        __m512 value = _mm512_fmadd_ps(Load(from + place, lanes), _mm512_maskz_loadu_ps(lanes, factors.data() + channel),
                                       _mm512_maskz_loadu_ps(lanes, terms.data() + channel));
        if (beside != nullptr) value = _mm512_add_ps(value, Load(beside + place, lanes));
        Store(to + place, lanes, _mm512_max_ps(least, value));  // in this order NaN stays
      }
    }
  });
  return {y, centres, widths};
}

// The slopes of x, scale and bias, and of the other branch where `beside` is set.
std::vector<Tensor> NormaliseGradient(const Tensor& x, const Tensor& scale, const Tensor& y, const Tensor& centres,
                                      const Tensor& widths, const Tensor& slope, bool beside, bool of_batch, bool is_positive,
                                      int threads) {
  const Norm of(x, scale);
  const std::vector<float> centre = Padded(centres, of.depth), width = Padded(widths, of.depth);
  const uint16_t *from = Values(x), *result = Values(y), *above = Values(slope);
  const auto passed = [&](int64_t place, __mmask16 lanes) {
    const __m512 value = Load(above + place, lanes);
    if (!is_positive) return value;
    const __mmask16 open = _mm512_cmp_ps_mask(Load(result + place, lanes), _mm512_setzero_ps(), _CMP_NLE_UQ);
    return _mm512_maskz_mov_ps(open, value);
  };
  Buffer<float> parts(of.count * 2 * of.depth);
  ShareOut(of.count, threads, [&](int64_t chunk) {
    float *sums = parts.data() + chunk * 2 * of.depth, *products = sums + of.depth;
    for (int64_t channel = 0; channel < of.depth; channel += 16) {
      const __mmask16 lanes = Lanes(of.depth - channel);
      const __m512 middle = _mm512_maskz_loadu_ps(lanes, centre.data() + channel);
      __m512 sum = _mm512_setzero_ps(), product = _mm512_setzero_ps();
      for (int64_t pixel = of.First(chunk); pixel < of.Last(chunk); ++pixel) {
        const int64_t place = pixel * of.depth + channel;
        const __m512 own = passed(place, lanes);
        sum = _mm512_add_ps(sum, own);
        product = _mm512_fmadd_ps(own, _mm512_sub_ps(Load(from + place, lanes), middle), product);
      }
      _mm512_mask_storeu_ps(sums + channel, lanes, sum);
      _mm512_mask_storeu_ps(products + channel, lanes, product);
    }
  });
  Tensor of_scale = Empty({of.channels}), of_bias = Empty({of.channels});
  // The slope of x is first * slope + second * x + third.
  std::vector<float> first(of.depth, 0.0f), second(of.depth, 0.0f), third(of.depth, 0.0f);
  for (int64_t channel = 0; channel < of.channels; ++channel) {
    double sum = 0, product = 0;
    for (int64_t chunk = 0; chunk < of.count; ++chunk) {
      sum += parts.data()[chunk * 2 * of.depth + channel];
      product += parts.data()[(chunk * 2 + 1) * of.depth + channel];
    }
    of_bias.data<float>()[channel] = sum;
    of_scale.data<float>()[channel] = product * width[channel];
    const double factor = static_cast<double>(scale.data<float>()[channel]) * width[channel];
    first[channel] = factor;
    if (!of_batch) continue;
    const double turn = -factor * product * width[channel] * width[channel] / of.pixels;
    second[channel] = turn;
    third[channel] = -factor * sum / of.pixels - turn * centre[channel];
  }
  Tensor of_x = EmptyPixels(x.shape()), of_other = beside ? EmptyPixels(x.shape()) : of_x;
  uint16_t *to = Values(&of_x), *aside = beside ? Values(&of_other) : nullptr;
  ShareOut(of.count, threads, [&](int64_t chunk) {
    for (int64_t pixel = of.First(chunk); pixel < of.Last(chunk); ++pixel) {
      for (int64_t channel = 0; channel < of.depth; channel += 16) {
        const __mmask16 lanes = Lanes(of.depth - channel);
        const int64_t place = pixel * of.depth + channel;
        const __m512 own = passed(place, lanes);
        if (aside != nullptr) Store(aside + place, lanes, own);
        const __m512 rest = _mm512_fmadd_ps(Load(from + place, lanes), _mm512_maskz_loadu_ps(lanes, second.data() + channel),
                                            _mm512_maskz_loadu_ps(lanes, third.data() + channel));
        Store(to + place, lanes, _mm512_fmadd_ps(own, _mm512_maskz_loadu_ps(lanes, first.data() + channel), rest));
      }
    }
  });
  if (beside) return {of_x, of_scale, of_bias, of_other};
  return {of_x, of_scale, of_bias};
}

std::vector<Tensor> BatchNorm(const Tensor& x, const Tensor& scale, const Tensor& bias, Tensor& mean, Tensor& variance,
                              float epsilon, float momentum, bool of_batch, bool is_positive, int threads) {
  return Normalise(x, scale, bias, mean, variance, nullptr, epsilon, momentum, of_batch, is_positive, threads);
}
std::vector<Tensor> BatchNormGradient(const Tensor& x, const Tensor& scale, const Tensor& y, const Tensor& centres,
                                      const Tensor& widths, const Tensor& slope, float, float, bool of_batch, bool is_positive,
                                      int threads) {
  return NormaliseGradient(x, scale, y, centres, widths, slope, false, of_batch, is_positive, threads);
}
std::vector<Tensor> Join(const Tensor& x, const Tensor& scale, const Tensor& bias, const Tensor& other, Tensor& mean,
                         Tensor& variance, float epsilon, float momentum, bool of_batch, bool is_positive, int threads) {
  return Normalise(x, scale, bias, mean, variance, &other, epsilon, momentum, of_batch, is_positive, threads);
}
std::vector<Tensor> JoinGradient(const Tensor& x, const Tensor& scale, const Tensor& y, const Tensor& centres,
                                 const Tensor& widths, const Tensor& slope, float, float, bool of_batch, bool is_positive,
                                 int threads) {
  return NormaliseGradient(x, scale, y, centres, widths, slope, true, of_batch, is_positive, threads);
}

// The sum of the slopes that came to the same pixels in several ways.
std::vector<Tensor> Add(const std::vector<Tensor>& parts, int threads) {
  Tensor found = EmptyPixels(parts[0].shape());
  uint16_t* to = Values(&found);
  std::vector<const uint16_t*> from;
  for (const Tensor& part : parts) from.push_back(Values(part));
  constexpr int64_t kValues = 1 << 16;
  const int64_t size = parts[0].numel();
  ShareOut((size + kValues - 1) / kValues, threads, [&](int64_t share) {
    for (int64_t place = share * kValues; place < std::min(size, (share + 1) * kValues); place += 16) {
      const __mmask16 lanes = Lanes(size - place);
      __m512 sum = Load(from[0] + place, lanes);
      for (size_t part = 1; part < from.size(); ++part) sum = _mm512_add_ps(sum, Load(from[part] + place, lanes));
      Store(to + place, lanes, sum);
    }
  });
  return {found};
}

// A pool that takes the largest value of each window.
struct Window {
  int64_t batch, height, width, depth, rows, columns, size, stride, padding;

  Window(const Shape& pixels, int size, int stride, int padding)
      : batch(pixels[0]),
        height(pixels[1]),
        width(pixels[2]),
        depth(pixels[3]),
        rows((height + 2 * padding - size) / stride + 1),
        columns((width + 2 * padding - size) / stride + 1),
        size(size),
        stride(stride),
        padding(padding) {}

  // Calls `work` with each pixel of the window of the result at (row, column), in the order of rows.
  template <class Work>
  void Each(int64_t row, int64_t column, const Work& work) const {
    const int64_t top = row * stride - padding, left = column * stride - padding;
    for (int64_t y = std::max<int64_t>(0, top); y < std::min(height, top + size); ++y) {
      for (int64_t x = std::max<int64_t>(0, left); x < std::min(width, left + size); ++x) work(y * width + x);
    }
  }
};

std::vector<Tensor> MaxPool(const Tensor& pixels, int size, int stride, int padding, int threads) {
  const Window of(pixels.shape(), size, stride, padding);
  Tensor found = EmptyPixels({of.batch, of.rows, of.columns, of.depth});
  const uint16_t* values = Values(pixels);
  uint16_t* results = Values(&found);
  ShareOut(of.batch * of.rows, threads, [&](int64_t line) {
    const uint16_t* from = values + line / of.rows * of.height * of.width * of.depth;
    for (int64_t column = 0; column < of.columns; ++column) {
      uint16_t* to = results + (line * of.columns + column) * of.depth;
      for (int64_t channel = 0; channel < of.depth; channel += 16) {
        const __mmask16 lanes = Lanes(of.depth - channel);
        __m512 largest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
        of.Each(line % of.rows, column,
                [&](int64_t pixel) { largest = _mm512_max_ps(largest, Load(from + pixel * of.depth + channel, lanes)); });
        Store(to + channel, lanes, largest);
      }
    }
  });
  return {found};
}

// What came to a result goes to the first pixel of its window that has its value.
std::vector<Tensor> MaxPoolGradient(const Tensor& pixels, const Tensor& y, const Tensor& slope, int size, int stride,
                                    int padding, int threads) {
  const Window of(pixels.shape(), size, stride, padding);
  Tensor found = EmptyPixels(pixels.shape());
  const int64_t whole = of.height * of.width * of.depth;
  const uint16_t *values = Values(pixels), *results = Values(y), *above = Values(slope);
  uint16_t* to = Values(&found);
  ShareOut(of.batch, threads, [&](int64_t image) {
    std::vector<float> sums(whole, 0.0f);
    const uint16_t* from = values + image * whole;
    for (int64_t place = 0; place < of.rows * of.columns; ++place) {
      const int64_t result = (image * of.rows * of.columns + place) * of.depth;
      for (int64_t channel = 0; channel < of.depth; channel += 16) {
        __mmask16 left = Lanes(of.depth - channel);
        const __m512 largest = Load(results + result + channel, left), own = Load(above + result + channel, left);
        of.Each(place / of.columns, place % of.columns, [&](int64_t pixel) {
          float* sum = sums.data() + pixel * of.depth + channel;
          const __mmask16 here =
              _mm512_mask_cmp_ps_mask(left, Load(from + pixel * of.depth + channel, left), largest, _CMP_EQ_OQ);
          _mm512_mask_storeu_ps(sum, here, _mm512_add_ps(_mm512_maskz_loadu_ps(here, sum), own));
          left &= ~here;
        });
      }
    }
    for (int64_t place = 0; place < whole; place += 16) {
      const __mmask16 lanes = Lanes(whole - place);
      Store(to + image * whole + place, lanes, _mm512_maskz_loadu_ps(lanes, sums.data() + place));
    }
  });
  return {found};
}

// Shapes and types. A size that is not known when a program is built is -1.
Shape Known(Shape found, const Shape& from) {
  for (size_t i : {0, 1, 2}) {
    if (from[i] < 0) found[i] = -1;
  }
  return found;
}
std::vector<Shape> ToPixelsShape(const Shape& images, const int&) {
  return {{images[0], images[2], images[3], Even(images[1])}};
}
std::vector<DataType> ToPixelsType(const DataType&) { return {DataType::BFLOAT16}; }
std::vector<Shape> FromPixelsShape(const Shape& pixels, const int& channels, const int&) {
  return {{pixels[0], channels, pixels[1], pixels[2]}};
}
std::vector<DataType> FromPixelsType(const DataType&) { return {DataType::FLOAT32}; }
std::vector<Shape> FirstShape(const Shape& first, const Shape&) { return {first}; }
std::vector<Shape> ByTapShape(const Shape& filter, const int&) { return {{filter[2] * filter[3], filter[0], Even(filter[1])}}; }
std::vector<Shape> ConvolutionShape(const Shape& pixels, const Shape& filter, const Shape&, const int& stride,
                                    const int& padding, const int&, const bool&, const bool&) {
  return {Known(Geometry(pixels, filter, stride, padding).Output(), pixels)};
}
std::vector<DataType> ConvolutionType(const DataType& pixels, const DataType&, const DataType&) { return {pixels}; }
std::vector<Shape> ConvolutionGradientShape(const Shape& pixels, const Shape& filter, const Shape&, const Shape&) {
  return {pixels, filter};
}
std::vector<Shape> NormShape(const Shape& x, const Shape& scale, const Shape&, const Shape&, const Shape&) {
  return {x, scale, scale};
}
std::vector<DataType> NormType(const DataType& x, const DataType& scale, const DataType&, const DataType&, const DataType&) {
  return {x, scale, scale};
}
std::vector<Shape> NormGradientShape(const Shape& x, const Shape& scale, const Shape&, const Shape&, const Shape&,
                                     const Shape&) {
  return {x, scale, scale};
}
std::vector<Shape> JoinShape(const Shape& x, const Shape& scale, const Shape&, const Shape&, const Shape&, const Shape&) {
  return {x, scale, scale};
}
std::vector<DataType> JoinType(const DataType& x, const DataType& scale, const DataType&, const DataType&, const DataType&,
                               const DataType&) {
  return {x, scale, scale};
}
std::vector<Shape> JoinGradientShape(const Shape& x, const Shape& scale, const Shape&, const Shape&, const Shape&,
                                     const Shape&) {
  return {x, scale, scale, x};
}
std::vector<Shape> MaxPoolShape(const Shape& pixels, const int& size, const int& stride, const int& padding, const int&) {
  const Window of(pixels, size, stride, padding);
  return {Known({of.batch, of.rows, of.columns, of.depth}, pixels)};
}
std::vector<Shape> AddShape(const std::vector<Shape>& parts) { return {parts[0]}; }
std::vector<DataType> AddType(const std::vector<DataType>& parts) { return {parts[0]}; }
std::vector<DataType> SameType(const DataType& x) { return {x}; }
std::vector<Shape> MaxPoolGradientShape(const Shape& pixels, const Shape&, const Shape&) { return {pixels}; }

}  // namespace

PD_BUILD_OP(hubflow_to_pixels)
    .Inputs({"Images"})
    .Outputs({"Pixels"})
    .Attrs({"threads: int"})
    .SetKernelFn(PD_KERNEL(ToPixels))
    .SetInferShapeFn(PD_INFER_SHAPE(ToPixelsShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(ToPixelsType));
PD_BUILD_GRAD_OP(hubflow_to_pixels)
    .Inputs({"Images", paddle::Grad("Pixels")})
    .Outputs({paddle::Grad("Images")})
    .Attrs({"threads: int"})
    .SetKernelFn(PD_KERNEL(ToPixelsGradient))
    .SetInferShapeFn(PD_INFER_SHAPE(FirstShape));

PD_BUILD_OP(hubflow_from_pixels)
    .Inputs({"Pixels"})
    .Outputs({"Images"})
    .Attrs({"channels: int", "threads: int"})
    .SetKernelFn(PD_KERNEL(FromPixels))
    .SetInferShapeFn(PD_INFER_SHAPE(FromPixelsShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(FromPixelsType));
PD_BUILD_GRAD_OP(hubflow_from_pixels)
    .Inputs({"Pixels", paddle::Grad("Images")})
    .Outputs({paddle::Grad("Pixels")})
    .Attrs({"channels: int", "threads: int"})
    .SetKernelFn(PD_KERNEL(FromPixelsGradient))
    .SetInferShapeFn(PD_INFER_SHAPE(FirstShape));

PD_BUILD_OP(hubflow_by_tap)
    .Inputs({"Filter"})
    .Outputs({"ByTap"})
    .Attrs({"threads: int"})
    .SetKernelFn(PD_KERNEL(ByTap))
    .SetInferShapeFn(PD_INFER_SHAPE(ByTapShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(ToPixelsType));

PD_BUILD_OP(hubflow_convolution)
    .Inputs({"Pixels", "Filter", "ByTap"})
    .Outputs({"Y"})
    .Attrs({"stride: int", "padding: int", "threads: int", "of_pixels: bool", "of_filter: bool"})
    .SetKernelFn(PD_KERNEL(Convolution))
    .SetInferShapeFn(PD_INFER_SHAPE(ConvolutionShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(ConvolutionType));
PD_BUILD_GRAD_OP(hubflow_convolution)
    .Inputs({"Pixels", "Filter", "ByTap", paddle::Grad("Y")})
    .Outputs({paddle::Grad("Pixels"), paddle::Grad("Filter")})
    .Attrs({"stride: int", "padding: int", "threads: int", "of_pixels: bool", "of_filter: bool"})
    .SetKernelFn(PD_KERNEL(ConvolutionGradient))
    .SetInferShapeFn(PD_INFER_SHAPE(ConvolutionGradientShape));

PD_BUILD_OP(hubflow_batch_norm)
    .Inputs({"X", "Scale", "Bias", "Mean", "Variance"})
    .Outputs({"Y", "Centres", "Widths"})
    .Attrs({"epsilon: float", "momentum: float", "of_batch: bool", "is_positive: bool", "threads: int"})
    .SetKernelFn(PD_KERNEL(BatchNorm))
    .SetInferShapeFn(PD_INFER_SHAPE(NormShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(NormType));
PD_BUILD_GRAD_OP(hubflow_batch_norm)
    .Inputs({"X", "Scale", "Y", "Centres", "Widths", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Scale"), paddle::Grad("Bias")})
    .Attrs({"epsilon: float", "momentum: float", "of_batch: bool", "is_positive: bool", "threads: int"})
    .SetKernelFn(PD_KERNEL(BatchNormGradient))
    .SetInferShapeFn(PD_INFER_SHAPE(NormGradientShape));

PD_BUILD_OP(hubflow_join)
    .Inputs({"X", "Scale", "Bias", "Other", "Mean", "Variance"})
    .Outputs({"Y", "Centres", "Widths"})
    .Attrs({"epsilon: float", "momentum: float", "of_batch: bool", "is_positive: bool", "threads: int"})
    .SetKernelFn(PD_KERNEL(Join))
    .SetInferShapeFn(PD_INFER_SHAPE(JoinShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(JoinType));
PD_BUILD_GRAD_OP(hubflow_join)
    .Inputs({"X", "Scale", "Y", "Centres", "Widths", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Scale"), paddle::Grad("Bias"), paddle::Grad("Other")})
    .Attrs({"epsilon: float", "momentum: float", "of_batch: bool", "is_positive: bool", "threads: int"})
    .SetKernelFn(PD_KERNEL(JoinGradient))
    .SetInferShapeFn(PD_INFER_SHAPE(JoinGradientShape));

PD_BUILD_OP(hubflow_max_pool)
    .Inputs({"Pixels"})
    .Outputs({"Y"})
    .Attrs({"size: int", "stride: int", "padding: int", "threads: int"})
    .SetKernelFn(PD_KERNEL(MaxPool))
    .SetInferShapeFn(PD_INFER_SHAPE(MaxPoolShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(SameType));
PD_BUILD_GRAD_OP(hubflow_max_pool)
    .Inputs({"Pixels", "Y", paddle::Grad("Y")})
    .Outputs({paddle::Grad("Pixels")})
    .Attrs({"size: int", "stride: int", "padding: int", "threads: int"})
    .SetKernelFn(PD_KERNEL(MaxPoolGradient))
    .SetInferShapeFn(PD_INFER_SHAPE(MaxPoolGradientShape));

PD_BUILD_OP(hubflow_add)
    .Inputs({paddle::Vec("Parts")})
    .Outputs({"Sum"})
    .Attrs({"threads: int"})
    .SetKernelFn(PD_KERNEL(Add))
    .SetInferShapeFn(PD_INFER_SHAPE(AddShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(AddType));
