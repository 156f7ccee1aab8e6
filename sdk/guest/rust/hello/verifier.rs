//! The verifier of this directory in Rust: the password's hash is in the
//! configuration under the user's name, a one-time code's secret under totp:NAME,
//! a claim under role:NAME. No crates: the module doorward is the glue.
mod doorward;
use doorward::{accept, config, password_verify, totp_verify, Request, REJECT};

fn verify(r: &Request) -> String {
    if r.answers_a_challenge() {
        let user = r.text(&["state", "user"]).unwrap_or_default();
        return match config(&format!("totp:{}", user)) {
            Some(secret) if totp_verify(&secret, &r.credential("code")) => finish(&user, &["pwd", "otp"]),
            _ => REJECT.to_string(),
        };
    }
    let user = r.credential("username");
    // Nobody by that name: the check takes as long, and says no.
    let hash = config(&user).unwrap_or_default();
    if !password_verify(&hash, &r.credential("password")) {
        return REJECT.to_string();
    }
    if config(&format!("totp:{}", user)).is_none() {
        return finish(&user, &["pwd"]);
    }
    format!(
        r#"{{"decision":"challenge","type":"otp","public":{{"digits":6}},"private":{{"user":{}}},"ttl":300,"max_attempts":5}}"#,
        doorward::quote(&user)
    )
}

fn finish(user: &str, amr: &[&str]) -> String {
    let claims = config(&format!("role:{}", user)).map(|role| format!(r#"{{"role":{}}}"#, doorward::quote(&role)));
    accept(user, claims.as_deref(), amr)
}

#[no_mangle]
pub extern "C" fn doorward_v1_verify(n: u32) -> i32 {
    doorward::answer(n, verify)
}
