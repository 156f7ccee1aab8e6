//! The contract doorward_v1 (package sdk/abi) for Rust, without crates. The host
//! wrote the request, so it is valid JSON; its strings are the user's.
mod host {
    #[link(wasm_import_module = "doorward_v1")]
    extern "C" {
        pub fn input_read(dst: *mut u8, off: u32, n: u32) -> i32;
        pub fn output_write(src: *const u8, n: u32) -> i32;
        pub fn result_read(dst: *mut u8, off: u32, n: u32) -> i32;
        pub fn fail(code: i32, src: *const u8, n: u32);
        pub fn config_get(key: *const u8, n: u32) -> i32;
        pub fn password_verify(h: *const u8, n: u32, p: *const u8, m: u32) -> i32;
        pub fn totp_verify(s: *const u8, n: u32, c: *const u8, m: u32) -> i32;
    }
}

pub const REJECT: &str = r#"{"decision":"reject","code":"bad_credentials"}"#;

pub struct Request(String);

impl Request {
    /// The string at a path of members; None where there is none.
    pub fn text(&self, path: &[&str]) -> Option<String> {
        let mut at = self.0.as_str();
        for key in path {
            at = member(at, key)?;
        }
        if at.starts_with('"') { Some(string(at).0) } else { None }
    }

    pub fn answers_a_challenge(&self) -> bool {
        member(&self.0, "state").is_some()
    }

    /// A field of the credential, or "".
    pub fn credential(&self, field: &str) -> String {
        self.text(&["credential", field]).unwrap_or_default()
    }
}

/// Reads the request, has it decided and writes the answer.
pub fn answer(n: u32, verify: fn(&Request) -> String) -> i32 {
    let mut input = vec![0; n as usize];
    if unsafe { host::input_read(input.as_mut_ptr(), 0, n) } != n as i32 {
        stop("the request cannot be read");
    }
    let out = match String::from_utf8(input) {
        Ok(s) => verify(&Request(s)),
        Err(_) => stop("the request is no UTF-8"),
    };
    unsafe { host::output_write(out.as_ptr(), out.len() as u32) };
    0
}

fn stop(why: &str) -> ! {
    unsafe { host::fail(1, why.as_ptr(), why.len() as u32) };
    std::process::abort()
}

pub fn config(key: &str) -> Option<String> {
    let n = unsafe { host::config_get(key.as_ptr(), key.len() as u32) };
    if n < 0 {
        return None;
    }
    let mut value = vec![0; n as usize];
    unsafe { host::result_read(value.as_mut_ptr(), 0, n as u32) };
    String::from_utf8(value).ok()
}

pub fn password_verify(hash: &str, password: &str) -> bool {
    unsafe { host::password_verify(hash.as_ptr(), hash.len() as u32, password.as_ptr(), password.len() as u32) == 1 }
}

pub fn totp_verify(secret: &str, code: &str) -> bool {
    unsafe { host::totp_verify(secret.as_ptr(), secret.len() as u32, code.as_ptr(), code.len() as u32) == 1 }
}

pub fn accept(user: &str, claims: Option<&str>, amr: &[&str]) -> String {
    let claims = claims.map(|c| format!(r#","claims":{}"#, c)).unwrap_or_default();
    let amr: Vec<String> = amr.iter().map(|m| quote(m)).collect();
    format!(r#"{{"decision":"accept","subject":{}{},"amr":[{}]}}"#, quote(user), claims, amr.join(","))
}

pub fn quote(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => out += &format!("\\u{:04x}", c as u32),
            c => out.push(c),
        }
    }
    out + "\""
}

/// The value of a member of the object that s begins with.
fn member<'a>(s: &'a str, key: &str) -> Option<&'a str> {
    let mut at = s.trim_start().strip_prefix('{')?.trim_start();
    while at.starts_with('"') {
        let (name, rest) = string(at);
        let value = rest.trim_start().strip_prefix(':')?.trim_start();
        if name == key {
            return Some(value);
        }
        at = skip(value).trim_start().strip_prefix(',')?.trim_start();
    }
    None
}

/// What comes after the value that s begins with.
fn skip(s: &str) -> &str {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (i, b) in s.bytes().enumerate() {
        if quoted {
            if escaped {
                escaped = false;
            } else if b == b'\\' {
                escaped = true;
            } else if b == b'"' {
                quoted = false;
                if depth == 0 {
                    return &s[i + 1..];
                }
            }
            continue;
        }
        match b {
            b'"' => quoted = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return &s[i..],
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return &s[i + 1..];
                }
            }
            b',' if depth == 0 => return &s[i..],
            _ => {}
        }
    }
    ""
}

/// The string that s begins with, and what comes after it.
fn string(s: &str) -> (String, &str) {
    let end = skip(s);
    let inside = &s[1..s.len() - end.len() - 1];
    let (mut units, mut chars) = (Vec::new(), inside.chars());
    let mut room = [0; 2];
    while let Some(c) = chars.next() {
        if c != '\\' {
            units.extend_from_slice(c.encode_utf16(&mut room));
            continue;
        }
        let c = match chars.next() {
            Some('n') => '\n',
            Some('t') => '\t',
            Some('r') => '\r',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('u') => {
                let hex: String = chars.by_ref().take(4).collect();
                units.push(u16::from_str_radix(&hex, 16).unwrap_or(0xfffd));
                continue;
            }
            Some(c) => c,
            None => break,
        };
        units.extend_from_slice(c.encode_utf16(&mut room));
    }
    (String::from_utf16_lossy(&units), end)
}
