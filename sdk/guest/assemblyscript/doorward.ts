// The contract doorward_v1 (package sdk/abi) for AssemblyScript. The host wrote
// the request, so it is valid JSON; its strings are the user's.
@external("doorward_v1", "input_read") declare function input_read(dst: usize, off: i32, n: i32): i32;
@external("doorward_v1", "output_write") declare function output_write(src: usize, n: i32): i32;
@external("doorward_v1", "result_read") declare function result_read(dst: usize, off: i32, n: i32): i32;
@external("doorward_v1", "fail") declare function fail(code: i32, src: usize, n: i32): void;
@external("doorward_v1", "config_get") declare function config_get(key: usize, n: i32): i32;
@external("doorward_v1", "password_verify") declare function password_verify(h: usize, n: i32, p: usize, m: i32): i32;
@external("doorward_v1", "totp_verify") declare function totp_verify(s: usize, n: i32, c: usize, m: i32): i32;

const QUOTE = 0x22, BACKSLASH = 0x5c;

function stop(why: string): void {
  const b = String.UTF8.encode(why);
  fail(1, changetype<usize>(b), b.byteLength);
}

// What the compiler has an exception go to.
export function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  stop(message === null ? "aborted" : message);
  unreachable();
}

export function read(n: i32): Request {
  const b = new ArrayBuffer(n);
  if (input_read(changetype<usize>(b), 0, n) != n) stop("the request cannot be read");
  return new Request(String.UTF8.decode(b));
}

// Half a character, which a string of UTF-16 may have and UTF-8 has not, becomes
// the one that stands for what cannot be read.
function utf8(s: string): ArrayBuffer {
  return String.UTF8.encode(s, false, String.UTF8.ErrorMode.REPLACE);
}

export function write(s: string): void {
  const b = utf8(s);
  output_write(changetype<usize>(b), b.byteLength);
}

export function config(key: string): string | null {
  const k = utf8(key);
  const n = config_get(changetype<usize>(k), k.byteLength);
  if (n < 0) return null;
  const b = new ArrayBuffer(n);
  result_read(changetype<usize>(b), 0, n);
  return String.UTF8.decode(b);
}

export function passwordVerify(hash: string, password: string): bool {
  const h = utf8(hash), p = utf8(password);
  return password_verify(changetype<usize>(h), h.byteLength, changetype<usize>(p), p.byteLength) == 1;
}

export function totpVerify(secret: string, code: string): bool {
  const s = utf8(secret), c = utf8(code);
  return totp_verify(changetype<usize>(s), s.byteLength, changetype<usize>(c), c.byteLength) == 1;
}

export function accept(user: string, claims: string, amr: string): string {
  return '{"decision":"accept","subject":' + quote(user) + claims + ',"amr":' + amr + "}";
}

// Text is a string that is being written. Adding to a string copies it, and
// nothing is ever given back.
class Text {
  private units: ArrayBuffer;
  private n: i32 = 0;
  constructor(most: i32) { this.units = new ArrayBuffer(most << 1); }
  add(c: i32): void { store<u16>(changetype<usize>(this.units) + (this.n++ << 1), <u16>c); }
  toString(): string { return String.UTF16.decodeUnsafe(changetype<usize>(this.units), this.n << 1); }
}

export function quote(s: string): string {
  const out = new Text(6 * s.length + 2);
  out.add(QUOTE);
  for (let i = 0; i < s.length; i++) {
    const c = s.charCodeAt(i);
    if (c == QUOTE || c == BACKSLASH) {
      out.add(BACKSLASH);
      out.add(c);
    } else if (c < 0x20) {
      const escape = "\\u00" + (c < 16 ? "0" : "1") + (c & 15).toString(16);
      for (let j = 0; j < 6; j++) out.add(escape.charCodeAt(j));
    } else out.add(c);
  }
  out.add(QUOTE);
  return out.toString();
}

export class Request {
  constructor(private s: string) {}

  // The string at a member of a member; null where there is none.
  text(outer: string, inner: string): string | null {
    let at = this.member(0, outer);
    if (at >= 0) at = this.member(at, inner);
    return at >= 0 && this.s.charCodeAt(at) == QUOTE ? this.string(at) : null;
  }

  answersAChallenge(): bool { return this.member(0, "state") >= 0; }

  credential(field: string): string {
    const t = this.text("credential", field);
    return t === null ? "" : t;
  }

  private space(at: i32): i32 {
    while (at < this.s.length && this.s.charCodeAt(at) <= 0x20) at++;
    return at;
  }

  // Where a member's value is in the object at a place; -1: nowhere.
  private member(at: i32, key: string): i32 {
    at = this.space(at);
    if (this.s.charCodeAt(at) != 0x7b) return -1;
    at = this.space(at + 1);
    while (at < this.s.length && this.s.charCodeAt(at) == QUOTE) {
      const name = this.string(at);
      at = this.space(this.space(this.skip(at)) + 1); // after the colon
      if (name == key) return at;
      at = this.space(this.skip(at));
      if (at >= this.s.length || this.s.charCodeAt(at) != 0x2c) return -1;
      at = this.space(at + 1);
    }
    return -1;
  }

  // What comes after the value at a place.
  private skip(at: i32): i32 {
    let depth = 0, quoted = false;
    for (; at < this.s.length; at++) {
      const c = this.s.charCodeAt(at);
      if (quoted) {
        if (c == BACKSLASH) at++;
        else if (c == QUOTE) {
          quoted = false;
          if (depth == 0) return at + 1;
        }
      } else if (c == QUOTE) quoted = true;
      else if (c == 0x7b || c == 0x5b) depth++;
      else if (c == 0x7d || c == 0x5d) {
        if (depth == 0) return at;
        if (--depth == 0) return at + 1;
      } else if (c == 0x2c && depth == 0) return at;
    }
    return at;
  }

  private string(at: i32): string {
    const end = this.skip(at) - 1;
    const out = new Text(end - at);
    for (at++; at < end; at++) {
      let c = this.s.charCodeAt(at);
      if (c == BACKSLASH) {
        c = this.s.charCodeAt(++at);
        if (c == 0x75) {
          c = i32(parseInt(this.s.substr(at + 1, 4), 16));
          at += 4;
        } else if (c == 0x6e) c = 10;
        else if (c == 0x74) c = 9;
        else if (c == 0x72) c = 13;
        else if (c == 0x62) c = 8;
        else if (c == 0x66) c = 12;
      }
      out.add(c);
    }
    return out.toString();
  }
}
