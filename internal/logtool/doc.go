// Package logtool reads, verifies and converts the log of a member that does not
// run. It knows both formats, native and etcd's, and tells them apart by the
// names of their files.
//
// Find says which log a directory holds. Read and Verify change nothing. Convert
// moves a member to the other format: the old log counts until the new one is
// whole and has been compared with it, so that whatever interrupts it leaves a
// member that starts.
package logtool
