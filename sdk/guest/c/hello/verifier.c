// A verifier in C: the password's hash is in the configuration under the user's
// name, a one-time code's secret under totp:NAME, a claim under role:NAME.
#include "doorward.h"

static int32_t accept(dw_text user, const char *amr) {
  dw_pair role = {"role", dw_config(dw_join("role:", user))};
  return dw_accept(user, amr, &role, role.value.at != NULL);
}

static int32_t second(dw_text user, dw_text code) {
  dw_text secret = dw_config(dw_join("totp:", user));
  if (!secret.n || !dw_verify_totp(secret, code)) return dw_reject();
  return accept(user, "pwd otp");
}

DW_EXPORT("doorward_v1_verify") int32_t verify(uint32_t n) {
  dw_request r = dw_read(n);
  if (r.state) return second(dw_get(r.state, "user"), dw_get(r.credential, "code"));
  dw_text user = dw_get(r.credential, "username");
  dw_text hash = dw_config(user); // nobody by that name: the check takes as long, and says no
  if (!dw_verify_password(hash, dw_get(r.credential, "password"))) return dw_reject();
  if (!dw_config(dw_join("totp:", user)).at) return accept(user, "pwd");
  dw_pair state = {"user", user};
  return dw_challenge("otp", "{\"digits\":6}", &state, 1, 300, 5);
}
