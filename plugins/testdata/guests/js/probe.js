// Calls every function of the engine and accepts with what came of it as claims. A
// test holds that against what the others say: what is nothing is "none", and trouble
// its number.
const numbers = ["", "invalid", "not_found", "not_granted", "busy", "too_large", "timeout", "quota", "upstream", "unsupported", "internal"];

async function verify(request) {
  const seen = {}, code = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
  const note = (name, ask) => {
    let value;
    try {
      value = ask();
    } catch (e) {
      seen[name] = e.code === undefined ? String(e) : String(-numbers.indexOf(e.code));
      return;
    }
    seen[name] = value === undefined ? "none" : typeof value === "boolean" ? String(+value) : String(value);
  };
  const hex = (bytes) => Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
  note("config", () => host.config("colour"));
  note("no config", () => host.config("none"));
  note("secret", () => host.secret("PEPPER").length);
  note("secret not granted", () => host.secret("OTHER"));
  note("hash", () => hex(host.hash("sha256", "abc")));
  note("hmac", () => hex(host.hmac("sha256", new Uint8Array([0, 74, 101, 102, 101]).subarray(1), "what do ya want for nothing?")));
  note("secret_hmac", () => host.secretHMAC("PEPPER", "sha384", new ArrayBuffer(3)).length);
  note("signature", () => host.verifySignature("ed25519", "red", "", ""));
  note("password", () => host.verifyPassword("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "password"));
  note("password_hash", () => host.hashPassword("x").startsWith("$argon2id$"));
  note("totp", () => host.verifyTOTP(code, "287082"));
  note("totp again", () => host.verifyTOTP(code, "287082"));
  note("get nothing", () => host.kv.get("ns", "k"));
  note("put", () => host.kv.put("ns", "k", "4", 60));
  note("incr", () => host.kv.incr("ns", "k", 38, 60));
  note("swap other", () => host.kv.swap("ns", "k", "41", "x", 60));
  note("swap", () => host.kv.swap("ns", "k", "42", "y", 60));
  note("get", () => host.kv.get("ns", "k"));
  note("put elsewhere", () => host.kv.put("elsewhere", "k", "x"));
  note("fetch", () => host.fetch({ url: "https://127.0.0.1/" }).status);
  note("equal", () => host.equal("a", "a"));
  note("not equal", () => host.equal("a", "b"));
  note("random", () => host.random(8).length);
  note("now", () => Date.now());
  note("neither text nor bytes", () => host.config(7));
  console.log("a line", { of: ["three"] }, 3);
  await null;
  if (Math.random() === Math.random()) host.fail("the same twice");
  return { decision: "accept", subject: "probe", claims: seen };
}
