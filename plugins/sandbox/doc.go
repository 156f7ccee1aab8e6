// Package sandbox runs tenants' modules in processes of their own. It is the
// only room that knows wazero, and only its child half calls it: the server's
// own process never decodes, compiles or runs a byte that a tenant wrote.
//
// The one idea: a process is the unit that can be killed. Compiled code cannot
// be interrupted, a decoder can be made to want more memory than there is, and
// a garbage collector waits for a loop; so whatever takes too long or too much
// costs its process, and its process is worth one login.
//
// Pool is the parent half: it keeps workers, hands them one call at a time
// over two sockets, answers their host calls, and kills them at the deadline.
// Main is the child half: "doorward sandbox worker" and "doorward sandbox
// compile" are this program again, with an empty environment, two sockets and
// tight limits.
//
// It knows no tenants beyond a name for their share, no grants and no
// verdicts: what a host function may do and what an answer means is the
// business of package plugins.
package sandbox
