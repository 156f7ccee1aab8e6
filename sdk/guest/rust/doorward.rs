//! The contract doorward_v1 (package sdk/abi) for Rust, from 1.63 on, without crates:
//! the request, the verdicts, the host's functions, and JSON. A verifier is a cdylib:
//!
//! ```ignore
//! mod doorward;
//! use doorward::{Error, Request, Verdict};
//!
//! fn verify(r: &Request) -> Result<Verdict, Error> {
//!     let user = r.credential.text("username");
//!     let hash = doorward::config(user)?.unwrap_or_default();
//!     if !doorward::verify_password(&hash, r.credential.text("password"))? {
//!         return Ok(Verdict::reject());
//!     }
//!     Ok(Verdict::accept(user, &["pwd"]))
//! }
//!
//! doorward::verifier!(verify);
//! ```
//!
//! An error that verify returns ends the login without a verdict: the user is asked
//! to try again later, and the tenant's log says why.
#![allow(dead_code)] // a verifier takes of this what it needs
use std::fmt;

mod host {
    #[link(wasm_import_module = "doorward_v1")]
    extern "C" {
        pub fn input_read(dst: *mut u8, off: u32, n: u32) -> i32;
        pub fn output_write(src: *const u8, n: u32) -> i32;
        pub fn result_read(dst: *mut u8, off: u32, n: u32) -> i32;
        pub fn fail(code: i32, src: *const u8, n: u32);
        pub fn log(level: i32, src: *const u8, n: u32);
        pub fn random(dst: *mut u8, n: u32) -> i32;
        pub fn now_ms() -> i64;
        pub fn ct_equal(a: *const u8, n: u32, b: *const u8, m: u32) -> i32;
        pub fn config_get(key: *const u8, n: u32) -> i32;
        pub fn secret_get(name: *const u8, n: u32) -> i32;
        pub fn secret_hmac(name: *const u8, n: u32, alg: i32, data: *const u8, m: u32) -> i32;
        pub fn hash(alg: i32, data: *const u8, n: u32) -> i32;
        pub fn hmac(alg: i32, key: *const u8, n: u32, data: *const u8, m: u32) -> i32;
        pub fn sig_verify(alg: i32, key: *const u8, n: u32, message: *const u8, m: u32, signature: *const u8, o: u32) -> i32;
        pub fn password_hash(password: *const u8, n: u32) -> i32;
        pub fn password_verify(hash: *const u8, n: u32, password: *const u8, m: u32) -> i32;
        pub fn totp_verify(secret: *const u8, n: u32, code: *const u8, m: u32) -> i32;
        pub fn kv_get(ns: *const u8, n: u32, key: *const u8, m: u32) -> i32;
        pub fn kv_put(ns: *const u8, n: u32, key: *const u8, m: u32, value: *const u8, o: u32, seconds: u32) -> i32;
        pub fn kv_incr(ns: *const u8, n: u32, key: *const u8, m: u32, by: i32, seconds: u32) -> i32;
        pub fn kv_cas(ns: *const u8, n: u32, key: *const u8, m: u32, old: *const u8, o: u32, value: *const u8, p: u32, seconds: u32) -> i32;
        pub fn http_fetch(request: *const u8, n: u32) -> i32;
    }
}

/// What is asked: who wants to sign in, with what.
pub struct Request {
    pub tenant: String,
    /// "password", unless the caller named another.
    pub method: String,
    pub request_id: String,
    /// 1, or which answer to a challenge this is.
    pub attempt: u32,
    /// What the user typed, by field; for a challenge, the answer. Its fields are secrets.
    pub credential: Value,
    pub client: Client,
    /// What the challenge that is being answered had as private.
    pub state: Option<Value>,
    /// Unix time in milliseconds.
    pub now_ms: i64,
}

/// Who asks, as far as the host knows; "" what it does not.
pub struct Client {
    pub ip: String,
    pub user_agent: String,
    pub app: String,
}

/// The answer: accept, reject or challenge makes one.
pub struct Verdict(Vec<(String, Value)>);

impl Verdict {
    /// Signs subject in. amr is how it was proven (RFC 8176), as "pwd" and "otp".
    pub fn accept(subject: &str, amr: &[&str]) -> Verdict {
        let amr = Value::List(amr.iter().map(|m| Value::from(*m)).collect());
        Verdict(vec![]).with("decision", "accept").with("subject", subject).with("amr", amr)
    }

    /// Says something about the subject of accept.
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Verdict {
        let value = value.into();
        match self.0.iter_mut().find(|(n, _)| n == "claims") {
            Some((_, Value::Object(claims))) => claims.push((name.to_string(), value)),
            _ => return self.with("claims", Value::Object(vec![(name.to_string(), value)])),
        }
        self
    }

    /// Refuses the credential. The user sees one neutral sentence whatever the reason.
    pub fn reject() -> Verdict {
        Verdict::reject_with("bad_credentials", "")
    }

    /// Is reject with a code (bad_credentials, locked, expired or denied) and a reason
    /// for the tenant's log.
    pub fn reject_with(code: &str, detail: &str) -> Verdict {
        let v = Verdict(vec![]).with("decision", "reject").with("code", code);
        if detail.is_empty() { v } else { v.with("detail", detail) }
    }

    /// Asks for a second step, "otp" or "custom". The user's client sees public; private
    /// comes back as state with the answer, and nobody else sees it. It may take 300
    /// seconds and 5 attempts.
    pub fn challenge(kind: &str, public: Value, private: Value) -> Verdict {
        Verdict(vec![]).with("decision", "challenge").with("type", kind).with("public", public).with("private", private).within(300, 5)
    }

    /// Changes how long a challenge may take and how often it may be answered.
    pub fn within(mut self, seconds: u32, attempts: u32) -> Verdict {
        self.0.retain(|(n, _)| n != "ttl" && n != "max_attempts");
        self.with("ttl", f64::from(seconds)).with("max_attempts", f64::from(attempts))
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Verdict {
        self.0.push((name.to_string(), value.into()));
        self
    }
}

/// Why the host gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    Invalid,
    NotFound,
    NotGranted,
    Busy,
    TooLarge,
    Timeout,
    Quota,
    Upstream,
    Unsupported,
    Internal,
    NotDuringInit,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::NotGranted => f.write_str("not granted; ask for it in doorward.manifest.json"),
            other => write!(f, "the host's answer is {:?}", other),
        }
    }
}

impl std::error::Error for Error {}

/// Exports a function as the verifier.
macro_rules! verifier {
    ($verify:path) => {
        #[no_mangle]
        pub extern "C" fn doorward_v1_verify(n: u32) -> i32 {
            $crate::doorward::answer(n, $verify)
        }

        /// Asks for memory and gives it back, once, before any login: a login that makes
        /// memory grow is slower, because its instance cannot be used again.
        #[no_mangle]
        pub extern "C" fn doorward_v1_warm() -> i32 {
            drop(vec![1u8; 256 << 10]);
            0
        }
    };
}
pub(crate) use verifier;

/// Reads the request, has it decided and writes the verdict.
pub fn answer(n: u32, verify: fn(&Request) -> Result<Verdict, Error>) -> i32 {
    let mut input = vec![0; n as usize];
    if unsafe { host::input_read(input.as_mut_ptr(), 0, n) } != n as i32 {
        fail("the request cannot be read");
    }
    let request = String::from_utf8(input).ok().and_then(|text| Value::parse(&text));
    let request = request.unwrap_or_else(|| fail("the request is no JSON"));
    let client = request.get("client").unwrap_or(&Value::Null);
    let request = Request {
        tenant: request.text("tenant").to_string(),
        method: request.text("method").to_string(),
        request_id: request.text("request_id").to_string(),
        attempt: request.number("attempt") as u32,
        client: Client { ip: client.text("ip").to_string(), user_agent: client.text("user_agent").to_string(), app: client.text("app").to_string() },
        now_ms: request.number("now_ms") as i64,
        state: request.get("state").cloned(),
        credential: request.get("credential").cloned().unwrap_or(Value::Null),
    };
    match verify(&request) {
        Ok(Verdict(members)) => {
            let out = Value::Object(members).to_string();
            unsafe { host::output_write(out.as_ptr(), out.len() as u32) };
            0
        }
        Err(e) => fail(&e.to_string()),
    }
}

/// Ends this login without a verdict: the user is asked to try again later, and the
/// tenant's log says why.
pub fn fail(why: &str) -> ! {
    unsafe { host::fail(1, why.as_ptr(), why.len() as u32) };
    std::process::abort()
}

/// Writes a line to the tenant's log.
pub fn log(line: &str) {
    unsafe { host::log(1, line.as_ptr(), line.len() as u32) };
}

/// Fills with bytes that nobody can guess.
pub fn random(to: &mut [u8]) {
    unsafe { host::random(to.as_mut_ptr(), to.len() as u32) };
}

/// Unix time in milliseconds, the same for all of a login.
pub fn now_ms() -> i64 {
    unsafe { host::now_ms() }
}

/// Whether both are the same, in a time that does not tell where they differ.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    unsafe { host::ct_equal(a.as_ptr(), a.len() as u32, b.as_ptr(), b.len() as u32) == 1 }
}

/// A value of the tenant's configuration: a string as it is, anything else as JSON.
pub fn config(key: &str) -> Result<Option<String>, Error> {
    found(text(unsafe { host::config_get(key.as_ptr(), key.len() as u32) }))
}

/// A secret that the manifest names.
pub fn secret(name: &str) -> Result<Option<String>, Error> {
    found(text(unsafe { host::secret_get(name.as_ptr(), name.len() as u32) }))
}

/// Whether a password is right for a hash. For a user who does not exist take "" as
/// the hash: it is not, and takes as long.
pub fn verify_password(hash: &str, password: &str) -> Result<bool, Error> {
    match yes(unsafe { host::password_verify(hash.as_ptr(), hash.len() as u32, password.as_ptr(), password.len() as u32) }) {
        Err(Error::Invalid) | Err(Error::TooLarge) | Err(Error::Unsupported) => Ok(false), // no such password
        other => other,
    }
}

/// A new hash of a password, argon2id in PHC form.
pub fn hash_password(password: &str) -> Result<String, Error> {
    text(unsafe { host::password_hash(password.as_ptr(), password.len() as u32) })
}

/// Whether a code of an authenticator app is right for its secret in base32. Each is
/// good once.
pub fn verify_totp(secret: &str, code: &str) -> Result<bool, Error> {
    yes(unsafe { host::totp_verify(secret.as_ptr(), secret.len() as u32, code.as_ptr(), code.len() as u32) })
}

/// Digests, by the contract's numbers.
#[derive(Clone, Copy)]
pub enum Digest {
    Sha256 = 1,
    Sha384 = 2,
    Sha512 = 3,
}

/// Algorithms of signatures, by the contract's numbers.
#[derive(Clone, Copy)]
pub enum Signature {
    Ed25519 = 1,
    Es256 = 2,
    Es256Der = 3,
    Rs256 = 4,
    Ps256 = 5,
}

pub fn hash(digest: Digest, data: &[u8]) -> Result<Vec<u8>, Error> {
    result(unsafe { host::hash(digest as i32, data.as_ptr(), data.len() as u32) })
}

pub fn hmac(digest: Digest, key: &[u8], data: &[u8]) -> Result<Vec<u8>, Error> {
    result(unsafe { host::hmac(digest as i32, key.as_ptr(), key.len() as u32, data.as_ptr(), data.len() as u32) })
}

/// Is hmac under a secret that the manifest names, which never gets here.
pub fn secret_hmac(name: &str, digest: Digest, data: &[u8]) -> Result<Vec<u8>, Error> {
    result(unsafe { host::secret_hmac(name.as_ptr(), name.len() as u32, digest as i32, data.as_ptr(), data.len() as u32) })
}

/// Whether a signature is right for a public key in PEM or DER.
pub fn verify_signature(algorithm: Signature, key: &[u8], message: &[u8], signature: &[u8]) -> Result<bool, Error> {
    let (k, m, s) = (key, message, signature);
    yes(unsafe { host::sig_verify(algorithm as i32, k.as_ptr(), k.len() as u32, m.as_ptr(), m.len() as u32, s.as_ptr(), s.len() as u32) })
}

/// What is kept under a key of a namespace that the manifest names.
pub fn kv_get(ns: &str, key: &str) -> Result<Option<String>, Error> {
    found(text(unsafe { host::kv_get(ns.as_ptr(), ns.len() as u32, key.as_ptr(), key.len() as u32) }))
}

/// Keeps a value for so many seconds; 0 is as long as there is. An empty one removes.
pub fn kv_put(ns: &str, key: &str, value: &str, seconds: u32) -> Result<(), Error> {
    let (n, k, v) = (ns.len() as u32, key.len() as u32, value.len() as u32);
    count(unsafe { host::kv_put(ns.as_ptr(), n, key.as_ptr(), k, value.as_ptr(), v, seconds) }).map(|_| ())
}

/// Adds to a count and gives the sum. Seconds count from when there was none.
pub fn kv_incr(ns: &str, key: &str, by: i32, seconds: u32) -> Result<u32, Error> {
    count(unsafe { host::kv_incr(ns.as_ptr(), ns.len() as u32, key.as_ptr(), key.len() as u32, by, seconds) })
}

/// Keeps value if old is what is kept ("" for nothing), and tells.
pub fn kv_swap(ns: &str, key: &str, old: &str, value: &str, seconds: u32) -> Result<bool, Error> {
    let (n, k, o, v) = (ns.len() as u32, key.len() as u32, old.len() as u32, value.len() as u32);
    yes(unsafe { host::kv_cas(ns.as_ptr(), n, key.as_ptr(), k, old.as_ptr(), o, value.as_ptr(), v, seconds) })
}

/// A request to a host that the manifest names; url is https.
pub struct HttpRequest<'a> {
    pub method: &'a str,
    pub url: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a str,
}

/// What came back, whatever the status: a redirect is not followed.
pub struct HttpResponse {
    pub status: u32,
    /// An object of lists of texts; names are in lower case.
    pub headers: Value,
    /// "" when it is no UTF-8; then body_base64 has it.
    pub body: String,
    pub body_base64: String,
}

/// Makes a request to one of the hosts that the manifest names.
pub fn fetch(r: &HttpRequest) -> Result<HttpResponse, Error> {
    let headers = r.headers.iter().map(|(n, v)| (n.to_string(), Value::from(*v))).collect();
    let request = object(&[("method", r.method.into()), ("url", r.url.into()), ("headers", Value::Object(headers)), ("body", r.body.into())]).to_string();
    let answer = text(unsafe { host::http_fetch(request.as_ptr(), request.len() as u32) })?;
    let answer = Value::parse(&answer).ok_or(Error::Internal)?;
    Ok(HttpResponse {
        status: answer.number("status") as u32,
        headers: answer.get("headers").cloned().unwrap_or(Value::Null),
        body: answer.text("body").to_string(),
        body_base64: answer.text("body_base64").to_string(),
    })
}

fn count(n: i32) -> Result<u32, Error> {
    use Error::*;
    const NUMBERED: [Error; 11] = [Invalid, NotFound, NotGranted, Busy, TooLarge, Timeout, Quota, Upstream, Unsupported, Internal, NotDuringInit];
    if n >= 0 {
        return Ok(n as u32);
    }
    Err(NUMBERED.get(-(n + 1) as usize).copied().unwrap_or(Internal))
}

fn yes(n: i32) -> Result<bool, Error> {
    count(n).map(|n| n == 1)
}

fn result(n: i32) -> Result<Vec<u8>, Error> {
    let n = count(n)?;
    let mut value = vec![0; n as usize];
    unsafe { host::result_read(value.as_mut_ptr(), 0, n) };
    Ok(value)
}

fn text(n: i32) -> Result<String, Error> {
    String::from_utf8(result(n)?).map_err(|_| Error::Invalid)
}

fn found(value: Result<String, Error>) -> Result<Option<String>, Error> {
    match value {
        Err(Error::NotFound) => Ok(None),
        other => other.map(Some),
    }
}

/// A JSON value. An object's members are in their order.
#[derive(Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

/// An object of some members.
pub fn object(members: &[(&str, Value)]) -> Value {
    Value::Object(members.iter().map(|(n, v)| (n.to_string(), v.clone())).collect())
}

impl Value {
    /// Reads JSON, up to 500 deep; None where it is none.
    pub fn parse(text: &str) -> Option<Value> {
        let mut r = Reader { s: text, at: 0 };
        let v = r.value(0)?;
        r.space();
        if r.at == text.len() { Some(v) } else { None }
    }

    /// A member of an object; None where there is none, or no object.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Object(members) => members.iter().find(|(n, _)| n == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// A member that is a string, or "".
    pub fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Some(Value::Text(s)) => s,
            _ => "",
        }
    }

    /// A member that is a number, or 0.
    pub fn number(&self, name: &str) -> f64 {
        match self.get(name) {
            Some(Value::Number(n)) => *n,
            _ => 0.0,
        }
    }

    fn write(&self, out: &mut String) {
        match self {
            Value::Null => out.push_str("null"),
            Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Value::Number(n) if n.fract() == 0.0 && n.abs() < 9e15 => out.push_str(&(*n as i64).to_string()),
            Value::Number(n) if n.is_finite() => out.push_str(&n.to_string()),
            Value::Number(_) => out.push_str("null"),
            Value::Text(s) => quote(s, out),
            Value::List(list) => {
                out.push('[');
                for (i, v) in list.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    v.write(out);
                }
                out.push(']');
            }
            Value::Object(members) => {
                out.push('{');
                for (i, (name, v)) in members.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    quote(name, out);
                    out.push(':');
                    v.write(out);
                }
                out.push('}');
            }
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut out = String::new();
        self.write(&mut out);
        f.write_str(&out)
    }
}

impl From<&str> for Value {
    fn from(s: &str) -> Value {
        Value::Text(s.to_string())
    }
}

impl From<String> for Value {
    fn from(s: String) -> Value {
        Value::Text(s)
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Value {
        Value::Bool(b)
    }
}

impl From<f64> for Value {
    fn from(n: f64) -> Value {
        Value::Number(n)
    }
}

fn quote(s: &str, out: &mut String) {
    out.push('"');
    for c in s.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

struct Reader<'a> {
    s: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> u8 {
        self.s.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\t' | b'\r') {
            self.at += 1;
        }
    }

    fn take(&mut self, c: u8) -> bool {
        self.space();
        let there = self.peek() == c;
        self.at += usize::from(there);
        there
    }

    fn value(&mut self, depth: u32) -> Option<Value> {
        if depth > 500 {
            return None;
        }
        self.space();
        match self.peek() {
            b'"' => self.string().map(Value::Text),
            b'{' => {
                self.at += 1;
                let mut members = Vec::new();
                if self.take(b'}') {
                    return Some(Value::Object(members));
                }
                loop {
                    self.space();
                    let name = self.string()?;
                    if !self.take(b':') {
                        return None;
                    }
                    members.push((name, self.value(depth + 1)?));
                    if self.take(b'}') {
                        return Some(Value::Object(members));
                    }
                    if !self.take(b',') {
                        return None;
                    }
                }
            }
            b'[' => {
                self.at += 1;
                let mut list = Vec::new();
                if self.take(b']') {
                    return Some(Value::List(list));
                }
                loop {
                    list.push(self.value(depth + 1)?);
                    if self.take(b']') {
                        return Some(Value::List(list));
                    }
                    if !self.take(b',') {
                        return None;
                    }
                }
            }
            _ => {
                let from = self.at;
                while matches!(self.peek(), b'a'..=b'z' | b'0'..=b'9' | b'-' | b'+' | b'.' | b'E') {
                    self.at += 1;
                }
                match &self.s[from..self.at] {
                    "null" => Some(Value::Null),
                    "true" => Some(Value::Bool(true)),
                    "false" => Some(Value::Bool(false)),
                    number if number.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => number.parse().ok().map(Value::Number),
                    _ => None,
                }
            }
        }
    }

    /// Half a character, which JSON can say and UTF-8 cannot, is U+FFFD.
    fn string(&mut self) -> Option<String> {
        if self.peek() != b'"' {
            return None;
        }
        self.at += 1;
        let mut out = String::new();
        loop {
            let from = self.at;
            while !matches!(self.peek(), b'"' | b'\\' | 0) {
                self.at += 1;
            }
            out.push_str(&self.s[from..self.at]);
            let end = self.peek();
            self.at += 1;
            if end == b'"' {
                return Some(out);
            }
            if end == 0 {
                return None;
            }
            let escape = self.peek();
            self.at += 1;
            out.push(match escape {
                b'"' | b'\\' | b'/' => escape as char,
                b'n' => '\n',
                b't' => '\t',
                b'r' => '\r',
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'u' => self.character()?,
                _ => return None,
            });
        }
    }

    fn unit(&mut self) -> Option<u32> {
        let unit = u32::from_str_radix(self.s.get(self.at..self.at + 4)?, 16).ok()?;
        self.at += 4;
        Some(unit)
    }

    fn character(&mut self) -> Option<char> {
        let first = self.unit()?;
        if !(0xd800..0xdc00).contains(&first) || !self.s[self.at..].starts_with("\\u") {
            return Some(char::from_u32(first).unwrap_or('\u{fffd}'));
        }
        let before = self.at;
        self.at += 2;
        let second = self.unit()?;
        if (0xdc00..0xe000).contains(&second) {
            return char::from_u32(0x10000 + ((first - 0xd800) << 10) + second - 0xdc00);
        }
        self.at = before;
        Some('\u{fffd}')
    }
}
