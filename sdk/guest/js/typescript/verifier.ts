// A verifier in TypeScript: the password's hash is in the configuration under the
// user's name, a one-time code's secret under totp:NAME, a claim under role:NAME.

function verify(request: doorward.Request): doorward.Verdict {
  const { state } = request, credential = request.credential ?? {};
  if (state !== undefined) return second(text(state?.user), text(credential.code));
  const user = text(credential.username);
  const hash = host.config(user) ?? ""; // nobody by that name: the check takes as long, and says no
  if (!host.verifyPassword(hash, text(credential.password))) return reject();
  if (host.config("totp:" + user) === undefined) return accept(user, ["pwd"]);
  return { decision: "challenge", type: "otp", public: { digits: 6 }, private: { user }, ttl: 300, max_attempts: 5 };
}

function second(user: string, code: string): doorward.Verdict {
  const secret = host.config("totp:" + user);
  if (!secret || !host.verifyTOTP(secret, code)) return reject();
  return accept(user, ["pwd", "otp"]);
}

function accept(subject: string, amr: string[]): doorward.Verdict {
  const role = host.config("role:" + subject);
  return { decision: "accept", subject, claims: role === undefined ? undefined : { role }, amr };
}

function reject(): doorward.Verdict {
  return { decision: "reject", code: "bad_credentials" };
}

// A credential is what was typed, and may be of any type.
function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}
