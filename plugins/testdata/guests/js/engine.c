// The engine of verifiers in JavaScript: QuickJS, the host's functions under the
// name "host", and a script that has a function verify. The script runs once at
// _initialize; a login is one call of verify.
#include "../c/doorward.h"
#include "quickjs.h"
#include <stdlib.h>

extern const char dw_script[]; // made from the script at build time, ends with a 0
extern const uint32_t dw_script_length;

static JSContext *js;
static char value[DW_MAX + 1];

static void stop(const char *why) {
  dw_fail(1, why, strlen(why));
  __builtin_trap();
}

static void thrown(void) {
  const char *why = JS_ToCString(js, JS_GetException(js));
  stop(why ? why : "an exception without a text");
}

// utf8 is a value's text. Half a character, which a string of UTF-16 may have and
// UTF-8 has not, becomes U+FFFD: both take three bytes.
static const char *utf8(JSContext *c, JSValueConst v, size_t *n) {
  char *s = (char *)JS_ToCStringLen(c, n, v);
  for (size_t i = 0; s && i + 2 < *n; i++)
    if (s[i] == '\xed' && (s[i + 1] & 0xe0) == 0xa0) memcpy(s + i, "\xef\xbf\xbd", 3);
  return s;
}

static JSValue config(JSContext *c, JSValueConst self, int argc, JSValueConst *argv) {
  size_t n;
  const char *key = utf8(c, argv[0], &n);
  if (!key) return JS_EXCEPTION;
  dw_text t = dw_config((dw_text){key, n}, value, DW_MAX);
  JS_FreeCString(c, key);
  return t.at ? JS_NewStringLen(c, t.at, t.n) : JS_UNDEFINED;
}

// yes asks the host a question of two strings.
static JSValue yes(JSContext *c, JSValueConst *argv, int32_t (*ask)(const void *, uint32_t, const void *, uint32_t)) {
  size_t n, m;
  const char *a = utf8(c, argv[0], &n);
  if (!a) return JS_EXCEPTION;
  const char *b = utf8(c, argv[1], &m);
  if (!b) return JS_FreeCString(c, a), JS_EXCEPTION;
  int32_t answer = ask(a, n, b, m);
  JS_FreeCString(c, a);
  JS_FreeCString(c, b);
  return JS_NewBool(c, answer == 1);
}

static JSValue password(JSContext *c, JSValueConst self, int argc, JSValueConst *argv) { return yes(c, argv, dw_password_verify); }
static JSValue totp(JSContext *c, JSValueConst self, int argc, JSValueConst *argv) { return yes(c, argv, dw_totp_verify); }

__attribute__((constructor)) static void load(void) {
  JSRuntime *rt = JS_NewRuntime();
  if (!rt || !(js = JS_NewContext(rt))) stop("no memory for the engine");
  JSValue global = JS_GetGlobalObject(js), host = JS_NewObject(js);
  JS_SetPropertyStr(js, host, "config", JS_NewCFunction(js, config, "config", 1));
  JS_SetPropertyStr(js, host, "verifyPassword", JS_NewCFunction(js, password, "verifyPassword", 2));
  JS_SetPropertyStr(js, host, "verifyTOTP", JS_NewCFunction(js, totp, "verifyTOTP", 2));
  JS_SetPropertyStr(js, global, "host", host);
  if (JS_IsException(JS_Eval(js, dw_script, dw_script_length, "verifier.js", JS_EVAL_TYPE_GLOBAL))) thrown();
}

DW_EXPORT("doorward_v1_verify") int32_t verify(uint32_t n) {
  static char input[DW_MAX + 1];
  if (n > DW_MAX || dw_input_read(input, 0, n) != (int32_t)n) stop("the request cannot be read");
  input[n] = 0;
  JSValue request = JS_ParseJSON(js, input, n, "request");
  if (JS_IsException(request)) thrown();
  JSValue global = JS_GetGlobalObject(js), f = JS_GetPropertyStr(js, global, "verify");
  JSValue answer = JS_Call(js, f, global, 1, &request);
  if (JS_IsException(answer)) thrown();
  JSValue text = JS_JSONStringify(js, answer, JS_UNDEFINED, JS_UNDEFINED);
  size_t m;
  const char *s = JS_IsException(text) ? NULL : JS_ToCStringLen(js, &m, text);
  if (!s) thrown();
  dw_output_write(s, m);
  JS_FreeCString(js, s);
  JS_FreeValue(js, text);
  JS_FreeValue(js, answer);
  JS_FreeValue(js, request);
  JS_FreeValue(js, f);
  JS_FreeValue(js, global);
  return 0;
}
