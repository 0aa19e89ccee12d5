package octopiipb_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gogo/protobuf/proto"
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

// message is what is written whole: in a frame, in a file or in an entry.
type message interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

var (
	memory   = octopiipb.Memory{Term: 5, Match: 9, Commit: 8, MatchTerm: 4, CommitTerm: 3}
	voter    = octopiipb.Member{ID: 1, Name: "a", Address: "h:1", Kind: octopiipb.Voter, Priority: -1, Incarnation: 101}
	learner  = octopiipb.Member{ID: 2, Name: "b", Address: "h:2", Kind: octopiipb.Learner, Promote: true, Replaces: 3}
	settings = octopiipb.Settings{FailoverByTimeout: true, Format: 2}
	promote  = octopiipb.MemberChange{Op: octopiipb.Promote, Member: octopiipb.Member{ID: 2}, IfSilent: true}
	round    = octopiipb.Round{Cluster: 7, Members: []octopiipb.Member{voter, learner}, Settings: settings}
	metadata = raftpb.SnapshotMetadata{Index: 9, Term: 3, ConfState: raftpb.ConfState{Voters: []uint64{1}, Learners: []uint64{2}}}
	nonce    = []byte("12345678")
)

// goldens are the messages whose bytes are in testdata, by the names of the files.
var goldens = map[string]message{
	"hello": &octopiipb.Hello{
		Version: 3, Purpose: 1, Refused: "no", Lane: 1, RefusedCode: 2, RefusedSeal: []byte("seal"),
		Host:   octopiipb.HelloHost{ID: 300, Address: "a:1", OldestFormat: 1, NewestFormat: 3},
		Member: octopiipb.HelloMember{Group: 6, Cluster: 7, From: 1, To: 2, Incarnation: 101, Remembers: memory},
	},
	"peer-message": &octopiipb.PeerMessage{
		Message: raftpb.Message{Type: raftpb.MsgHeartbeat, To: 2, From: 1, Term: 5, Commit: 8},
		Note: octopiipb.Note{Durable: 9, Last: 300, LastTerm: 5, Tight: true, Applied: 7, Room: 6, Commit: 4, CommitTerm: 3,
			Sums: []uint64{1, 0x0102030405060708, 0}},
	},
	"requests": &octopiipb.Requests{Term: 5, Requests: []octopiipb.Request{
		{ID: 300, Proposal: []byte("p")},
		{ID: 301, ConfChange: []byte("c"), DryRun: true},
		{ID: 302, Transfer: true, TransferTo: 2},
	}},
	"replies": &octopiipb.Replies{Replies: []octopiipb.Reply{
		{ID: 300, Index: 9},
		{ID: 301, Code: 5, Reason: "no"},
	}},
	"join-request":  &octopiipb.JoinRequest{Member: learner, Rejoins: true},
	"join-reply":    &octopiipb.JoinReply{Code: 2, Reason: "no"},
	"knock-request": &octopiipb.KnockRequest{Term: 5, Last: 9},
	"knock-reply":   &octopiipb.KnockReply{Members: []octopiipb.Member{{ID: 1, Address: "h:1"}}},
	"vouch-request": &octopiipb.VouchRequest{Cluster: 7, Member: 1, Address: "h:1", Name: "a", Nonce: nonce},
	"vouch-reply": &octopiipb.VouchReply{Code: 1, Reason: "no", Cluster: 7, Term: 5, Leader: 1, Commit: 8, IsMember: true, Removed: true,
		AtAddress: 1, Named: 2, Members: []octopiipb.Member{voter}, Seal: []byte("seal")},
	"found-request": &octopiipb.FoundRequest{Member: voter, Round: round, Promised: []uint64{7, 300}, Nonce: nonce},
	"found-reply": &octopiipb.FoundReply{Member: voter, Cluster: 7, WasMember: true, Promised: true, Reason: "no", Founded: 8,
		OldestFormat: 1, NewestFormat: 3, Mark: []byte("mark")},
	"compare-request": &octopiipb.CompareRequest{Index: 9, Suspect: true, Last: 10, Remembered: memory, Commit: 8, Term: 5,
		Branch: octopiipb.Branch{First: 6, Last: 7, Term: 4}, Stranger: 2, Nonce: nonce, Alone: true, Later: 3, Voters: []uint64{1, 300}},
	"compare-reply": &octopiipb.CompareReply{Cluster: 7, Index: 9, Term: 5, Sums: []uint64{1, 300, 0}, Stranger: &voter, Remembered: memory,
		Seal: []byte("seal"), Seals: [][]byte{[]byte("one"), []byte("two")}, Terms: []octopiipb.TermStart{{First: 1, Term: 1}, {First: 2, Term: 3}}},
	"own-log-request": &octopiipb.OwnLogRequest{Index: 9, Nonce: nonce},
	"own-log-reply": &octopiipb.OwnLogReply{Cluster: 7, Last: 10, Term: 5, Sums: []uint64{1, 300, 0}, Remembered: memory, RunningMs: 300,
		Seal: []byte("seal"), Forgot: true},
	"snapshot-announcement": &octopiipb.SnapshotAnnouncement{Metadata: metadata, Term: 5},
	"snapshot-meta": &octopiipb.SnapshotMeta{Metadata: metadata, External: true, Terms: []octopiipb.TermStart{{First: 1, Term: 1}, {First: 2, Term: 3}},
		Sums: []uint64{1, 0x0102030405060708, 0}},
	"membership": &octopiipb.Membership{Cluster: 7, Index: 8, Members: []octopiipb.Member{voter, learner}, Settings: settings,
		UnderWay: []octopiipb.MemberChange{promote}, Removed: []octopiipb.RemovedMember{{ID: 5, Incarnation: 105}, {ID: 4}}},
	"membership-change": &octopiipb.MembershipChange{Changes: []octopiipb.MemberChange{promote}, Origin: 2, ID: 300},
	"setting-change":    &octopiipb.SettingChange{Setting: 2, Value: 2},
	"identity":          &octopiipb.Identity{Node: 1, Name: "a", Incarnation: 101, Cluster: 7},
	"memories":          &octopiipb.Memories{Of: []octopiipb.MemoryOf{{Member: 2, Memory: memory}, {Member: 3}}},
	"origin": &octopiipb.Origin{Member: true, Replaces: 3, Addresses: []string{"h:1", "h:2"}, Rounds: []octopiipb.Round{round},
		Rival: &octopiipb.Rival{Cluster: 77, Member: 3, Voters: 5, Addresses: []string{"h:3"}, Since: 1 << 60},
		NotOf: []uint64{78, 79}, Founded: 1 << 60, FoundedCluster: 7, GivenUp: []uint64{4, 300},
		RemovedBy: 2, RemovedAt: "h:2", ForgotBy: 6, Forgot: "index 9"},
}

// TestMessagesGolden pins the bytes of all messages of octopii.proto: a change of them is a
// change of a version in docs/FORMATS.md, or a field that older readers may skip.
func TestMessagesGolden(t *testing.T) {
	for name, m := range goldens {
		want := golden(t, name+".hex")
		got, err := m.Marshal()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: written as\n%x, %v, want\n%x", name, got, err, want)
		}
		again := reflect.New(reflect.TypeOf(m).Elem()).Interface().(message)
		if err := again.Unmarshal(want); err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("%s: read as %+v, %v", name, again, err)
		}
	}
}

// TestGoldensHaveEveryField: no field of octopii.proto has a number that no golden file pins.
func TestGoldensHaveEveryField(t *testing.T) {
	has := map[string]bool{}
	var collect func(v reflect.Value)
	collect = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.Pointer:
			if !v.IsNil() {
				collect(v.Elem())
			}
		case reflect.Slice:
			for i := range v.Len() {
				collect(v.Index(i))
			}
		case reflect.Struct:
			for i := range v.NumField() {
				if !v.Field(i).IsZero() {
					has[v.Type().Name()+"."+fieldName(v.Type().Field(i))] = true
					collect(v.Field(i))
				}
			}
		}
	}
	for _, m := range goldens {
		collect(reflect.ValueOf(m))
	}
	for _, name := range messageNames(t) {
		typ := proto.MessageType("octopiipb." + name)
		if typ == nil {
			t.Fatalf("%s is in octopii.proto and not in the program", name)
		}
		for i := range typ.Elem().NumField() {
			if field := name + "." + fieldName(typ.Elem().Field(i)); !has[field] {
				t.Errorf("no golden file has %s", field)
			}
		}
	}
}

// TestFormatsHaveEveryField: docs/FORMATS.md has the fields of the messages that it draws as
// octopii.proto has them.
func TestFormatsHaveEveryField(t *testing.T) {
	text, err := os.ReadFile("../docs/FORMATS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n## Messages on disk\n")
	table, _, _ = strings.Cut(table, "\n## ")
	drawn := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (.*) \\|$").FindAllStringSubmatch(table, -1) {
		drawn[row[1]] = row[2]
	}
	for _, name := range []string{"SnapshotMeta", "TermStart", "Membership", "RemovedMember", "Member", "Settings", "SettingChange",
		"MembershipChange", "MemberChange", "Identity", "Memories", "MemoryOf", "Memory", "Origin", "Rival", "Round"} {
		typ := proto.MessageType("octopiipb." + name).Elem()
		var numbers []string
		for i := range typ.NumField() {
			tag := strings.Split(typ.Field(i).Tag.Get("protobuf"), ",")
			numbers = append(numbers, tag[1])
			if !regexp.MustCompile("(?i)(^|[;,] )" + tag[1] + " " + fieldName(typ.Field(i)) + `\b`).MatchString(drawn[name]) {
				t.Errorf("%s: field %s %s is not in its row", name, tag[1], fieldName(typ.Field(i)))
			}
		}
		for _, field := range regexp.MustCompile(`(?:^|[;,] )(\d+) [a-zA-Z_]+`).FindAllStringSubmatch(regexp.MustCompile(`\([^)]*\)|, \d+ if [^;|]*`).ReplaceAllString(drawn[name], ""), -1) {
			if !slices.Contains(numbers, field[1]) {
				t.Errorf("%s: the row has a field %s, which octopii.proto has not", name, field[0])
			}
		}
	}
}

// fieldName is that of octopii.proto.
func fieldName(f reflect.StructField) string {
	for part := range strings.SplitSeq(f.Tag.Get("protobuf"), ",") {
		if name, ok := strings.CutPrefix(part, "name="); ok {
			return name
		}
	}
	return f.Name
}

func messageNames(t *testing.T) (names []string) {
	t.Helper()
	text, err := os.ReadFile("octopii.proto")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^message (\w+) \{`).FindAllStringSubmatch(string(text), -1) {
		names = append(names, m[1])
	}
	return names
}
