package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A transaction of some bytes that asks for everything 127 times over ends no member,
// neither when it comes nor when it is read back from the log.
func TestPoisonEndsNobody(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	c := client(t, nil, cl.endpoints...)
	for i := range 10 {
		if _, err := c.Put(t.Context(), fmt.Sprint("big", i), strings.Repeat("v", 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	r := &pb.TxnRequest{}
	add := func(op *pb.RequestOp) { r.Success = append(r.Success, op) }
	add(&pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("poison")}}})
	for range 127 {
		all := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
		add(&pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: all}})
	}
	for _, endpoint := range cl.endpoints {
		member := client(t, nil, endpoint)
		get(t, member, "a") // it has what came before
		_, err := pb.NewKVClient(member.ActiveConnection()).Txn(t.Context(), r)
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), rpctypes.ErrorDesc(rpctypes.ErrGRPCRequestTooLarge)) {
			t.Errorf("the transaction at %s: %v; want %v", endpoint, err, rpctypes.ErrGRPCRequestTooLarge)
		}
	}
	expectMemory(t, cl)
	cl.killAll() // and start them again
	if v := get(t, c, "poison"); v != "" {
		t.Errorf("the refused transaction wrote %q", v)
	}
	if _, err := c.Put(t.Context(), "after", "1"); err != nil {
		t.Error(err)
	}
	expectMemory(t, cl)
}

// expectMemory expects that no member ever had more memory than a few of the largest
// transactions need. Without a bound each one had 1.3 GB in ranges alone.
func expectMemory(t *testing.T, cl *cluster) {
	t.Helper()
	for i, p := range cl.processes {
		peak := peakMemory(t, p.cmd.Process.Pid)
		t.Logf("member %d had %d MiB in memory", i, peak>>20)
		if peak > 250<<20 {
			t.Errorf("member %d had %d MiB in memory", i, peak>>20)
		}
	}
}

// peakMemory is the most that a process ever had in memory, in bytes.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skip("this system does not say how much memory a process has")
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	kilobytes, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kilobytes << 10
}

// A member whose others do not answer tells its client to try another one, long before
// the client would give up.
func TestCutOffMemberAnswers(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, "--request-timeout", "1s")
	member := client(t, nil, cl.endpoints[0])
	get(t, member, "a")
	for _, p := range cl.processes[1:] {
		pid := p.cmd.Process.Pid
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	begin := time.Now()
	kv := pb.NewKVClient(member.ActiveConnection())
	_, putErr := kv.Put(ctx, &pb.PutRequest{Key: []byte("a")})
	_, getErr := kv.Range(ctx, &pb.RangeRequest{Key: []byte("a")})
	for _, err := range []error{putErr, getErr} {
		if !errors.Is(err, rpctypes.ErrGRPCTimeout) {
			t.Errorf("%v; want %v", err, rpctypes.ErrGRPCTimeout)
		}
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("two calls took %v; each one may take 1s", took)
	}
	if _, err := member.Status(ctx, cl.endpoints[0]); err != nil {
		t.Errorf("status: %v", err)
	}
	if _, err := member.Get(ctx, "a", clientv3.WithSerializable()); err != nil {
		t.Errorf("a stale read: %v", err)
	}
}
