package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Two members come back at each other's addresses: they are found, the others' records
// are corrected, and no human has to say anything.
func TestSwappedAddresses(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	c := client(t, nil, cl.endpoints...)
	cl.put(c, "before")
	for _, i := range []int{1, 2} {
		cl.processes[i].kill()
	}
	at := func(i int) *string {
		args := cl.args[i]
		return &args[slices.Index(args, "--peer-addr")+1]
	}
	a, b := at(1), at(2)
	*a, *b = *b, *a
	for _, i := range []int{1, 2} {
		cl.start(i)
	}
	cl.put(c, "after")
	until(t, func(ctx context.Context) error {
		list, err := c.MemberList(ctx)
		if err != nil {
			return err
		}
		for _, m := range list.Members {
			for i, address := range map[int]string{1: *a, 2: *b} {
				if m.Name == memberName(i) && !slices.Equal(m.PeerURLs, []string{"http://" + address}) {
					return fmt.Errorf("%s is at %s, and its record says %v", m.Name, address, m.PeerURLs)
				}
			}
		}
		return nil
	})
	for _, i := range []int{1, 2} {
		cl.processes[i].waitReady()
		if v := get(t, client(t, nil, cl.endpoints[i]), "k"); v != "after" {
			t.Errorf("%s reads %q; want after", memberName(i), v)
		}
	}
}

// A member that is removed ends by itself, and when it is started again with its old
// data it is refused by name.
func TestRemovedMemberEnds(t *testing.T) {
	t.Parallel()
	cl := startCluster(t)
	c := client(t, nil, cl.endpoints[:2]...)
	cl.put(c, "before")
	if _, err := c.MemberRemove(t.Context(), cl.id(0, memberName(2))); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if status := cl.processes[2].waitEnd(); status != exitFailure {
			t.Errorf("the removed member ends with status %d; want %d", status, exitFailure)
		}
		if text := cl.processes[2].text(); !strings.Contains(text, "was removed from its cluster") {
			t.Errorf("it does not say why it ends:\n%s", text)
		}
		cl.start(2)
	}
	cl.put(c, "after")
}
