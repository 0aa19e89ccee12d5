package comeback

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"go.uber.org/zap"

	"github.com/octopii/octopii/internal/vfs"
	"github.com/octopii/octopii/node"
)

// peers is what a member keeps of its cluster beside its files, for the day on which
// they are lost. Nothing depends on its being there, or up to date.
type peers struct {
	// Cluster is the one it belongs to, and Member this one's ID, both in hexadecimal.
	Cluster string `json:"cluster"`
	Member  string `json:"member"`
	// Peers are where the others listen.
	Peers []string `json:"peers"`
	// Voters is how many voters there are, this member included if it is one.
	Voters int `json:"voters"`
	// Keys are those by which the others prove who they are: node.Node.MemberKeys.
	Keys []uint64 `json:"keys,omitempty"`
}

func parseID(text string) uint64 {
	id, _ := strconv.ParseUint(text, 16, 64)
	return id
}

// peersOf lists the members of a cluster but one.
func peersOf(cluster, member uint64, members []node.Member) peers {
	p := peers{Cluster: strconv.FormatUint(cluster, 16), Member: strconv.FormatUint(member, 16), Peers: []string{}}
	for _, m := range members {
		if m.ID != member {
			p.Peers = append(p.Peers, m.Address)
		}
		if !m.Learner {
			p.Voters++
		}
	}
	return p
}

// witnesses is at how many of the addresses of one list a proof must be stated: by as many as
// are a majority of the voters, as far as this member knows. One who is no member, in the place
// of one that is down, is not believed alone. Who has certificates, or proves by a key to be a
// member, is believed.
func (p peers) witnesses(list []string) int {
	if p.Voters == 0 { // it is not known any more: no more can be asked
		return min((len(list)+1)/2+1, len(list))
	}
	return p.Voters/2 + 1
}

// others are the addresses of other members that are recorded or configured.
func (m *Member) others(p peers) []string { return m.notOwn(slices.Concat(p.Peers, m.cfg.Join)) }

// notOwn are the addresses of a list that are not this member's, each once.
func (m *Member) notOwn(addresses []string) (list []string) {
	for _, a := range addresses {
		if !m.cfg.IsOwn(a) && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

// peersFile has where the other members are.
func (m *Member) peersFile() string { return filepath.Join(m.cfg.Dir, "peers.json") }

// Peers are where the other members listened when this one knew them last.
func (m *Member) Peers() []string { return m.peers().Peers }

// peers returns nothing if there is nothing that can be read.
func (m *Member) peers() (p peers) {
	data, err := os.ReadFile(m.peersFile())
	if err != nil || json.Unmarshal(data, &p) != nil {
		return peers{}
	}
	return p
}

// writePeers keeps who the others are. One that was removed keeps who they were.
func (m *Member) writePeers(st node.Status, ms node.Membership, keys []uint64) error {
	if _, ok := ms.Member(st.ID); !ok {
		return nil
	}
	p := peersOf(st.Cluster, st.ID, ms.Members)
	p.Keys = keys
	return m.write(p)
}

// write replaces the file as a whole.
func (m *Member) write(p peers) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return vfs.Replace(vfs.OS, m.peersFile(), append(data, '\n'))
}

// MembershipChanged is for node.Events. It keeps the newest membership for Keep.
func (m *Member) MembershipChanged(ms node.Membership) {
	select {
	case <-m.memberships: // it is older
	default:
	}
	m.memberships <- ms // it is the only one that puts anything there
}

// Keep writes down who the others are, as MembershipChanged was told, until ctx ends. It runs
// beside the Node.
func (m *Member) Keep(ctx context.Context, n *node.Node) {
	for {
		select {
		case ms := <-m.memberships:
			if err := m.writePeers(n.Status(), ms, n.MemberKeys()); err != nil {
				m.lg.Warn("cannot note where the other members are", zap.String("file", m.peersFile()), zap.Error(err))
			}
		case <-ctx.Done():
			return
		}
	}
}
