package node

// The range of formats that this version reads, of what members replicate and store. A member
// says it to its peers in the handshake (transport.Host).
const (
	oldestFormat = 1
	newestFormat = 1
)
