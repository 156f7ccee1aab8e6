// A verifier in AssemblyScript: the password's hash is in the configuration under the
// user's name, a one-time code's secret under totp:NAME, a claim under role:NAME.
import { Members, Request, Verdict, accept, challenge, config, read, reject, verifyPassword, verifyTOTP } from "./doorward";

export function doorward_v1_verify(n: i32): i32 {
  return verify(read(n)).write();
}

function verify(r: Request): Verdict {
  if (r.answersAChallenge) return second(r.state.text("user"), r.credential.text("code"));
  const user = r.credential.text("username");
  const stored = config(user);
  const hash: string = stored === null ? "" : stored; // nobody by that name: the check takes as long, and says no
  if (!verifyPassword(hash, r.credential.text("password"))) return reject();
  if (config("totp:" + user) === null) return finish(user, ["pwd"]);
  return challenge("otp", new Members().number("digits", 6), new Members().text("user", user));
}

function second(user: string, code: string): Verdict {
  const secret = config("totp:" + user);
  if (secret === null || secret.length == 0 || !verifyTOTP(secret, code)) return reject();
  return finish(user, ["pwd", "otp"]);
}

function finish(user: string, amr: string[]): Verdict {
  const role = config("role:" + user);
  return accept(user, amr, role === null ? null : new Members().text("role", role));
}
