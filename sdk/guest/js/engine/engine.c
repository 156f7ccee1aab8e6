// The engine of verifiers in JavaScript: QuickJS, the host's functions as the
// object "host", and a script that defines a function verify. The script runs once,
// at _initialize; a login is one call of verify. What crosses is the contract's
// (package sdk/abi); doorward.d.ts is how it looks to a script.
#include "../../c/doorward.h"
#include "quickjs.h"
#include <stdlib.h>
#include <sys/time.h>

// Where Bundle (sdk/guest/js) has put the script. It is behind the heap's beginning:
// nothing may be allocated before it was copied but a few bytes.
struct { const char *at; uint32_t n; } dw_script;

// What a login may allocate before memory grows, for which its instance is thrown
// away: so much is asked for once, and given back, before the image is made.
#define SPARE (384 << 10)

static JSContext *js;
static JSValue verify_function, answered;
static int settled, ready;
static char *value; // what the host gave last; only its growth is kept

static void stop(const char *why) {
  dw_fail(1, why, strlen(why));
  __builtin_trap();
}

// thrown ends the login with what was thrown, and where.
static void thrown(JSValueConst e) {
  const char *why = JS_ToCString(js, e);
  JSValue at = JS_IsObject(e) ? JS_GetPropertyStr(js, e, "stack") : JS_UNDEFINED;
  const char *stack = JS_IsString(at) ? JS_ToCString(js, at) : NULL;
  char text[2048];
  size_t n = 0;
  for (const char *s = why ? why : "an exception without a text"; *s && n < sizeof text - 2; s++) text[n++] = *s;
  if (stack) text[n++] = '\n';
  for (const char *s = stack ? stack : ""; *s && n < sizeof text - 1; s++) text[n++] = *s;
  text[n] = 0;
  stop(text);
}

// The clock is the host's, frozen for a login. QuickJS wants it before there is one,
// for the beginning of Math.random, which is the host's too.
int gettimeofday(struct timeval *t, void *zone) {
  int64_t ms = ready ? dw_now_ms() : 0;
  t->tv_sec = ms / 1000;
  t->tv_usec = ms % 1000 * 1000;
  return 0;
}

// utf8 is a value's text. Half a character, which a string of UTF-16 may have and
// UTF-8 has not, becomes U+FFFD: both take three bytes.
static const char *utf8(JSValueConst v, size_t *n) {
  char *s = (char *)JS_ToCStringLen(js, n, v);
  for (size_t i = 0; s && i + 2 < *n; i++)
    if (s[i] == '\xed' && (s[i + 1] & 0xe0) == 0xa0) memcpy(s + i, "\xef\xbf\xbd", 3);
  return s;
}

enum {
  CONFIG, SECRET, SECRET_HMAC, HASH, HMAC, VERIFY_SIGNATURE, HASH_PASSWORD, VERIFY_PASSWORD, VERIFY_TOTP,
  KV_GET, KV_PUT, KV_INCR, KV_SWAP, FETCH, EQUAL, FAIL, DEBUG, INFO, WARN, ERROR
};

// The host's functions as a script sees them. They take b: text or bytes, a: the
// name of a digest, g: the name of a signature's algorithm, i: a number, 0 when left
// out, j: anything, as JSON, l: everything there is, as a line; and they give t: text, b:
// bytes, y: yes or no, i: a number, j: what JSON says, or nothing. What is not found
// is undefined, and other trouble is thrown.
static const struct { const char *object, *name, *takes; char gives; } functions[] = {
  [CONFIG] = {"host", "config", "b", 't'},
  [SECRET] = {"host", "secret", "b", 't'},
  [SECRET_HMAC] = {"host", "secretHMAC", "bab", 'b'},
  [HASH] = {"host", "hash", "ab", 'b'},
  [HMAC] = {"host", "hmac", "abb", 'b'},
  [VERIFY_SIGNATURE] = {"host", "verifySignature", "gbbb", 'y'},
  [HASH_PASSWORD] = {"host", "hashPassword", "b", 't'},
  [VERIFY_PASSWORD] = {"host", "verifyPassword", "bb", 'y'},
  [VERIFY_TOTP] = {"host", "verifyTOTP", "bb", 'y'},
  [KV_GET] = {"kv", "get", "bb", 't'},
  [KV_PUT] = {"kv", "put", "bbbi", 0},
  [KV_INCR] = {"kv", "incr", "bbii", 'i'},
  [KV_SWAP] = {"kv", "swap", "bbbbi", 'y'},
  [FETCH] = {"host", "fetch", "j", 'j'},
  [EQUAL] = {"host", "equal", "bb", 'y'},
  [FAIL] = {"host", "fail", "b", 0},
  [DEBUG] = {"console", "debug", "l", 0},
  [INFO] = {"console", "log", "l", 0},
  [WARN] = {"console", "warn", "l", 0},
  [ERROR] = {"console", "error", "l", 0},
};

static const char *const digests[] = {"sha256", "sha384", "sha512", NULL};
static const char *const signatures[] = {"ed25519", "es256", "es256der", "rs256", "ps256", NULL};

// By the contract's numbers, -1 and on.
static const char *const troubles[] = {"invalid", "not_found", "not_granted", "busy", "too_large", "timeout", "quota", "upstream", "unsupported", "internal", "not_during_init"};

// argument is one of a call, and what is to be given back after it.
typedef struct { const void *at; size_t n; int32_t number; const char *text; JSValue held; } argument;

static int named(argument *a, JSValueConst v, const char *const *names) {
  const char *name = JS_ToCString(js, v);
  if (!name) return -1;
  for (int i = 0; names[i]; i++)
    if (!strcmp(name, names[i])) a->number = i + 1;
  if (!a->number) JS_ThrowTypeError(js, "there is no algorithm \"%s\"", name);
  JS_FreeCString(js, name);
  return a->number ? 0 : -1;
}

static int line(argument *a, int argc, JSValueConst *argv) {
  JSValue list = JS_NewArray(js), join;
  for (int i = 0; i < argc; i++) {
    JSValue v = JS_IsObject(argv[i]) && !JS_IsError(js, argv[i]) ? JS_JSONStringify(js, argv[i], JS_UNDEFINED, JS_UNDEFINED) : JS_DupValue(js, argv[i]);
    if (JS_IsException(v)) return JS_FreeValue(js, list), -1;
    JS_SetPropertyUint32(js, list, i, v);
  }
  JSValue blank = JS_NewString(js, " ");
  JSAtom name = JS_NewAtom(js, "join");
  join = JS_Invoke(js, list, name, 1, &blank);
  JS_FreeAtom(js, name);
  JS_FreeValue(js, blank);
  JS_FreeValue(js, list);
  if (JS_IsException(join)) return -1;
  a->at = a->text = utf8(join, &a->n);
  JS_FreeValue(js, join);
  return a->at ? 0 : -1;
}

static int take(argument *a, char kind, JSValueConst v, const char *name, int i) {
  switch (kind) {
  case 'a': return named(a, v, digests);
  case 'g': return named(a, v, signatures);
  case 'i': return JS_IsUndefined(v) ? 0 : JS_ToInt32(js, &a->number, v);
  case 'j':
    a->held = JS_JSONStringify(js, v, JS_UNDEFINED, JS_UNDEFINED);
    if (JS_IsException(a->held)) return -1;
    return (a->at = a->text = utf8(a->held, &a->n)) ? 0 : -1;
  }
  if (JS_IsString(v)) return (a->at = a->text = utf8(v, &a->n)) ? 0 : -1;
  if (JS_IsObject(v)) {
    size_t off, whole;
    uint8_t *b = JS_GetArrayBuffer(js, &a->n, v);
    if (b) return a->at = b, 0;
    JS_FreeValue(js, JS_GetException(js));
    JSValue buffer = JS_GetTypedArrayBuffer(js, v, &off, &a->n, NULL);
    if (!JS_IsException(buffer) && (b = JS_GetArrayBuffer(js, &whole, buffer))) return a->at = b + off, a->held = buffer, 0;
    JS_FreeValue(js, buffer);
    JS_FreeValue(js, JS_GetException(js));
  }
  JS_ThrowTypeError(js, "%s: argument %d is neither text nor bytes", name, i + 1);
  return -1;
}

static int32_t ask(int f, argument *a) {
#define B(i) a[i].at, a[i].n
  switch (f) {
  case CONFIG: return dw_config_get(B(0));
  case SECRET: return dw_secret_get(B(0));
  case SECRET_HMAC: return dw_secret_hmac(B(0), a[1].number, B(2));
  case HASH: return dw_hash(a[0].number, B(1));
  case HMAC: return dw_hmac(a[0].number, B(1), B(2));
  case VERIFY_SIGNATURE: return dw_sig_verify(a[0].number, B(1), B(2), B(3));
  case HASH_PASSWORD: return dw_password_hash(B(0));
  case VERIFY_PASSWORD: return dw_password_verify(B(0), B(1));
  case VERIFY_TOTP: return dw_totp_verify(B(0), B(1));
  case KV_GET: return dw_kv_get(B(0), B(1));
  case KV_PUT: return dw_kv_put(B(0), B(1), B(2), a[3].number);
  case KV_INCR: return dw_kv_incr(B(0), B(1), a[2].number, a[3].number);
  case KV_SWAP: return dw_kv_cas(B(0), B(1), B(2), B(3), a[4].number);
  case FETCH: return dw_http_fetch(B(0));
  case EQUAL: return dw_ct_equal(B(0), B(1));
  case FAIL: dw_fail(1, B(0)); __builtin_trap();
  default: dw_log(f - DEBUG, B(0)); return 0;
  }
}

static JSValue bytes(const void *at, size_t n) {
  JSValue buffer = JS_NewArrayBufferCopy(js, at, n), global = JS_GetGlobalObject(js), array = JS_GetPropertyStr(js, global, "Uint8Array");
  JSValue made = JS_CallConstructor(js, array, 1, &buffer);
  JS_FreeValue(js, buffer);
  JS_FreeValue(js, array);
  JS_FreeValue(js, global);
  return made;
}

static JSValue give(int f, int32_t n) {
  const char *name = functions[f].name;
  if (f == VERIFY_PASSWORD && (n == DW_ERR_INVALID || n == DW_ERR_TOO_LARGE || n == DW_ERR_UNSUPPORTED)) n = 0; // no such password
  if (n == DW_ERR_NOT_FOUND) return JS_UNDEFINED;
  if (n < 0) {
    const char *code = n >= -(int)(sizeof troubles / sizeof *troubles) ? troubles[-n - 1] : "internal";
    const char *hint = n == DW_ERR_NOT_GRANTED ? "; ask for it in doorward.manifest.json, under \"grants\"" : "";
    JS_ThrowInternalError(js, "%s.%s: %s%s", functions[f].object, name, code, hint);
    JSValue e = JS_GetException(js);
    JS_SetPropertyStr(js, e, "code", JS_NewString(js, code));
    return JS_Throw(js, e);
  }
  switch (functions[f].gives) {
  case 0: return JS_UNDEFINED;
  case 'y': return JS_NewBool(js, n == 1);
  case 'i': return JS_NewInt32(js, n);
  }
  value = realloc(value, n + 1);
  if (!value) stop("no memory for what the host gave");
  dw_result_read(value, 0, n);
  value[n] = 0;
  if (functions[f].gives == 't') return JS_NewStringLen(js, value, n);
  if (functions[f].gives == 'b') return bytes(value, n);
  return JS_ParseJSON(js, value, n, "answer");
}

static JSValue call(JSContext *c, JSValueConst self, int argc, JSValueConst *argv, int f) {
  argument a[5] = {{0}};
  JSValue result = JS_EXCEPTION;
  int i = 0, n = strlen(functions[f].takes);
  for (; i < n; i++) a[i].held = JS_UNDEFINED;
  if (*functions[f].takes == 'l') i = line(a, argc, argv) ? -1 : 0;
  else
    for (i = 0; i < n; i++)
      if (take(a + i, functions[f].takes[i], i < argc ? argv[i] : JS_UNDEFINED, functions[f].name, i)) { i = -1; break; }
  if (i >= 0) result = give(f, ask(f, a));
  for (i = 0; i < n; i++) {
    if (a[i].text) JS_FreeCString(js, a[i].text);
    JS_FreeValue(js, a[i].held);
  }
  return result;
}

static JSValue random_bytes(JSContext *c, JSValueConst self, int argc, JSValueConst *argv) {
  int32_t n;
  uint8_t b[4096];
  if (JS_ToInt32(c, &n, argv[0])) return JS_EXCEPTION;
  if (n < 0 || n > (int32_t)sizeof b) return JS_ThrowRangeError(c, "random: 0 to 4096 bytes at a time");
  dw_random(b, n);
  return bytes(b, n);
}

static JSValue math_random(JSContext *c, JSValueConst self, int argc, JSValueConst *argv) {
  uint64_t r;
  dw_random(&r, sizeof r);
  return JS_NewFloat64(c, (double)(r >> 11) / 9007199254740992.0);
}

static JSValue settle(JSContext *c, JSValueConst self, int argc, JSValueConst *argv, int how) {
  settled = how;
  answered = JS_DupValue(c, argv[0]);
  return JS_UNDEFINED;
}

static void offer(JSValueConst global) {
  JSValue host = JS_NewObject(js), kv = JS_NewObject(js), console = JS_NewObject(js), math = JS_GetPropertyStr(js, global, "Math");
  for (int f = 0; f < (int)(sizeof functions / sizeof *functions); f++) {
    JSValueConst in = *functions[f].object == 'h' ? host : *functions[f].object == 'k' ? kv : console;
    JS_SetPropertyStr(js, in, functions[f].name, JS_NewCFunctionMagic(js, call, functions[f].name, strlen(functions[f].takes), JS_CFUNC_generic_magic, f));
  }
  JS_SetPropertyStr(js, console, "info", JS_GetPropertyStr(js, console, "log"));
  JS_SetPropertyStr(js, host, "random", JS_NewCFunction(js, random_bytes, "random", 1));
  JS_SetPropertyStr(js, math, "random", JS_NewCFunction(js, math_random, "random", 0));
  JS_SetPropertyStr(js, host, "kv", kv);
  JS_SetPropertyStr(js, global, "host", host);
  JS_SetPropertyStr(js, global, "console", console);
  JS_FreeValue(js, math);
}

// find is the script's function: verify, or, of a bundle with the name verifier,
// what that exports as verify or as its default.
static JSValue find(JSValueConst global) {
  JSValue f = JS_GetPropertyStr(js, global, "verify"), bundle = JS_GetPropertyStr(js, global, "verifier");
  for (int i = 0; i < 2 && !JS_IsFunction(js, f) && JS_IsObject(bundle); i++) {
    JS_FreeValue(js, f);
    f = JS_GetPropertyStr(js, bundle, i ? "default" : "verify");
  }
  JS_FreeValue(js, bundle);
  return f;
}

__attribute__((constructor)) static void load(void) {
  char *script = malloc(dw_script.n + 1);
  if (!script) stop("no memory for the script");
  memcpy(script, dw_script.at, dw_script.n);
  script[dw_script.n] = 0;
  JSRuntime *rt = JS_NewRuntime();
  if (!rt || !(js = JS_NewContext(rt))) stop("no memory for the engine");
  JS_SetGCThreshold(rt, 4 << 20); // only what refers to itself waits for it, and a login ends soon
  JSValue global = JS_GetGlobalObject(js);
  offer(global);
  ready = 1;
  if (JS_IsException(JS_Eval(js, script, dw_script.n, "verifier.js", JS_EVAL_TYPE_GLOBAL))) thrown(JS_GetException(js));
  free(script);
  verify_function = find(global);
  if (!JS_IsFunction(js, verify_function)) stop("the script has no function verify(request)");
  JS_FreeValue(js, global);
  JS_RunGC(rt);
  void *volatile spare = malloc(SPARE);
  free(spare);
}

// An answer may be promised. Nothing is left to wait for once the jobs are done: the
// host's functions do not promise.
static JSValue kept(JSValue answer) {
  JSValue then = JS_IsObject(answer) ? JS_GetPropertyStr(js, answer, "then") : JS_UNDEFINED;
  if (!JS_IsFunction(js, then)) return JS_FreeValue(js, then), answer;
  JSValue how[] = {JS_NewCFunctionMagic(js, settle, "", 1, JS_CFUNC_generic_magic, 1), JS_NewCFunctionMagic(js, settle, "", 1, JS_CFUNC_generic_magic, 2)};
  settled = 0;
  JSValue next = JS_Call(js, then, answer, 2, how);
  if (JS_IsException(next)) thrown(JS_GetException(js));
  JSContext *c;
  while (JS_ExecutePendingJob(JS_GetRuntime(js), &c) > 0) {}
  if (!settled) stop("verify promised an answer that never came");
  if (settled == 2) thrown(answered);
  JS_FreeValue(js, next);
  JS_FreeValue(js, how[0]);
  JS_FreeValue(js, how[1]);
  JS_FreeValue(js, then);
  JS_FreeValue(js, answer);
  return answered;
}

DW_EXPORT("doorward_v1_verify") int32_t verify(uint32_t n) {
  char *input = malloc(n + 1);
  if (!input || dw_input_read(input, 0, n) != (int32_t)n) stop("the request cannot be read");
  input[n] = 0;
  JSValue request = JS_ParseJSON(js, input, n, "request");
  free(input);
  if (JS_IsException(request)) thrown(JS_GetException(js));
  JSValue answer = JS_Call(js, verify_function, JS_UNDEFINED, 1, &request);
  if (JS_IsException(answer)) thrown(JS_GetException(js));
  answer = kept(answer);
  JSValue text = JS_JSONStringify(js, answer, JS_UNDEFINED, JS_UNDEFINED);
  if (JS_IsException(text)) thrown(JS_GetException(js));
  if (!JS_IsString(text)) stop("verify returned nothing: a verdict is what accept, reject or challenge looks like");
  size_t m;
  const char *s = utf8(text, &m);
  if (!s) thrown(JS_GetException(js));
  dw_output_write(s, m);
  JS_FreeCString(js, s);
  JS_FreeValue(js, text);
  JS_FreeValue(js, answer);
  JS_FreeValue(js, request);
  return 0;
}
