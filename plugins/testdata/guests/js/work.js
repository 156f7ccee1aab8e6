// What a verifier may spend time on, in JavaScript: the request is a number that
// says which.
const table = new Uint32Array(1024);

const work = {
  // Arithmetic and memory, in a loop.
  1() {
    let x = 1;
    for (let i = 0; i < 20000; i++) {
      x ^= x << 13;
      x ^= x >>> 17;
      x ^= x << 5;
      table[x & 1023] += x;
    }
    return table[7];
  },

  // Hardly anything but calls.
  22() {
    const fib = (n) => (n < 2 ? n : fib(n - 1) + fib(n - 2));
    return fib(16);
  },

  // As deep as is asked for, each with something on the stack.
  333: () => deep(Infinity),
  4444: () => deep(100),

  // The engine's own recursion: through a script, a replacer, an expression and a
  // parser.
  55555: () => [1, 2].map(function again() { return [1].map(again); }),
  666666: () => JSON.stringify(1, function again(k, v) { return JSON.stringify(v, again); }),
  7777777: () => /^(?:(a?)*)*$/.test("a".repeat(60000) + "b"),
  88888888: () => JSON.parse("[".repeat(60000)),
  999999999: () => eval("(".repeat(60000)),
};

function deep(n) {
  const frame = [n, n + 1, n + 2];
  return n > 0 ? deep(n - 1) + frame.length : 0;
}

function verify(request) {
  return { result: work[request]() };
}
