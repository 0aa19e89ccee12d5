package kv

import (
	"bytes"
	"encoding/hex"
	"os"
	"reflect"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// golden reads the pieces of a file in testdata: hexadecimal digits, and behind a # what they
// are. An empty line ends a piece.
func golden(t *testing.T, name string) (pieces [][]byte) {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	for piece := range strings.SplitSeq(string(text), "\n\n") {
		var digits strings.Builder
		for line := range strings.Lines(piece) {
			line, _, _ = strings.Cut(line, "#")
			digits.WriteString(strings.Join(strings.Fields(line), ""))
		}
		b, err := hex.DecodeString(digits.String())
		if err != nil {
			t.Fatal(err)
		}
		pieces = append(pieces, b)
	}
	return pieces
}

// TestCommandsGolden pins the bytes of commands, which are in logs: what is new gets another
// first byte, which docs/FORMATS.md names.
func TestCommandsGolden(t *testing.T) {
	put := &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("k"), Value: []byte("v")}}
	request, err := requestCommand(put, 0x0102030405060708, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	m := &pb.Member{ID: 300, ClientURLs: []string{"h:1"}}
	member, err := MemberCommand(m)
	if err != nil {
		t.Fatal(err)
	}
	content := ContentCommand(300, 9, Content{Records: 2, Sum: 0x0102030405060708})
	want := golden(t, "commands.hex")
	for i, c := range []struct {
		name string
		got  []byte
		read command
	}{
		{"a request", request, command{origin: 0x0102030405060708, readBytesMax: 1 << 20, request: put}},
		{"a member", member, command{member: m}},
		{"compare", CompareCommand(), command{compare: true}},
		{"the content of a member", content, command{content: content}},
	} {
		if !bytes.Equal(c.got, want[i]) {
			t.Errorf("%s: written as\n%x, want\n%x", c.name, c.got, want[i])
		}
		if read, err := decodeCommand(want[i]); err != nil || !reflect.DeepEqual(read, c.read) {
			t.Errorf("%s: read as %+v, %v", c.name, read, err)
		}
	}
}

// What a later version writes is refused by all members alike, and changes nothing.
func TestUnknownCommands(t *testing.T) {
	request := golden(t, "commands.hex")[0][:requestHeaderBytes]
	for name, c := range map[string]struct {
		command []byte
		want    Rejection
	}{
		"nothing":           {nil, Malformed},
		"kind 0":            {[]byte{0}, Unsupported},
		"kind 5":            {[]byte{5, 1}, Unsupported},
		"no request":        {request, Unsupported},
		"field 99":          {append(bytes.Clone(request), 0x9a, 0x06, 0), Unsupported},
		"half of a header":  {request[:9], Malformed},
		"no protobuf":       {append(bytes.Clone(request), 0xff), Malformed},
		"a member of noise": {[]byte{kindMember, 0xff}, Malformed},
	} {
		s := openTest(t, t.TempDir(), limits{})
		before := s.Revision()
		result := apply(t, s, c.command)
		if err := DecodeResult(result, nil); err != c.want || !bytes.Equal(result, []byte{byte(c.want)}) {
			t.Errorf("%s: %x, %v; want %v", name, result, err, c.want)
		}
		if s.Revision() != before {
			t.Errorf("%s: the revision is %d, was %d", name, s.Revision(), before)
		}
	}
}

// TestRejectionsArePinned: the numbers of rejections are the same in all versions.
func TestRejectionsArePinned(t *testing.T) {
	pinned := []Rejection{1: Malformed, 2: EmptyKey, 3: ValueProvided, 4: LeaseProvided, 5: TooManyOps, 6: DuplicateKey, 7: InvalidSortOption,
		8: KeyNotFound, 9: LeaseNotFound, 10: Compacted, 11: FutureRev, 12: Unsupported, 13: TooMuchRead}
	for n, r := range pinned {
		if int(r) != n {
			t.Errorf("%v has the number %d, want %d", r, r, n)
		}
	}
	if len(rejectionText) != len(pinned)-1 {
		t.Errorf("there are %d rejections and %d pinned here: add the new ones, and change none", len(rejectionText), len(pinned)-1)
	}
}

// TestRecordsGolden pins what is in the database beside etcd's records.
func TestRecordsGolden(t *testing.T) {
	sealed, _ := seal([]byte("key"), []byte("k"), []byte("value"))
	for i, got := range [][]byte{
		sealed,
		metaSum([]byte("octopii.applied"), []byte("0123456789abcdef")),
		position{index: 300, term: 5}.bytes(),
		content{records: 2, sum: 0x0102030405060708}.bytes(),
	} {
		if want := golden(t, "records.hex")[i]; !bytes.Equal(got, want) {
			t.Errorf("piece %d: %x, want %x", i, got, want)
		}
	}
	value, _, err := unseal([]byte("key"), []byte("k"), golden(t, "records.hex")[0])
	if err != nil || string(value) != "value" {
		t.Errorf("read as %q, %v", value, err)
	}
}
