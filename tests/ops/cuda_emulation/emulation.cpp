// Runs the threads of a block as fibers, one after the other between barriers, and watches what they touch. The kernels are
// compiled with -fsanitize=thread but without its library: its calls, one an access, come here instead. An access outside
// what was allocated (AddressSanitizer's memory knows) and one that another thread may make at the same time are errors.
#include "emulation.h"

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include <sys/mman.h>
#include <ucontext.h>

extern "C" void* __asan_region_is_poisoned(void* begin, size_t size);

Dimension threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {
namespace {

constexpr size_t kStack = 64 * 1024;
constexpr unsigned kMostThreads = 1024;
constexpr size_t kMostShared = 48 * 1024;

enum class State { kReady, kAtBarrier, kAtExchange, kDone };

struct Fiber {
  ucontext_t context;
  State state;
  int line;           // where it waits
  unsigned mask;      // of its exchange
  unsigned exchanges;  // how many it has made
  uint64_t given[2];  // in turn, so that a fast lane does not overwrite what a slow one has yet to read
};

// Who touched a place: the last thread and the time between two barriers, or several.
constexpr int kNobody = -1, kSeveral = -2;
struct Touch {
  int block = kNobody, thread = kNobody;
  unsigned epoch = 0;

  bool may_meet(const Touch& now) const {
    return block != kNobody && (block != now.block || (epoch == now.epoch && thread != now.thread));
  }

  void add(const Touch& now) {
    if (block == kNobody || (block == now.block && epoch != now.epoch)) {
      *this = now;
    } else if (block != now.block) {
      block = kSeveral;
    } else if (thread != now.thread) {
      thread = kSeveral;
    }
  }
};

enum Kind { kRead, kWrite, kAtomic };
struct Place {
  Touch touches[3];  // by kind
};
constexpr size_t kPlaceBytes = 2, kPagePlaces = 2048;
using Page = std::vector<Place>;

char* stacks = nullptr;
ucontext_t scheduler;
Fiber fibers[kMostThreads];
const std::function<void()>* thread_function;
int current = kNobody;
unsigned epoch;
std::string error, reported;
std::map<const void*, std::unique_ptr<char[]>> shared_arrays;
std::unordered_map<uintptr_t, Page> pages;
std::mt19937 rng;
int order = 0;  // of the threads: 0 rising, 1 falling, else random, with this seed

// A fiber that fails is never resumed, and its launch ends.
void fail(const std::string& message) {
  if (error.empty()) {
    error = "emulated CUDA: " + message;
    if (current != kNobody) {
      error += " (block " + std::to_string(blockIdx.x) + ", thread " + std::to_string(current) + ")";
    }
  }
  if (current != kNobody) {
    swapcontext(&fibers[current].context, &scheduler);
  }
}

void wait(State state, int line) {
  Fiber& fiber = fibers[current];
  fiber.state = state;
  fiber.line = line;
  swapcontext(&fiber.context, &scheduler);
}

void touch(void* address, size_t size, Kind kind) {
  char* const begin = static_cast<char*>(address);
  if (current == kNobody || (begin >= stacks && begin < stacks + kMostThreads * kStack)) {
    return;
  }
  if (__asan_region_is_poisoned(begin, size) != nullptr) {
    fail(std::string(kind == kRead ? "read of " : "write of ") + std::to_string(size) + " bytes outside the memory allocated");
  }
  const Touch now{static_cast<int>(blockIdx.x), current, epoch};
  for (uintptr_t i = reinterpret_cast<uintptr_t>(begin) / kPlaceBytes; i * kPlaceBytes < reinterpret_cast<uintptr_t>(begin) + size; ++i) {
    static Page* page = nullptr;
    static uintptr_t page_number = 0;
    if (pages.empty() || page_number != i / kPagePlaces) {
      page_number = i / kPagePlaces;
      page = &pages.try_emplace(page_number, kPagePlaces).first->second;
    }
    Place& place = (*page)[i % kPagePlaces];
    for (const Kind other : {kRead, kWrite, kAtomic}) {
      if ((kind != other || kind == kWrite) && place.touches[other].may_meet(now)) {
        fail("race of two threads for the same number: a barrier or an atomic addition is missing");
      }
    }
    place.touches[kind].add(now);
  }
}

void start_fiber() {
  (*thread_function)();
  fibers[current].state = State::kDone;
}

// Whether somebody can go on: all threads at one barrier, or all lanes of a mask at one exchange.
bool release(unsigned threads) {
  const auto same_barrier = [](const Fiber& f) { return f.state == State::kAtBarrier && f.line == fibers[0].line; };
  bool released = std::all_of(fibers, fibers + threads, same_barrier);
  if (released) {
    ++epoch;
    std::for_each(fibers, fibers + threads, [](Fiber& f) { f.state = State::kReady; });
  }
  for (unsigned first = 0; first < threads; first += 32) {
    for (unsigned i = first; i < std::min(first + 32, threads); ++i) {
      const Fiber& asked = fibers[i];
      unsigned waiting = 0;
      for (unsigned j = first; asked.state == State::kAtExchange && j < std::min(first + 32, threads); ++j) {
        const Fiber& f = fibers[j];
        waiting |= (f.state == State::kAtExchange && f.line == asked.line && f.mask == asked.mask) ? 1u << (j - first) : 0;
      }
      if (waiting != 0 && waiting == asked.mask) {
        released = true;
        for (unsigned j = first; j < std::min(first + 32, threads); ++j) {
          fibers[j].state = waiting >> (j - first) & 1 ? State::kReady : fibers[j].state;
        }
      }
    }
  }
  return released;
}

void run_block(unsigned threads) {
  std::vector<unsigned> turns(threads);
  for (unsigned i = 0; i < threads; ++i) {
    turns[i] = order == 1 ? threads - 1 - i : i;
    Fiber& fiber = fibers[i];
    fiber.state = State::kReady;
    fiber.exchanges = 0;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stacks + i * kStack;
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, start_fiber, 0);
  }
  shared_arrays.clear();
  ++epoch;
  do {
    if (order > 1) {
      std::shuffle(turns.begin(), turns.end(), rng);
    }
    for (const unsigned i : turns) {
      if (fibers[i].state == State::kReady) {
        current = static_cast<int>(i);
        threadIdx.x = i;
        swapcontext(&scheduler, &fibers[i].context);
        current = kNobody;
        if (!error.empty()) {
          return;
        }
      }
    }
  } while (release(threads));
  if (!std::all_of(fibers, fibers + threads, [](const Fiber& f) { return f.state == State::kDone; })) {
    fail("block " + std::to_string(blockIdx.x) + " hangs: not all of its threads come to the same barrier or shuffle");
  }
}

}  // namespace

const char* last_message() { return reported.c_str(); }

void run(const Configuration& configuration, const std::function<void()>& thread) {
  if (stacks == nullptr) {
    stacks = static_cast<char*>(
        mmap(nullptr, kMostThreads * kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }
  const unsigned blocks = configuration.blocks, threads = configuration.threads;
  if (blocks < 1 || blocks > INT32_MAX || threads < 1 || threads > kMostThreads || configuration.shared_bytes > kMostShared) {
    return fail("launch of " + std::to_string(blocks) + " blocks of " + std::to_string(threads) + " threads");
  }
  thread_function = &thread;
  gridDim.x = blocks;
  blockDim.x = threads;
  pages.clear();
  rng.seed(order);
  for (unsigned i = 0; i < blocks && error.empty(); ++i) {
    blockIdx.x = order == 1 ? blocks - 1 - i : i;
    run_block(threads);
  }
}

void check_launch_bounds(unsigned most) {
  if (blockDim.x > most) {
    fail("launch of " + std::to_string(blockDim.x) + " threads with __launch_bounds__(" + std::to_string(most) + ")");
  }
}

void* shared_memory(const void* key, size_t bytes) {
  auto& array = shared_arrays[key];
  if (array == nullptr) {
    array.reset(new char[bytes]);
    memset(array.get(), 0xff, bytes);  // NaN
    static size_t total;
    total = shared_arrays.size() == 1 ? bytes : total + bytes;
    if (total > kMostShared) {
      fail("a block with " + std::to_string(total) + " bytes of shared memory");
    }
  }
  return array.get();
}

void barrier(int line) { wait(State::kAtBarrier, line); }

uint64_t exchange(unsigned mask, uint64_t value, unsigned from, int line) {
  Fiber& fiber = fibers[current];
  const unsigned turn = fiber.exchanges++ % 2, first = current / 32 * 32;
  fiber.given[turn] = value;
  fiber.mask = mask;
  wait(State::kAtExchange, line);
  if (from >= 32 || (mask >> from & 1) == 0) {
    fail("shuffle from lane " + std::to_string(from) + ", which takes no part");
  }
  return fibers[first + from].given[turn];
}

namespace {

template <typename Vector, typename T>
Vector atomic_add(Vector* to, const T* numbers) {
  if (reinterpret_cast<uintptr_t>(to) % sizeof(Vector) != 0) {
    fail("atomic addition at a misaligned address");
  }
  touch(to, sizeof(Vector), kAtomic);
  const Vector before = *to;
  for (size_t i = 0; i < sizeof(Vector) / sizeof(T); ++i) {
    reinterpret_cast<T*>(to)[i] += numbers[i];
  }
  return before;
}

}  // namespace
}  // namespace emulation

cudaError_t cudaGetLastError() {
  emulation::reported.swap(emulation::error);
  emulation::error.clear();
  return emulation::reported.empty() ? cudaSuccess : cudaErrorLaunchFailure;
}

float atomicAdd(float* to, float number) { return emulation::atomic_add(to, &number); }
double atomicAdd(double* to, double number) { return emulation::atomic_add(to, &number); }
float4 atomicAdd(float4* to, float4 numbers) { return emulation::atomic_add(to, &numbers.x); }

extern "C" {

void emulation_order(int order) { emulation::order = order; }

void __tsan_init() {}
void __tsan_read_range(void* begin, size_t size) { emulation::touch(begin, size, emulation::kRead); }
void __tsan_write_range(void* begin, size_t size) { emulation::touch(begin, size, emulation::kWrite); }

#define ACCESS(size)                                                                                   \
  void __tsan_read##size(void* address) { emulation::touch(address, size, emulation::kRead); }          \
  void __tsan_write##size(void* address) { emulation::touch(address, size, emulation::kWrite); }        \
  void __tsan_unaligned_read##size(void* address) { emulation::touch(address, size, emulation::kRead); } \
  void __tsan_unaligned_write##size(void* address) { emulation::touch(address, size, emulation::kWrite); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
}
