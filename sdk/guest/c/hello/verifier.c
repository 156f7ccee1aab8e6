// A verifier in C: the password's hash is in the configuration under the user's
// name, a one-time code's secret under totp:NAME, a claim under role:NAME.
#include "doorward.h"

static char input[DW_MAX + 1], name[DW_MAX], password[DW_MAX], hash[4096], secret[4096], role[4096];

static dw_text setting(const char *kind, dw_text user, char *to) {
  static char key[DW_MAX + 8];
  uint32_t n = strlen(kind);
  memcpy(key, kind, n);
  memcpy(key + n, user.at, user.n);
  return dw_config((dw_text){key, n + user.n}, to, 4096);
}

static int32_t reject(void) {
  dw_put("{\"decision\":\"reject\",\"code\":\"bad_credentials\"}");
  return 0;
}

static int32_t accept(dw_text user, const char *amr) {
  dw_text r = setting("role:", user, role);
  dw_put("{\"decision\":\"accept\",\"subject\":");
  dw_put_string(user);
  if (r.at) {
    dw_put(",\"claims\":{\"role\":");
    dw_put_string(r);
    dw_put("}");
  }
  dw_put(",\"amr\":");
  dw_put(amr);
  dw_put("}");
  return 0;
}

DW_EXPORT("doorward_v1_verify") int32_t verify(uint32_t n) {
  if (n > DW_MAX || dw_input_read(input, 0, n) != (int32_t)n) dw_fail(1, "the request cannot be read", 26);
  input[n] = 0;
  const char *credential = dw_member(input, "credential"), *state = dw_member(input, "state");
  if (state) {
    dw_text user = dw_string(dw_member(state, "user"), name), code = dw_string(dw_member(credential, "code"), password);
    dw_text s = setting("totp:", user, secret);
    if (!s.at || dw_totp_verify(s.at, s.n, code.at, code.n) != 1) return reject();
    return accept(user, "[\"pwd\",\"otp\"]");
  }
  dw_text user = dw_string(dw_member(credential, "username"), name), given = dw_string(dw_member(credential, "password"), password);
  dw_text h = setting("", user, hash); // nobody by that name: the check takes as long, and says no
  if (dw_password_verify(h.at ? h.at : hash, h.n, given.at, given.n) != 1) return reject();
  if (!setting("totp:", user, secret).at) return accept(user, "[\"pwd\"]");
  dw_put("{\"decision\":\"challenge\",\"type\":\"otp\",\"public\":{\"digits\":6},\"private\":{\"user\":");
  dw_put_string(user);
  dw_put("},\"ttl\":300,\"max_attempts\":5}");
  return 0;
}
