// The contract doorward_v1 (package sdk/abi) for C: the host's functions, the
// request, the verdicts, and as much JSON as a verifier needs. One header, no
// allocation, one file of source. The host wrote the request, so it is valid JSON;
// its strings are the user's.
//
//   DW_EXPORT("doorward_v1_verify") int32_t verify(uint32_t n) {
//     dw_request r = dw_read(n);
//     dw_text user = dw_get(r.credential, "username");
//     if (!dw_verify_password(dw_config(user), dw_get(r.credential, "password"))) return dw_reject();
//     return dw_accept(user, "pwd", NULL, 0);
//   }
//
// What is not found is a dw_text whose at is NULL. Other trouble ends the login
// without a verdict: the user is asked to try again later, and the tenant's log says
// why.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define DW_IMPORT(name) __attribute__((import_module("doorward_v1"), import_name(name)))
// Always there.
DW_IMPORT("input_read") int32_t dw_input_read(void *dst, uint32_t off, uint32_t n);
DW_IMPORT("output_write") int32_t dw_output_write(const void *src, uint32_t n);
DW_IMPORT("result_read") int32_t dw_result_read(void *dst, uint32_t off, uint32_t n);
DW_IMPORT("fail") void dw_fail(int32_t code, const void *src, uint32_t n);
DW_IMPORT("log") void dw_log(int32_t level, const void *src, uint32_t n);
DW_IMPORT("random") int32_t dw_random(void *dst, uint32_t n);
DW_IMPORT("now_ms") int64_t dw_now_ms(void);
DW_IMPORT("ct_equal") int32_t dw_ct_equal(const void *a, uint32_t n, const void *b, uint32_t m);
// Granted by the manifest. What gives bytes gives their length; dw_result_read has them.
DW_IMPORT("config_get") int32_t dw_config_get(const void *key, uint32_t n);
DW_IMPORT("secret_get") int32_t dw_secret_get(const void *name, uint32_t n);
DW_IMPORT("secret_hmac") int32_t dw_secret_hmac(const void *name, uint32_t n, int32_t alg, const void *data, uint32_t m);
DW_IMPORT("hash") int32_t dw_hash(int32_t alg, const void *data, uint32_t n);
DW_IMPORT("hmac") int32_t dw_hmac(int32_t alg, const void *key, uint32_t n, const void *data, uint32_t m);
DW_IMPORT("sig_verify") int32_t dw_sig_verify(int32_t alg, const void *key, uint32_t n, const void *message, uint32_t m, const void *signature, uint32_t o);
DW_IMPORT("password_hash") int32_t dw_password_hash(const void *password, uint32_t n);
DW_IMPORT("password_verify") int32_t dw_password_verify(const void *hash, uint32_t n, const void *password, uint32_t m);
DW_IMPORT("totp_verify") int32_t dw_totp_verify(const void *secret, uint32_t n, const void *code, uint32_t m);
DW_IMPORT("kv_get") int32_t dw_kv_get(const void *ns, uint32_t n, const void *key, uint32_t m);
DW_IMPORT("kv_put") int32_t dw_kv_put(const void *ns, uint32_t n, const void *key, uint32_t m, const void *value, uint32_t o, int32_t seconds);
DW_IMPORT("kv_incr") int32_t dw_kv_incr(const void *ns, uint32_t n, const void *key, uint32_t m, int32_t by, int32_t seconds);
DW_IMPORT("kv_cas") int32_t dw_kv_cas(const void *ns, uint32_t n, const void *key, uint32_t m, const void *old, uint32_t o, const void *value, uint32_t p, int32_t seconds);
DW_IMPORT("http_fetch") int32_t dw_http_fetch(const void *request, uint32_t n);

// What they return for trouble, and the algorithms that some take.
enum {
  DW_ERR_INVALID = -1, DW_ERR_NOT_FOUND = -2, DW_ERR_NOT_GRANTED = -3, DW_ERR_BUSY = -4, DW_ERR_TOO_LARGE = -5, DW_ERR_TIMEOUT = -6,
  DW_ERR_QUOTA = -7, DW_ERR_UPSTREAM = -8, DW_ERR_UNSUPPORTED = -9, DW_ERR_INTERNAL = -10, DW_ERR_NOT_DURING_INIT = -11
};
enum { DW_SHA256 = 1, DW_SHA384, DW_SHA512 };
enum { DW_ED25519 = 1, DW_ES256, DW_ES256_DER, DW_RS256, DW_PS256 };

#define DW_EXPORT(name) __attribute__((export_name(name)))
#define DW_MAX 65536

typedef struct { const char *at; uint32_t n; } dw_text; // UTF-8, of n bytes; at is NULL: not there
#define DW_TEXT(literal) ((dw_text){literal, sizeof(literal) - 1})

// dw_stop ends this login without a verdict.
static inline _Noreturn void dw_stop(const char *why) {
  dw_fail(1, why, strlen(why));
  __builtin_trap();
}

// dw_room is what texts of one login are in.
static char dw_room[3 * DW_MAX];
static uint32_t dw_used;

static inline char *dw_keep(uint32_t n) {
  if (n > sizeof dw_room - dw_used) dw_stop("no room for another text in this login");
  dw_used += n;
  return dw_room + dw_used - n;
}

static inline const char *dw_space(const char *p) {
  while (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r') p++;
  return p;
}

// dw_skip is what comes after the value at p.
static inline const char *dw_skip(const char *p) {
  int depth = 0, quoted = 0;
  for (p = dw_space(p); *p; p++) {
    if (quoted) {
      if (*p == '\\' && p[1]) p++;
      else if (*p == '"' && (quoted = 0, !depth)) return p + 1;
    } else if (*p == '"') quoted = 1;
    else if (*p == '{' || *p == '[') depth++;
    else if (*p == '}' || *p == ']') {
      if (!depth) return p;
      if (!--depth) return p + 1;
    } else if (*p == ',' && !depth) return p;
  }
  return p;
}

// dw_member is the value of a member of the object at p, or NULL.
static inline const char *dw_member(const char *p, const char *key) {
  size_t n = strlen(key);
  if (!p || *(p = dw_space(p)) != '{') return NULL;
  for (p = dw_space(p + 1); *p == '"'; p = dw_space(p + 1)) {
    const char *name = p + 1, *end = dw_skip(p);
    p = dw_space(dw_space(end) + 1); // after the colon
    if ((size_t)(end - 1 - name) == n && !memcmp(name, key, n)) return p;
    if (*(p = dw_space(dw_skip(p))) != ',') return NULL;
  }
  return NULL;
}

static inline uint32_t dw_hex(const char *p) {
  uint32_t v = 0;
  for (int i = 0; i < 4; i++) v = v << 4 | (p[i] <= '9' ? p[i] - '0' : (p[i] | 32) - 'a' + 10);
  return v;
}

// dw_string is the string at p; what is no string is not there.
static inline dw_text dw_string(const char *p) {
  if (!p || *p != '"') return (dw_text){NULL, 0};
  char *to = dw_keep(dw_skip(p) - p); // no escape is shorter than what it stands for
  char *w = to;
  for (p++; *p && *p != '"'; p++) {
    if (*p != '\\') { *w++ = *p; continue; }
    switch (*++p) {
    case 'n': *w++ = '\n'; break;
    case 't': *w++ = '\t'; break;
    case 'r': *w++ = '\r'; break;
    case 'b': *w++ = '\b'; break;
    case 'f': *w++ = '\f'; break;
    case 'u': {
      uint32_t c = dw_hex(p + 1);
      p += 4;
      if (c >= 0xd800 && c < 0xe000) { // half a character; without its other half it is none
        uint32_t low = c < 0xdc00 && p[1] == '\\' && p[2] == 'u' ? dw_hex(p + 3) : 0;
        if (low >= 0xdc00 && low < 0xe000) c = 0x10000 + ((c - 0xd800) << 10) + low - 0xdc00, p += 6;
        else c = 0xfffd;
      }
      if (c < 0x80) *w++ = c;
      else if (c < 0x800) *w++ = 0xc0 | c >> 6, *w++ = 0x80 | (c & 63);
      else if (c < 0x10000) *w++ = 0xe0 | c >> 12, *w++ = 0x80 | (c >> 6 & 63), *w++ = 0x80 | (c & 63);
      else *w++ = 0xf0 | c >> 18, *w++ = 0x80 | (c >> 12 & 63), *w++ = 0x80 | (c >> 6 & 63), *w++ = 0x80 | (c & 63);
      break;
    }
    default: *w++ = *p;
    }
  }
  return (dw_text){to, w - to};
}

static inline dw_text dw_get(const char *object, const char *name) { return dw_string(dw_member(object, name)); }

// dw_number is the whole number at p, 0 where there is none.
static inline int64_t dw_number(const char *p) {
  int64_t v = 0;
  int minus = p && *p == '-';
  for (p = p ? p + minus : ""; *p >= '0' && *p <= '9'; p++) v = v * 10 + *p - '0';
  return minus ? -v : v;
}

// dw_request is what is asked. credential is what the user typed, by field (the
// answer to a challenge: then state is what that had as private); they are read with
// dw_get, dw_member and dw_number.
typedef struct {
  const char *credential, *state; // NULL: not there
  dw_text tenant, method, request_id, ip, user_agent, app;
  int32_t attempt;
  int64_t now_ms;
} dw_request;

static inline dw_request dw_read(uint32_t n) {
  static char input[DW_MAX + 1];
  dw_used = 0;
  if (n > DW_MAX || dw_input_read(input, 0, n) != (int32_t)n) dw_stop("the request cannot be read");
  input[n] = 0;
  const char *client = dw_member(input, "client");
  return (dw_request){
    .credential = dw_member(input, "credential"), .state = dw_member(input, "state"),
    .tenant = dw_get(input, "tenant"), .method = dw_get(input, "method"), .request_id = dw_get(input, "request_id"),
    .ip = dw_get(client, "ip"), .user_agent = dw_get(client, "user_agent"), .app = dw_get(client, "app"),
    .attempt = dw_number(dw_member(input, "attempt")), .now_ms = dw_number(dw_member(input, "now_ms"))};
}

static inline void dw_put(const char *s) { dw_output_write(s, strlen(s)); }

// dw_put_string writes s as a JSON string.
static inline void dw_put_string(dw_text s) {
  dw_put("\"");
  for (uint32_t i = 0; i < s.n; i++) {
    unsigned char c = s.at[i];
    if (c == '"' || c == '\\') {
      dw_output_write("\\", 1);
      dw_output_write(s.at + i, 1);
    } else if (c < 0x20) {
      char u[6] = {'\\', 'u', '0', '0', '0' + (c >> 4), "0123456789abcdef"[c & 15]};
      dw_output_write(u, 6);
    } else dw_output_write(s.at + i, 1);
  }
  dw_put("\"");
}

// dw_pair is a member of an object, a string. One whose value is not there is left out.
typedef struct { const char *name; dw_text value; } dw_pair;

static inline void dw_put_object(const dw_pair *pairs, uint32_t n) {
  const char *before = "{";
  for (uint32_t i = 0; i < n; i++) {
    if (!pairs[i].value.at) continue;
    dw_put(before);
    dw_put_string((dw_text){pairs[i].name, strlen(pairs[i].name)});
    dw_put(":");
    dw_put_string(pairs[i].value);
    before = ",";
  }
  dw_put(*before == '{' ? "{}" : "}");
}

static inline void dw_put_number(uint32_t v) {
  char digits[10];
  int at = 10;
  do digits[--at] = '0' + v % 10;
  while (v /= 10);
  dw_output_write(digits + at, 10 - at);
}

// What verify returns: it has written the verdict.

// dw_accept signs subject in. amr is how it was proven (RFC 8176), with blanks
// between: "pwd otp". Claims of other kinds than strings are written with dw_put.
static inline int32_t dw_accept(dw_text subject, const char *amr, const dw_pair *claims, uint32_t n) {
  dw_put("{\"decision\":\"accept\",\"subject\":");
  dw_put_string(subject);
  if (n) {
    dw_put(",\"claims\":");
    dw_put_object(claims, n);
  }
  dw_put(",\"amr\":[");
  for (const char *before = ""; *amr; before = ",") {
    uint32_t length = strcspn(amr, " ");
    dw_put(before);
    dw_put_string((dw_text){amr, length});
    amr += length + strspn(amr + length, " ");
  }
  dw_put("]}");
  return 0;
}

// dw_reject_with refuses the credential: code is bad_credentials, locked, expired or
// denied, detail is for the tenant's log. The user sees one neutral sentence.
static inline int32_t dw_reject_with(const char *code, const char *detail) {
  const dw_pair pairs[] = {{"decision", DW_TEXT("reject")}, {"code", {code, strlen(code)}}, {"detail", {detail, detail ? strlen(detail) : 0}}};
  dw_put_object(pairs, 3);
  return 0;
}

static inline int32_t dw_reject(void) { return dw_reject_with("bad_credentials", NULL); }

// dw_challenge asks for a second step, "otp" or "custom". public is JSON that the
// user's client sees; private comes back as state with the answer, and nobody else
// sees it. seconds and attempts are 300 and 5 when 0.
static inline int32_t dw_challenge(const char *type, const char *public_json, const dw_pair *private_state, uint32_t n, uint32_t seconds, uint32_t attempts) {
  dw_put("{\"decision\":\"challenge\",\"type\":");
  dw_put_string((dw_text){type, strlen(type)});
  dw_put(",\"public\":");
  dw_put(public_json ? public_json : "{}");
  dw_put(",\"private\":");
  dw_put_object(private_state, n);
  dw_put(",\"ttl\":");
  dw_put_number(seconds ? seconds : 300);
  dw_put(",\"max_attempts\":");
  dw_put_number(attempts ? attempts : 5);
  dw_put("}");
  return 0;
}

// What the host is asked.

// dw_result is the bytes of a function that returned their length. DW_ERR_NOT_FOUND
// is not there, and other trouble ends the login.
static inline dw_text dw_result(int32_t n) {
  if (n == DW_ERR_NOT_FOUND) return (dw_text){NULL, 0};
  if (n == DW_ERR_NOT_GRANTED) dw_stop("not granted; ask for it in doorward.manifest.json");
  if (n < 0) dw_stop("the host did not answer; see the error numbers of sdk/abi");
  char *to = dw_keep(n);
  dw_result_read(to, 0, n);
  return (dw_text){to, n};
}

// dw_join is a text behind another: a key, of a prefix and a name.
static inline dw_text dw_join(const char *prefix, dw_text t) {
  uint32_t n = strlen(prefix);
  char *to = dw_keep(n + t.n);
  memcpy(to, prefix, n);
  if (t.n) memcpy(to + n, t.at, t.n);
  return (dw_text){to, n + t.n};
}

// dw_config is a value of the tenant's configuration: a string as it is, anything
// else as JSON.
static inline dw_text dw_config(dw_text key) { return dw_result(dw_config_get(key.at, key.n)); }

// dw_secret is a secret that the manifest names.
static inline dw_text dw_secret(dw_text name) { return dw_result(dw_secret_get(name.at, name.n)); }

// dw_verify_password tells whether a password is right for a hash. For a user who
// does not exist take a hash that is not there: it is not, and takes as long.
static inline int dw_verify_password(dw_text hash, dw_text password) {
  int32_t n = dw_password_verify(hash.at, hash.n, password.at, password.n);
  if (n < 0 && n != DW_ERR_INVALID && n != DW_ERR_TOO_LARGE && n != DW_ERR_UNSUPPORTED) dw_stop("the password was not checked");
  return n == 1;
}

// dw_verify_totp tells whether a code of an authenticator app is right for its
// secret in base32. Each is good once.
static inline int dw_verify_totp(dw_text secret, dw_text code) {
  int32_t n = dw_totp_verify(secret.at, secret.n, code.at, code.n);
  if (n < 0) dw_stop("the code was not checked");
  return n == 1;
}

// dw_note writes a line to the tenant's log.
static inline void dw_note(const char *line) { dw_log(1, line, strlen(line)); }
