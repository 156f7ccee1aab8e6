// The contract doorward_v1 (package sdk/abi) as a script sees it, for editors and
// for TypeScript: nothing of it is imported. A script defines
//
//   function verify(request: Request): Verdict | Promise<Verdict>
//
// at its top level. The rest of it is run once, before any login: config, secrets,
// the time and what is random belong into verify.
//
// The host's functions answer at once, and none is a promise. What is not found is
// undefined; other trouble is thrown, as an error with a code. An error that nobody
// catches ends the login without a verdict: the user is asked to try again later,
// and the tenant's log has it.

declare namespace doorward {
  /** What is asked: who wants to sign in, with what. */
  interface Request {
    readonly abi: 1;
    readonly tenant: string;
    /** "password", unless the caller named another. */
    readonly method: string;
    readonly request_id: string;
    /** 1, or which answer to a challenge this is. */
    readonly attempt: number;
    /** What the user typed, by field; for a challenge, the answer. It may be of any type. */
    readonly credential: Readonly<Record<string, unknown>>;
    readonly client: { readonly ip?: string; readonly user_agent?: string; readonly app?: string };
    /** What the challenge that is being answered had as private. */
    readonly state?: any;
    /** Unix time in milliseconds; Date.now() is the same. */
    readonly now_ms: number;
  }

  type Verdict = Accept | Reject | Challenge;

  interface Accept {
    decision: "accept";
    /** 1 to 256 printable characters. */
    subject: string;
    claims?: Record<string, unknown>;
    /** How it was proven (RFC 8176), as "pwd" and "otp". */
    amr?: string[];
  }

  interface Reject {
    decision: "reject";
    code: "bad_credentials" | "locked" | "expired" | "denied";
    /** For the tenant's log alone. */
    detail?: string;
  }

  interface Challenge {
    decision: "challenge";
    type: "otp" | "custom";
    /** The user's client sees it. */
    public?: Record<string, unknown>;
    /** Comes back as state with the answer; nobody else sees it. */
    private?: unknown;
    /** Seconds it may take; 300 when left out, 900 at most. */
    ttl?: number;
    /** 5 when left out, 10 at most. */
    max_attempts?: number;
  }

  type Data = string | ArrayBuffer | Uint8Array;
  type Digest = "sha256" | "sha384" | "sha512";
  type Signature = "ed25519" | "es256" | "es256der" | "rs256" | "ps256";

  /** What the host's functions throw. */
  interface HostError extends Error {
    code: "invalid" | "not_granted" | "busy" | "too_large" | "timeout" | "quota" | "upstream" | "unsupported" | "internal" | "not_during_init";
  }

  interface HTTPRequest {
    /** GET when left out. */
    method?: "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE";
    /** https, to a host that the manifest names. */
    url: string;
    headers?: Record<string, string>;
    body?: string;
    /** Instead of body, for what is not text. */
    body_base64?: string;
  }

  interface HTTPResponse {
    status: number;
    /** By names in lower case. */
    headers: Record<string, string[]>;
    /** When it is UTF-8. */
    body?: string;
    /** When it is not. */
    body_base64?: string;
  }

  interface Host {
    /** A value of the tenant's configuration: a string as it is, anything else as JSON. Grant: config. */
    config(key: string): string | undefined;
    /** A secret that the manifest names. Grant: secrets. */
    secret(name: string): string | undefined;
    /** hmac under a secret that never gets here. Grant: secrets. */
    secretHMAC(name: string, digest: Digest, data: Data): Uint8Array | undefined;
    /** Grant: hash. */
    hash(digest: Digest, data: Data): Uint8Array;
    /** Grant: hmac. */
    hmac(digest: Digest, key: Data, data: Data): Uint8Array;
    /** key is a public key in PEM or DER. Grant: sig_verify. */
    verifySignature(algorithm: Signature, key: Data, message: Data, signature: Data): boolean;
    /** A new hash, argon2id in PHC form. Grant: password. */
    hashPassword(password: string): string;
    /** For a user who does not exist take "" as the hash: it is false, and takes as long. Grant: password. */
    verifyPassword(hash: string, password: string): boolean;
    /** A code of an authenticator app, against its secret in base32; each is good once. Grant: totp. */
    verifyTOTP(secret: string, code: string): boolean;
    /** What is kept between logins, by namespaces that the manifest names. Grant: kv. */
    readonly kv: {
      get(namespace: string, key: string): string | undefined;
      /** seconds: 0 is as long as there is. An empty value removes. */
      put(namespace: string, key: string, value: string, seconds?: number): void;
      /** Adds, and gives the sum; seconds count from when there was none. */
      incr(namespace: string, key: string, by: number, seconds?: number): number;
      /** Keeps value if old is what is kept ("" for nothing), and tells. */
      swap(namespace: string, key: string, old: string, value: string, seconds?: number): boolean;
    };
    /** Asks a host that the manifest names. A redirect is an answer like any other. Grant: http. */
    fetch(request: HTTPRequest): HTTPResponse;
    /** Whether both are the same, in a time that does not tell where they differ. */
    equal(a: Data, b: Data): boolean;
    /** Up to 4096 bytes that nobody can guess; Math.random() is of them too. */
    random(bytes: number): Uint8Array;
    /** Ends this login without a verdict: the user is asked to try again later. */
    fail(why: string): never;
  }
}

declare const host: doorward.Host;

/** Lines of the tenant's log. */
declare const console: Record<"debug" | "log" | "info" | "warn" | "error", (...values: unknown[]) => void>;
