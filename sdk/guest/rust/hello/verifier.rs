//! A verifier in Rust: the password's hash is in the configuration under the user's
//! name, a one-time code's secret under totp:NAME, a claim under role:NAME.
mod doorward;
use doorward::{config, object, verify_password, verify_totp, Error, Request, Verdict};

fn verify(r: &Request) -> Result<Verdict, Error> {
    if let Some(state) = &r.state {
        return second(state.text("user"), r.credential.text("code"));
    }
    let user = r.credential.text("username");
    let hash = config(user)?.unwrap_or_default(); // nobody by that name: the check takes as long, and says no
    if !verify_password(&hash, r.credential.text("password"))? {
        return Ok(Verdict::reject());
    }
    if config(&format!("totp:{}", user))?.is_none() {
        return accept(user, &["pwd"]);
    }
    Ok(Verdict::challenge("otp", object(&[("digits", 6.0.into())]), object(&[("user", user.into())])))
}

fn second(user: &str, code: &str) -> Result<Verdict, Error> {
    let secret = config(&format!("totp:{}", user))?.unwrap_or_default();
    if secret.is_empty() || !verify_totp(&secret, code)? {
        return Ok(Verdict::reject());
    }
    accept(user, &["pwd", "otp"])
}

fn accept(user: &str, amr: &[&str]) -> Result<Verdict, Error> {
    let v = Verdict::accept(user, amr);
    Ok(match config(&format!("role:{}", user))? {
        Some(role) => v.claim("role", role),
        None => v,
    })
}

doorward::verifier!(verify);
