package octopiipb_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"reflect"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	octopiipb "github.com/octopii/octopii/proto"
)

// golden reads the bytes of a file in testdata: hexadecimal digits, and behind a # what they are.
func golden(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPeerMessageGolden pins what members send each other beside raft's words: a change of it
// is a change of the protocol's version, or a field that older readers may skip.
func TestPeerMessageGolden(t *testing.T) {
	m := octopiipb.PeerMessage{
		Message: raftpb.Message{Type: raftpb.MsgHeartbeat, To: 2, From: 1, Term: 5, Commit: 8},
		Note: octopiipb.Note{Durable: 9, Last: 300, LastTerm: 5, Tight: true, Applied: 7, Room: 6, Commit: 4, CommitTerm: 3,
			Sums: []uint64{1, 0x0102030405060708, 0}},
	}
	want := golden(t, "peer-message.hex")
	got, err := m.Marshal()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("written as\n%x, %v, want\n%x", got, err, want)
	}
	var again octopiipb.PeerMessage
	if err := again.Unmarshal(want); err != nil || !reflect.DeepEqual(again, m) {
		t.Errorf("read as %+v, %v", again, err)
	}
}
