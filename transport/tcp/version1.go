package tcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/octopii/octopii/proto"
)

// The header of a frame of version 1 had the number of a group, 0, behind the twelve bytes of
// today, so neither version can read a frame of the other. All that is known of version 1 here
// is how to recognize its Hello, and how to say why it is refused.
const (
	version1GroupBytes = 8
	version1Header     = headerBytes + version1GroupBytes
)

// errVersion1 is said of what is no frame of this version, and is a Hello of that one.
var errVersion1 = badFramef("%v", judgeVersion(1))

// isVersion1 says whether the body of what is no sound frame begins as in version 1. That of a
// Hello never begins with a zero.
func isVersion1(kind frameType, body []byte) bool {
	return kind == frameHello && bytes.HasPrefix(body, make([]byte, version1GroupBytes))
}

// refuseVersion1 tells a dialer of version 1 why it is refused, in a frame that it can read.
func (c *conn) refuseVersion1(err error) {
	if !errors.Is(err, errVersion1) {
		return
	}
	hello := octopiipb.Hello{Version: protocolVersion, Refused: judgeVersion(1).Error()}
	b := make([]byte, version1Header+hello.Size())
	if _, err := hello.MarshalTo(b[version1Header:]); err != nil {
		return
	}
	binary.LittleEndian.PutUint32(b, uint32(hello.Size()))
	b[8] = byte(frameHello)
	sum := crc32.Update(crc32.Checksum(b[:4], castagnoli), castagnoli, b[8:])
	binary.LittleEndian.PutUint32(b[4:], sum)
	_, _ = c.nc.Write(b)
}
