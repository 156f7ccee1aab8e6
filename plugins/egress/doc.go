// Package egress makes outbound HTTP requests for code that is not trusted:
// verifiers that ask an identity provider.
//
// The one idea: what is checked is what is dialled. The name is resolved once,
// every address that comes back is held against the list of those that nobody
// may reach from here, and one connection is made, to an address that was
// checked. What answers there must then prove by TLS that it has the name; a
// redirect is an answer like any other, and is not followed.
//
// Nothing is shared: each request has a connection of its own, no cookies, no
// proxy from the environment, a deadline, and bounds on all that comes back.
//
// It imports nothing of ours and knows no grants: which hosts a caller may reach
// is an argument.
package egress
