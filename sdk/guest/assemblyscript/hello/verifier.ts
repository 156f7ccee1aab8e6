// The verifier of this directory in AssemblyScript: the password's hash is in the
// configuration under the user's name, a one-time code's secret under totp:NAME,
// a claim under role:NAME.
import { Request, accept, config, passwordVerify, quote, read, totpVerify, write } from "./doorward";

const REJECT = '{"decision":"reject","code":"bad_credentials"}';

export function doorward_v1_verify(n: i32): i32 {
  write(verify(read(n)));
  return 0;
}

function verify(r: Request): string {
  if (r.answersAChallenge()) {
    const who = r.text("state", "user");
    const known: string = who === null ? "" : who;
    const secret = config("totp:" + known);
    if (secret === null || !totpVerify(secret, r.credential("code"))) return REJECT;
    return finish(known, '["pwd","otp"]');
  }
  const user = r.credential("username");
  const stored = config(user);
  const hash: string = stored === null ? "" : stored; // nobody by that name: the check takes as long, and says no
  if (!passwordVerify(hash, r.credential("password"))) return REJECT;
  if (config("totp:" + user) === null) return finish(user, '["pwd"]');
  return '{"decision":"challenge","type":"otp","public":{"digits":6},"private":{"user":' + quote(user) + '},"ttl":300,"max_attempts":5}';
}

function finish(user: string, amr: string): string {
  const role = config("role:" + user);
  return accept(user, role === null ? "" : ',"claims":{"role":' + quote(role) + "}", amr);
}
