package kv

import (
	"fmt"
	"os"
	"runtime/debug"
	"sync/atomic"

	"go.uber.org/zap"
)

// fault is the first damage of a database, or error of writing it: from then on nothing is
// read, written or committed any more. Any goroutine may ask and tell.
type fault struct {
	lg *zap.Logger
	// file is the database, for verifying it: it may get another name.
	file *os.File
	// cause is nil while all is well.
	cause atomic.Pointer[error]
	// suspended is closed when cause is there, and failed when it is final.
	suspended, failed chan struct{}
}

func newFault(lg *zap.Logger, file *os.File) *fault {
	return &fault{lg: lg, file: file, suspended: make(chan struct{}), failed: make(chan struct{})}
}

// failure is why the database does nothing any more; nil: it works. Whatever was read
// since it failed is worth nothing.
func (f *fault) failure() error {
	if cause := f.cause.Load(); cause != nil {
		return *cause
	}
	return nil
}

// fail keeps the first error, and says that there is one.
func (f *fault) fail(err error) {
	if f.suspend(err) {
		f.settle(err)
	}
}

// suspend stops everything because of err. It returns false if there was an error
// before. Whoever gets true calls settle.
func (f *fault) suspend(err error) bool {
	if !f.cause.CompareAndSwap(nil, &err) {
		return false
	}
	close(f.suspended)
	return true
}

// settle says finally why the database failed.
func (f *fault) settle(err error) {
	f.lg.Error("the database failed: it is neither read nor written any more", zap.Error(err))
	f.cause.Store(&err)
	close(f.failed)
}

// protect runs read, which reads pages, and turns a panic of bbolt, or a fault in the
// memory that the file is mapped to, into the failure of the database. A panic
// alone is no proof of damage: the file is read to find out.
func (f *fault) protect(what string, read func()) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		cause := recover()
		if cause == nil {
			return
		}
		err := fmt.Errorf("%s: %v", what, cause)
		if !f.suspend(err) {
			return
		}
		if damage := verifyStopped(f.file); damage != nil {
			err = fmt.Errorf("%w (%w)", damage, err)
		}
		f.settle(err)
	}()
	read()
}
