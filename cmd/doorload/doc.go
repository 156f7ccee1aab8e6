// Command doorload puts a load on a door and says how it bore it: validate,
// login, mixed, and revoke, which times how long a session outlives its end.
//
// The loop is open: arrivals come by a schedule that knows nothing of the
// answers, and a latency counts from the moment that its arrival was due. A
// server that stalls is therefore seen to stall, by everybody who would have
// come meanwhile; a closed loop would politely wait and report one slow answer.
// What came late or never is counted and printed.
//
// Machines are shared and noisy, so a figure means something only beside
// another of the same minute: --baseline takes turns, slice by slice, between
// the target and a bare handler, and runs the bare handler twice, so that the
// report also says how far the same thing differs from itself.
//
// doorload speaks the published contract and nothing else; what it takes from
// the server's code is how a token looks, because an unknown token with a wrong
// checksum is refused without a look-up and would flatter the figure.
package main
