//! What a verifier may spend time on, in Rust: the length of the request says which.
use std::ptr::{read_volatile, write_volatile};

static mut RESULT: u32 = 0;

/// Arithmetic and memory, in a loop.
fn compute() -> u32 {
    let (mut x, mut table) = (1u32, vec![0u32; 1024]);
    for _ in 0..200_000 {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        let slot = &mut table[(x & 1023) as usize];
        *slot = slot.wrapping_add(x);
    }
    table[7]
}

/// Hardly anything but calls.
#[inline(never)]
fn fib(n: u32) -> u32 {
    if n < 2 { n } else { fib(n - 1) + fib(n - 2) }
}

/// Calls without end, each with something on the stack in memory.
#[inline(never)]
fn deep(n: u32) -> u32 {
    let mut frame = [0u8; 256];
    let at = &mut frame[(n & 255) as usize] as *mut u8;
    unsafe { write_volatile(at, n as u8) };
    if n == 0 { 0 } else { deep(n - 1).wrapping_add(unsafe { read_volatile(at) } as u32) }
}

#[no_mangle]
pub extern "C" fn doorward_v1_verify(n: u32) -> i32 {
    let result = match n {
        1 => compute(),
        2 => fib(22),
        _ => deep(u32::MAX),
    };
    unsafe { write_volatile(&mut RESULT, result) };
    0
}
