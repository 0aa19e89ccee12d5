package comeback

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/octopii/octopii/node"
)

// TestPeersGolden pins what docs/FORMATS.md says of the file. A field of a later version is
// skipped; an ID needs all its 64 bits.
func TestPeersGolden(t *testing.T) {
	want, err := os.ReadFile("testdata/peers.json")
	if err != nil {
		t.Fatal(err)
	}
	m := inDir(t.TempDir())
	ms := node.Membership{Members: []node.Member{{ID: 1, Address: "h:1"}, {ID: 2, Address: "h:2"}, {ID: 3, Address: "h:3", Learner: true}}}
	if err := m.writePeers(node.Status{ID: 1, Cluster: 0x0123456789abcdef}, ms, []uint64{1<<64 - 1, 1<<53 + 1}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(m.cfg.Dir, "peers.json"))
	if err != nil || string(got) != string(want) {
		t.Errorf("written as\n%s, %v, want\n%s", got, err, want)
	}
	again := peers{Cluster: "123456789abcdef", Member: "1", Peers: []string{"h:2", "h:3"}, Voters: 2, Keys: []uint64{1<<64 - 1, 1<<53 + 1}}
	for name, data := range map[string]string{
		"the file":              string(want),
		"one with a field more": `{"later":{"a":[1]},` + string(want[1:]),
	} {
		if err := os.WriteFile(m.peersFile(), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if p := m.peers(); !reflect.DeepEqual(p, again) {
			t.Errorf("%s: read as %+v, want %+v", name, p, again)
		}
	}
	if id := parseID(again.Cluster); id != 0x0123456789abcdef {
		t.Errorf("the cluster is read as %x", id)
	}
}
