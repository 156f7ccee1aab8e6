// What a verifier may spend time on, in C: the length of the request says which.
#include "doorward.h"

static uint32_t table[1024];
static volatile uint32_t result;

// Arithmetic and memory, in a loop.
static uint32_t compute(void) {
  uint32_t x = 1;
  for (int i = 0; i < 200000; i++) {
    x ^= x << 13, x ^= x >> 17, x ^= x << 5;
    table[x & 1023] += x;
  }
  return table[7];
}

// Hardly anything but calls.
__attribute__((noinline)) static uint32_t fib(uint32_t n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

// Calls without end, each with something on the stack in memory.
__attribute__((noinline)) static uint32_t deep(uint32_t n) {
  volatile uint8_t frame[256];
  frame[n & 255] = n;
  return n ? deep(n - 1) + frame[n & 255] : 0;
}

DW_EXPORT("doorward_v1_verify") int32_t verify(uint32_t n) {
  result = n == 1 ? compute() : n == 2 ? fib(22) : deep(UINT32_MAX);
  return 0;
}
