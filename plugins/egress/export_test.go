package egress

import (
	"context"
	"net/http"
)

// BeforeDial has f see each address before a packet goes to it; its error ends
// the connection.
func BeforeDial(c *Client, f func(address string) error) { c.beforeDial = f }

// Message is what would be sent for r, and where.
func Message(ctx context.Context, r Request) (string, *http.Request, error) {
	to, err := r.target()
	if err != nil {
		return "", nil, err
	}
	message, err := r.build(ctx, to)
	return to.hostport, message, err
}
