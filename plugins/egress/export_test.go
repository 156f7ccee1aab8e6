package egress

// BeforeDial has f see each address before a packet goes to it; its error ends
// the connection.
func BeforeDial(c *Client, f func(address string) error) { c.beforeDial = f }
