// Calls every function of the glue and accepts with what came of it as claims. A test
// holds that against what the others say: what is nothing is "none", and trouble its
// number.
import * as dw from "./doorward";

export function doorward_v1_verify(n: i32): i32 {
  return verify(dw.read(n)).write();
}

function text(t: string | null): string { return t === null ? "none" : t; }
function yes(b: bool): string { return b ? "1" : "0"; }
function hex(b: ArrayBuffer): string {
  const bytes = Uint8Array.wrap(b);
  let out = "";
  for (let i = 0; i < bytes.length; i++) out += (bytes[i] < 16 ? "0" : "") + bytes[i].toString(16);
  return out;
}

function verify(r: dw.Request): dw.Verdict {
  const seen = new dw.Members(), code = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
  const pepper = dw.secret("PEPPER");
  seen.text("config", text(dw.config("colour")));
  seen.text("no config", text(dw.config("none")));
  seen.text("secret", pepper === null ? "none" : pepper.length.toString());
  seen.text("hash", hex(dw.hash(dw.Digest.SHA256, dw.utf8("abc"))));
  seen.text("hmac", hex(dw.hmac(dw.Digest.SHA256, dw.utf8("Jefe"), dw.utf8("what do ya want for nothing?"))));
  seen.text("secret_hmac", dw.secretHMAC("PEPPER", dw.Digest.SHA384, new ArrayBuffer(3)).byteLength.toString());
  seen.text("password", yes(dw.verifyPassword("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "password")));
  seen.text("password_hash", yes(dw.hashPassword("x").startsWith("$argon2id$")));
  seen.text("totp", yes(dw.verifyTOTP(code, "287082")));
  seen.text("totp again", yes(dw.verifyTOTP(code, "287082")));
  seen.text("get nothing", text(dw.kvGet("ns", "k")));
  dw.kvPut("ns", "k", "4", 60);
  seen.text("put", "none");
  seen.text("incr", dw.kvIncr("ns", "k", 38, 60).toString());
  seen.text("swap other", yes(dw.kvSwap("ns", "k", "41", "x", 60)));
  seen.text("swap", yes(dw.kvSwap("ns", "k", "42", "y", 60)));
  seen.text("get", text(dw.kvGet("ns", "k")));
  seen.text("fetch", dw.fetch("GET", "https://127.0.0.1/", "", new dw.Members().text("accept", "text/plain")).failed.toString());
  seen.text("equal", yes(dw.equal(dw.utf8("a"), dw.utf8("a"))));
  seen.text("not equal", yes(dw.equal(dw.utf8("a"), dw.utf8("b"))));
  seen.text("random", dw.random(8).byteLength.toString());
  seen.text("now", dw.now().toString());
  dw.log("a line {\"of\":[\"three\"]} 3");
  if (r.nowMS != 59000 || r.attempt != 1 || r.method.length == 0) dw.fail("the request is not what it was");
  if (r.credential.text("username") == "ends") dw.verifySignature(dw.Signature.Ed25519, dw.utf8("red"), dw.utf8("x"), dw.utf8("x"));
  return dw.accept("probe", [], seen);
}
