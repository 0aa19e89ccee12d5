package vfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"github.com/octopii/octopii/internal/vfs"
)

func TestMayPass(t *testing.T) {
	damage := errors.New("wrong checksum")
	for name, c := range map[string]struct {
		err                         error
		mayPass, refused, exhausted bool
	}{
		"nil":                       {nil, false, false, false},
		"damage":                    {damage, false, false, false},
		"no descriptor":             {&os.PathError{Op: "open", Path: "a", Err: syscall.EMFILE}, true, true, true},
		"no descriptor left":        {syscall.ENFILE, true, true, true},
		"no memory":                 {fmt.Errorf("map: %w", syscall.ENOMEM), true, true, true},
		"full":                      {syscall.ENOSPC, true, true, true},
		"quota":                     {syscall.EDQUOT, true, true, true},
		"no permission":             {syscall.EACCES, true, true, false},
		"not permitted":             {syscall.EPERM, true, true, false},
		"permission of a fake disk": {fs.ErrPermission, true, true, false},
		"read-only":                 {syscall.EROFS, true, true, false},
		"device":                    {syscall.EIO, true, false, false},
		"no device":                 {syscall.ENXIO, true, false, false},
		"time-out":                  {syscall.ETIMEDOUT, true, false, false},
		"locked":                    {&os.PathError{Op: "lock", Path: "a", Err: vfs.ErrLocked}, true, false, false},
		"damage and a device":       {errors.Join(damage, syscall.EIO), true, false, false},
		"not there":                 {&os.PathError{Op: "open", Path: "a", Err: syscall.ENOENT}, false, false, false},
		"a directory":               {syscall.EISDIR, false, false, false},
	} {
		if got := vfs.MayPass(c.err); got != c.mayPass {
			t.Errorf("%s: MayPass %v", name, got)
		}
		if got := vfs.Refused(c.err); got != c.refused {
			t.Errorf("%s: Refused %v", name, got)
		}
		if got := vfs.Exhausted(c.err); got != c.exhausted {
			t.Errorf("%s: Exhausted %v", name, got)
		}
		if got := vfs.Advice(c.err); (got != "") != c.mayPass {
			t.Errorf("%s: advice %q", name, got)
		}
	}
}
