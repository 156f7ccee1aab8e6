// The contract doorward_v1 (package sdk/abi) for AssemblyScript: the request, the
// verdicts and the host's functions. The host wrote the request, so it is valid
// JSON; its strings are the user's.
//
//   import { Request, Verdict, accept, config, read, reject, verifyPassword } from "./doorward";
//
//   export function doorward_v1_verify(n: i32): i32 {
//     return verify(read(n)).write();
//   }
//
//   function verify(r: Request): Verdict {
//     const user = r.credential.text("username"), hash = config(user);
//     if (!verifyPassword(hash === null ? "" : hash, r.credential.text("password"))) return reject();
//     return accept(user, ["pwd"]);
//   }
//
// What is not found is null. Other trouble ends the login without a verdict: the user
// is asked to try again later, and the tenant's log says why; so do exceptions, where
// the compiler is told --use abort=doorward/abort.
@external("doorward_v1", "input_read") declare function input_read(dst: usize, off: i32, n: i32): i32;
@external("doorward_v1", "output_write") declare function output_write(src: usize, n: i32): i32;
@external("doorward_v1", "result_read") declare function result_read(dst: usize, off: i32, n: i32): i32;
@external("doorward_v1", "fail") declare function host_fail(code: i32, src: usize, n: i32): void;
@external("doorward_v1", "log") declare function host_log(level: i32, src: usize, n: i32): void;
@external("doorward_v1", "random") declare function host_random(dst: usize, n: i32): i32;
@external("doorward_v1", "now_ms") declare function now_ms(): i64;
@external("doorward_v1", "ct_equal") declare function ct_equal(a: usize, n: i32, b: usize, m: i32): i32;
@external("doorward_v1", "config_get") declare function config_get(key: usize, n: i32): i32;
@external("doorward_v1", "secret_get") declare function secret_get(name: usize, n: i32): i32;
@external("doorward_v1", "secret_hmac") declare function secret_hmac(name: usize, n: i32, alg: i32, d: usize, m: i32): i32;
@external("doorward_v1", "hash") declare function host_hash(alg: i32, d: usize, n: i32): i32;
@external("doorward_v1", "hmac") declare function host_hmac(alg: i32, k: usize, n: i32, d: usize, m: i32): i32;
@external("doorward_v1", "sig_verify") declare function sig_verify(alg: i32, k: usize, n: i32, d: usize, m: i32, s: usize, o: i32): i32;
@external("doorward_v1", "password_hash") declare function password_hash(p: usize, n: i32): i32;
@external("doorward_v1", "password_verify") declare function password_verify(h: usize, n: i32, p: usize, m: i32): i32;
@external("doorward_v1", "totp_verify") declare function totp_verify(s: usize, n: i32, c: usize, m: i32): i32;
@external("doorward_v1", "kv_get") declare function kv_get(ns: usize, n: i32, k: usize, m: i32): i32;
@external("doorward_v1", "kv_put") declare function kv_put(ns: usize, n: i32, k: usize, m: i32, v: usize, o: i32, seconds: i32): i32;
@external("doorward_v1", "kv_incr") declare function kv_incr(ns: usize, n: i32, k: usize, m: i32, by: i32, seconds: i32): i32;
@external("doorward_v1", "kv_cas") declare function kv_cas(ns: usize, n: i32, k: usize, m: i32, old: usize, o: i32, v: usize, p: i32, seconds: i32): i32;
@external("doorward_v1", "http_fetch") declare function http_fetch(r: usize, n: i32): i32;

const QUOTE = 0x22, BACKSLASH = 0x5c;

// What a host's function returns for trouble.
export const INVALID = -1, NOT_FOUND = -2, NOT_GRANTED = -3, BUSY = -4, TOO_LARGE = -5, TIMEOUT = -6,
  QUOTA = -7, UPSTREAM = -8, UNSUPPORTED = -9, INTERNAL = -10, NOT_DURING_INIT = -11;

export enum Digest { SHA256 = 1, SHA384, SHA512 }
export enum Signature { Ed25519 = 1, ES256, ES256DER, RS256, PS256 }

// Ends this login without a verdict.
export function fail(why: string): void {
  const b = utf8(why);
  host_fail(1, changetype<usize>(b), b.byteLength);
  unreachable();
}

// What the compiler has an exception go to.
export function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  const why: string = message === null ? "aborted" : message;
  fail(file === null ? why : why + " (" + file + ":" + line.toString() + ")");
}

export function read(n: i32): Request {
  const b = new ArrayBuffer(n);
  if (input_read(changetype<usize>(b), 0, n) != n) fail("the request cannot be read");
  return new Request(new Json(String.UTF8.decode(b), 0));
}

// What is asked: who wants to sign in, with what.
export class Request {
  constructor(private json: Json) {}
  get tenant(): string { return this.json.text("tenant"); }
  // "password", unless the caller named another.
  get method(): string { return this.json.text("method"); }
  get requestID(): string { return this.json.text("request_id"); }
  // 1, or which answer to a challenge this is.
  get attempt(): i32 { return i32(this.json.number("attempt")); }
  // Unix time in milliseconds.
  get nowMS(): i64 { return i64(this.json.number("now_ms")); }
  // What the user typed, by field; for a challenge, the answer.
  get credential(): Json { return this.json.member("credential"); }
  // ip, user_agent and app, as far as the host knows.
  get client(): Json { return this.json.member("client"); }
  // Whether there is a state.
  get answersAChallenge(): bool { return this.json.member("state").exists; }
  // What the challenge that is being answered had as private.
  get state(): Json { return this.json.member("state"); }
}

// The answer: accept, reject or challenge makes one.
export class Verdict {
  constructor(private json: string) {}
  // Hands it to the host; doorward_v1_verify returns what this does.
  write(): i32 {
    const b = utf8(this.json);
    output_write(changetype<usize>(b), b.byteLength);
    return 0;
  }
}

// The members of an object that is being written.
export class Members {
  private json: string = "";
  text(name: string, value: string): Members { return this.raw(name, quote(value)); }
  number(name: string, value: f64): Members { return this.raw(name, value == Math.floor(value) && Math.abs(value) < 9e15 ? i64(value).toString() : value.toString()); }
  yes(name: string, value: bool): Members { return this.raw(name, value ? "true" : "false"); }
  // A value that is JSON already.
  raw(name: string, json: string): Members {
    this.json += (this.json.length ? "," : "") + quote(name) + ":" + json;
    return this;
  }
  toString(): string { return "{" + this.json + "}"; }
}

// Signs subject in. amr is how it was proven (RFC 8176), as "pwd" and "otp".
export function accept(subject: string, amr: string[], claims: Members | null = null): Verdict {
  let methods = "";
  for (let i = 0; i < amr.length; i++) methods += (i ? "," : "") + quote(amr[i]);
  const m = new Members().text("decision", "accept").text("subject", subject).raw("amr", "[" + methods + "]");
  if (claims !== null) m.raw("claims", claims.toString());
  return new Verdict(m.toString());
}

// Refuses the credential: code is bad_credentials, locked, expired or denied, detail
// is for the tenant's log. The user sees one neutral sentence.
export function reject(code: string = "bad_credentials", detail: string = ""): Verdict {
  const m = new Members().text("decision", "reject").text("code", code);
  if (detail.length) m.text("detail", detail);
  return new Verdict(m.toString());
}

// Asks for a second step, "otp" or "custom". The user's client sees what is shown;
// what is kept comes back as state with the answer, and nobody else sees it.
export function challenge(type: string, shown: Members, kept: Members, seconds: i32 = 300, attempts: i32 = 5): Verdict {
  return new Verdict(new Members().text("decision", "challenge").text("type", type)
    .raw("public", shown.toString()).raw("private", kept.toString()).number("ttl", seconds).number("max_attempts", attempts).toString());
}

// A value of the tenant's configuration: a string as it is, anything else as JSON.
export function config(key: string): string | null {
  const k = utf8(key);
  return text("config_get", config_get(changetype<usize>(k), k.byteLength));
}

// A secret that the manifest names.
export function secret(name: string): string | null {
  const n = utf8(name);
  return text("secret_get", secret_get(changetype<usize>(n), n.byteLength));
}

// Whether a password is right for a hash. For a user who does not exist take "" as the
// hash: it is not, and takes as long.
export function verifyPassword(hash: string, password: string): bool {
  const h = utf8(hash), p = utf8(password);
  const n = password_verify(changetype<usize>(h), h.byteLength, changetype<usize>(p), p.byteLength);
  if (n == INVALID || n == TOO_LARGE || n == UNSUPPORTED) return false; // no such password
  return count("password_verify", n) == 1;
}

// A new hash of a password, argon2id in PHC form.
export function hashPassword(password: string): string {
  const p = utf8(password);
  return String.UTF8.decode(bytes("password_hash", password_hash(changetype<usize>(p), p.byteLength)));
}

// Whether a code of an authenticator app is right for its secret in base32. Each is
// good once.
export function verifyTOTP(secret: string, code: string): bool {
  const s = utf8(secret), c = utf8(code);
  return count("totp_verify", totp_verify(changetype<usize>(s), s.byteLength, changetype<usize>(c), c.byteLength)) == 1;
}

export function hash(digest: Digest, data: ArrayBuffer): ArrayBuffer {
  return bytes("hash", host_hash(digest, changetype<usize>(data), data.byteLength));
}

export function hmac(digest: Digest, key: ArrayBuffer, data: ArrayBuffer): ArrayBuffer {
  return bytes("hmac", host_hmac(digest, changetype<usize>(key), key.byteLength, changetype<usize>(data), data.byteLength));
}

// Is hmac under a secret that the manifest names, which never gets here.
export function secretHMAC(name: string, digest: Digest, data: ArrayBuffer): ArrayBuffer {
  const n = utf8(name);
  return bytes("secret_hmac", secret_hmac(changetype<usize>(n), n.byteLength, digest, changetype<usize>(data), data.byteLength));
}

// Whether a signature is right for a public key in PEM or DER.
export function verifySignature(algorithm: Signature, key: ArrayBuffer, message: ArrayBuffer, signature: ArrayBuffer): bool {
  return count("sig_verify", sig_verify(algorithm, changetype<usize>(key), key.byteLength, changetype<usize>(message), message.byteLength, changetype<usize>(signature), signature.byteLength)) == 1;
}

// What is kept under a key of a namespace that the manifest names.
export function kvGet(ns: string, key: string): string | null {
  const n = utf8(ns), k = utf8(key);
  return text("kv_get", kv_get(changetype<usize>(n), n.byteLength, changetype<usize>(k), k.byteLength));
}

// Keeps a value for so many seconds; 0 is as long as there is. An empty one removes.
export function kvPut(ns: string, key: string, value: string, seconds: i32 = 0): void {
  const n = utf8(ns), k = utf8(key), v = utf8(value);
  count("kv_put", kv_put(changetype<usize>(n), n.byteLength, changetype<usize>(k), k.byteLength, changetype<usize>(v), v.byteLength, seconds));
}

// Adds to a count and gives the sum. Seconds count from when there was none.
export function kvIncr(ns: string, key: string, by: i32, seconds: i32 = 0): i32 {
  const n = utf8(ns), k = utf8(key);
  return count("kv_incr", kv_incr(changetype<usize>(n), n.byteLength, changetype<usize>(k), k.byteLength, by, seconds));
}

// Keeps value if old is what is kept ("" for nothing), and tells.
export function kvSwap(ns: string, key: string, old: string, value: string, seconds: i32 = 0): bool {
  const n = utf8(ns), k = utf8(key), o = utf8(old), v = utf8(value);
  return count("kv_cas", kv_cas(changetype<usize>(n), n.byteLength, changetype<usize>(k), k.byteLength, changetype<usize>(o), o.byteLength, changetype<usize>(v), v.byteLength, seconds)) == 1;
}

// Asks a host that the manifest names, by https. The answer has status, headers, and
// body (or body_base64); UPSTREAM and its like are in failed, 0 where there is none.
export class Answer {
  constructor(public failed: i32, public json: Json) {}
  get status(): i32 { return i32(this.json.number("status")); }
  get body(): string { return this.json.text("body"); }
  // Of several by a name in lower case, the first.
  header(name: string): string { return this.json.member("headers").member(name).first().string(); }
}

export function fetch(method: string, url: string, body: string = "", headers: Members | null = null): Answer {
  const m = new Members().text("method", method).text("url", url);
  if (body.length) m.text("body", body);
  if (headers !== null) m.raw("headers", headers.toString());
  const r = utf8(m.toString());
  const n = http_fetch(changetype<usize>(r), r.byteLength);
  return new Answer(n < 0 ? n : 0, new Json(n < 0 ? "" : String.UTF8.decode(bytes("http_fetch", n)), 0));
}

// Whether both are the same, in a time that does not tell where they differ.
export function equal(a: ArrayBuffer, b: ArrayBuffer): bool {
  return ct_equal(changetype<usize>(a), a.byteLength, changetype<usize>(b), b.byteLength) == 1;
}

// Bytes that nobody can guess.
export function random(n: i32): ArrayBuffer {
  const b = new ArrayBuffer(n);
  host_random(changetype<usize>(b), n);
  return b;
}

// Unix time in milliseconds, the same for all of a login.
export function now(): i64 { return now_ms(); }

// Writes a line to the tenant's log.
export function log(line: string): void {
  const b = utf8(line);
  host_log(1, changetype<usize>(b), b.byteLength);
}

// Half a character, which a string of UTF-16 may have and UTF-8 has not, becomes
// the one that stands for what cannot be read.
export function utf8(s: string): ArrayBuffer {
  return String.UTF8.encode(s, false, String.UTF8.ErrorMode.REPLACE);
}

function count(name: string, n: i32): i32 {
  if (n == NOT_GRANTED) fail(name + ": not granted; ask for it in doorward.manifest.json");
  if (n < 0) fail(name + ": error " + n.toString());
  return n;
}

function bytes(name: string, n: i32): ArrayBuffer {
  const b = new ArrayBuffer(count(name, n));
  result_read(changetype<usize>(b), 0, n);
  return b;
}

function text(name: string, n: i32): string | null {
  return n == NOT_FOUND ? null : String.UTF8.decode(bytes(name, n));
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

// A value in JSON, at a place in a text. What is not there is another value, which
// does not exist, and of which nothing exists.
export class Json {
  constructor(private s: string, private at: i32) {}

  get exists(): bool { return this.at >= 0; }

  member(name: string): Json { return new Json(this.s, this.find(name)); }

  // A member that is a string, or "".
  text(name: string): string { return this.member(name).string(); }

  // A member that is a number, or 0.
  number(name: string): f64 {
    const at = this.find(name);
    if (at < 0) return 0;
    const c = this.s.charCodeAt(at);
    return c == 0x2d || (c >= 0x30 && c <= 0x39) ? parseFloat(this.s.substring(at, this.skip(at))) : 0;
  }

  // A member that is true.
  yes(name: string): bool {
    const at = this.find(name);
    return at >= 0 && this.s.startsWith("true", at);
  }

  // The first of a list.
  first(): Json {
    if (this.at < 0 || this.s.charCodeAt(this.at) != 0x5b) return new Json(this.s, -1);
    const at = this.space(this.at + 1);
    return new Json(this.s, at < this.s.length && this.s.charCodeAt(at) != 0x5d ? at : -1);
  }

  // What a string says, or "".
  string(): string {
    return this.at >= 0 && this.at < this.s.length && this.s.charCodeAt(this.at) == QUOTE ? this.decode(this.at) : "";
  }

  // The value as it stands.
  raw(): string { return this.at < 0 ? "" : this.s.substring(this.at, this.skip(this.at)); }

  private space(at: i32): i32 {
    while (at < this.s.length && this.s.charCodeAt(at) <= 0x20) at++;
    return at;
  }

  // Where a member's value is in the object at a place; -1: nowhere.
  private find(key: string): i32 {
    if (this.at < 0) return -1;
    let at = this.space(this.at);
    if (at >= this.s.length || this.s.charCodeAt(at) != 0x7b) return -1;
    at = this.space(at + 1);
    while (at < this.s.length && this.s.charCodeAt(at) == QUOTE) {
      const name = this.decode(at);
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

  private decode(at: i32): string {
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
