// The contract doorward_v1 (package sdk/abi) for C: the host's functions, and as
// much JSON as a verifier needs. One header, no allocation. The host wrote the
// request, so it is valid JSON; its strings are the user's.
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

typedef struct { const char *at; uint32_t n; } dw_text; // at is NULL: not there

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

// dw_string copies the string at p into to, which has room for all of the
// request. What is no string is "".
static inline dw_text dw_string(const char *p, char *to) {
  char *w = to;
  if (!p || *p != '"') return (dw_text){to, 0};
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

// dw_config is the configuration's text under a key; at is NULL where there is
// none, or none that fits.
static inline dw_text dw_config(dw_text key, char *to, uint32_t room) {
  int32_t n = dw_config_get(key.at, key.n);
  if (n < 0 || (uint32_t)n > room) return (dw_text){NULL, 0};
  dw_result_read(to, 0, n);
  return (dw_text){to, n};
}
