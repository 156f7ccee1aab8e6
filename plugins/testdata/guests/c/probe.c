// Calls every function of the header and accepts with what came of it as claims. A
// test holds that against what the others say: what is nothing is "none", and trouble
// its number.
#include "doorward.h"

static dw_pair seen[40];
static uint32_t noted;

static void text(const char *name, dw_text t) { seen[noted++] = (dw_pair){name, t.at ? t : DW_TEXT("none")}; }

static void number(const char *name, int64_t v) {
  char *to = dw_keep(20), *end = to + 20, *at = end;
  int minus = v < 0;
  if (minus) v = -v;
  do *--at = '0' + v % 10;
  while (v /= 10);
  if (minus) *--at = '-';
  text(name, (dw_text){at, end - at});
}

static void hex(const char *name, dw_text t) {
  char *to = dw_keep(2 * t.n);
  for (uint32_t i = 0; i < t.n; i++) to[2 * i] = "0123456789abcdef"[(t.at[i] >> 4) & 15], to[2 * i + 1] = "0123456789abcdef"[t.at[i] & 15];
  text(name, (dw_text){to, 2 * t.n});
}

#define B(literal) literal, sizeof(literal) - 1

DW_EXPORT("doorward_v1_verify") int32_t verify(uint32_t n) {
  dw_request r = dw_read(n);
  dw_text code = DW_TEXT("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
  char random[8];
  noted = 0;
  text("config", dw_config(DW_TEXT("colour")));
  text("no config", dw_config(DW_TEXT("none")));
  number("secret", dw_secret(DW_TEXT("PEPPER")).n);
  number("secret not granted", dw_secret_get(B("OTHER")));
  hex("hash", dw_result(dw_hash(DW_SHA256, B("abc"))));
  hex("hmac", dw_result(dw_hmac(DW_SHA256, B("Jefe"), B("what do ya want for nothing?"))));
  number("secret_hmac", dw_secret_hmac(B("PEPPER"), DW_SHA384, B("\0\0\0")));
  number("signature", dw_sig_verify(DW_ED25519, B("red"), B(""), B("")));
  number("password", dw_verify_password(DW_TEXT("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="), DW_TEXT("password")));
  text("password_hash", memcmp(dw_result(dw_password_hash(B("x"))).at, "$argon2id$", 10) ? DW_TEXT("0") : DW_TEXT("1"));
  number("totp", dw_verify_totp(code, DW_TEXT("287082")));
  number("totp again", dw_verify_totp(code, DW_TEXT("287082")));
  text("get nothing", dw_result(dw_kv_get(B("ns"), B("k"))));
  text("put", dw_kv_put(B("ns"), B("k"), B("4"), 60) ? DW_TEXT("failed") : (dw_text){NULL, 0});
  number("incr", dw_kv_incr(B("ns"), B("k"), 38, 60));
  number("swap other", dw_kv_cas(B("ns"), B("k"), B("41"), B("x"), 60));
  number("swap", dw_kv_cas(B("ns"), B("k"), B("42"), B("y"), 60));
  text("get", dw_result(dw_kv_get(B("ns"), B("k"))));
  number("put elsewhere", dw_kv_put(B("elsewhere"), B("k"), B("x"), 0));
  number("fetch", dw_http_fetch(B("{\"url\":\"https://127.0.0.1/\"}")));
  number("equal", dw_ct_equal(B("a"), B("a")));
  number("not equal", dw_ct_equal(B("a"), B("b")));
  number("random", dw_random(random, sizeof random) ? -1 : 8);
  number("now", dw_now_ms());
  dw_note("a line {\"of\":[\"three\"]} 3");
  if (r.now_ms != 59000 || r.attempt != 1 || !r.method.at) dw_stop("the request is not what it was");
  return dw_accept(DW_TEXT("probe"), "", seen, noted);
}
