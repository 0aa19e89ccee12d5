package node

// Kill stops a member without handing leadership over.
func (n *Node) Kill() {
	n.stop(ErrClosed)
	n.closeOnce.Do(func() { n.closeErr = n.shutdown() })
}
