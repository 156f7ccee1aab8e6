//! Calls every function of the glue and accepts with what came of it as claims. A test
//! holds that against what the others say: what is nothing is "none", and trouble its
//! number.
mod doorward;
use doorward::*;

fn note(v: Verdict, name: &str, value: Result<String, Error>) -> Verdict {
    v.claim(name, value.unwrap_or_else(|e| format!("{}", -1 - e as i32)))
}

fn hex(bytes: Vec<u8>) -> String {
    bytes.iter().map(|b| format!("{:02x}", b)).collect()
}

fn verify(r: &Request) -> Result<Verdict, Error> {
    let code = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
    let yes = |b: bool| u8::from(b).to_string();
    let some = |t: Option<String>| t.unwrap_or_else(|| "none".to_string());
    let nothing = |_: ()| "none".to_string();
    let v = Verdict::accept("probe", &[]);
    let v = note(v, "config", config("colour").map(some));
    let v = note(v, "no config", config("none").map(some));
    let v = note(v, "secret", secret("PEPPER").map(|s| some(s).len().to_string()));
    let v = note(v, "secret not granted", secret("OTHER").map(some));
    let v = note(v, "hash", hash(Digest::Sha256, b"abc").map(hex));
    let v = note(v, "hmac", hmac(Digest::Sha256, b"Jefe", b"what do ya want for nothing?").map(hex));
    let v = note(v, "secret_hmac", secret_hmac("PEPPER", Digest::Sha384, &[0, 0, 0]).map(|m| m.len().to_string()));
    let v = note(v, "signature", verify_signature(Signature::Ed25519, b"red", b"", b"").map(yes));
    let v = note(v, "password", verify_password("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "password").map(yes));
    let v = note(v, "password_hash", hash_password("x").map(|h| yes(h.starts_with("$argon2id$"))));
    let v = note(v, "totp", verify_totp(code, "287082").map(yes));
    let v = note(v, "totp again", verify_totp(code, "287082").map(yes));
    let v = note(v, "get nothing", kv_get("ns", "k").map(some));
    let v = note(v, "put", kv_put("ns", "k", "4", 60).map(nothing));
    let v = note(v, "incr", kv_incr("ns", "k", 38, 60).map(|n| n.to_string()));
    let v = note(v, "swap other", kv_swap("ns", "k", "41", "x", 60).map(yes));
    let v = note(v, "swap", kv_swap("ns", "k", "42", "y", 60).map(yes));
    let v = note(v, "get", kv_get("ns", "k").map(some));
    let v = note(v, "put elsewhere", kv_put("elsewhere", "k", "x", 0).map(nothing));
    let request = HttpRequest { method: "GET", url: "https://127.0.0.1/", headers: &[("accept", "text/plain")], body: "" };
    let v = note(v, "fetch", fetch(&request).map(|a| a.status.to_string()));
    let v = note(v, "equal", Ok(yes(equal(b"a", b"a"))));
    let v = note(v, "not equal", Ok(yes(equal(b"a", b"b"))));
    let mut bytes = [0; 8];
    random(&mut bytes);
    let v = note(v, "random", Ok(bytes.len().to_string()));
    let v = note(v, "now", Ok(now_ms().to_string()));
    log("a line {\"of\":[\"three\"]} 3");
    if r.now_ms != 59_000 || r.attempt != 1 || r.method.is_empty() {
        fail("the request is not what it was");
    }
    Ok(v)
}

doorward::verifier!(verify);
