// What a verifier may spend time on, in AssemblyScript: the length of the request
// says which.
import "./doorward"; // for what an exception goes to

const table = new StaticArray<u32>(1024);
let result: u32 = 0;

// Arithmetic and memory, in a loop.
function compute(): u32 {
  let x: u32 = 1;
  for (let i = 0; i < 200000; i++) {
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    table[x & 1023] += x;
  }
  return table[7];
}

// Hardly anything but calls.
function fib(n: u32): u32 {
  return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

// Calls without end, each with something new in memory.
function deep(n: u32): u32 {
  const frame = new StaticArray<u8>(256);
  frame[n & 255] = <u8>n;
  return n ? deep(n - 1) + frame[n & 255] : 0;
}

export function doorward_v1_verify(n: i32): i32 {
  result = n == 1 ? compute() : n == 2 ? fib(22) : deep(u32.MAX_VALUE);
  return 0;
}
